"""Commands that begin something: run, plan, invoke."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from sparklet.cli import doctor as doctoring
from sparklet.cli import options as opt
from sparklet.cli import planning_options as planning
from sparklet.cli.console import Screen
from sparklet.cli.environment import DEFAULT_MEMORY_MB, environment
from sparklet.cli.invoke import invoke_script
from sparklet.cli.render import preview_document, preview_table, run_document
from sparklet.cli.runs import refuse_local_increments, start
from sparklet.cli.showing import finish
from sparklet.errors import NothingNewError, PlanError
from sparklet.fanout.fitting import default_max_shard_bytes, refuse_wide_slices
from sparklet.fanout.inventory.digests import Digests
from sparklet.fanout.inventory.earlier import done_before
from sparklet.fanout.new_run import RunRequest
from sparklet.fanout.preview import preview
from sparklet.ports import ObjectStore

RUN = "The run"
UNLIMITED_BYTES = 1 << 62  # of scratch, where no worker is asked
NO_OUTPUT = "--output is missing; name where the run writes, or add --dry-run"


@dataclass(frozen=True)
class RunIdentity:
    """What a run is and where it writes."""

    PANEL: ClassVar[str] = RUN

    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="s3:// folder or local folder; each shard writes below shard=N. Needed unless --dry-run.",
        ),
    ] = ""
    name: Annotated[
        str,
        typer.Option(
            "--name", help="The run's id begins with it; runs of one name belong together (default: the script's name)."
        ),
    ] = ""
    run_id: Annotated[
        str, typer.Option("--run-id", metavar="ID", help="The whole run id; the same command again continues that run.")
    ] = ""
    params: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="KEY=VALUE", help="For the script (job.params); may be repeated."),
    ] = None
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            metavar="KEY=PATH",
            help="A local file that every shard needs; the parameter of that key is its address.",
        ),
    ] = None
    py_files: Annotated[
        list[str] | None,
        typer.Option("--py-files", metavar="FILE", help=".py, .zip, .whl or .egg for the script; may be repeated."),
    ] = None


def run(
    script: opt.Script,
    identity: RunIdentity,
    given: planning.InputOptions,
    shards: planning.ShardOptions,
    ends: planning.EndOptions,
    workers: opt.LocalWorkers,
    where: opt.Where,
    arguments: opt.Arguments = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier run wrote to a local --output.")
    ] = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Plan a run, dispatch it, watch it to its end and bring its output home.

    Local inputs are put into the bucket first; a local --output is filled at the end.
    """
    screen = where.screen()
    asked = _Asked(script, identity, given, shards, ends, tuple(arguments or ()))
    if dry_run:
        asked.show_preview(where, screen)
        return
    _refuse_without_output(identity)
    request, files = asked.request(), opt.parse_pairs("--file", identity.files)
    with environment(workers.choice(where), screen) as env:
        request = asked.fitted(request, env.size.memory_mb, env.size.scratch_bytes)
        with nothing_new_is_well(screen):
            started = start(env, request, screen, files=files, overwrite=overwrite)
            finish(env, started.run_id, screen)


def plan(
    script: opt.Script,
    identity: RunIdentity,
    given: planning.InputOptions,
    shards: planning.ShardOptions,
    ends: planning.EndOptions,
    where: opt.Where,
    arguments: opt.Arguments = None,
    dry_run: opt.DryRun = False,
) -> None:
    """Plan and dispatch a run without waiting for it; with --dry-run only say what the plan would be."""
    screen = where.screen()
    asked = _Asked(script, identity, given, shards, ends, tuple(arguments or ()))
    if dry_run:
        asked.show_preview(where, screen)
        return
    _refuse_without_output(identity)
    request, files = asked.request(), opt.parse_pairs("--file", identity.files)
    with environment(where.choice(keep=True), screen) as env:
        request = asked.fitted(request, env.size.memory_mb, env.size.scratch_bytes)
        with nothing_new_is_well(screen):
            planned = start(env, request, screen, files=files)
            screen.say(f"the run goes on by itself; sparklet watch {planned.run_id} shows it")
            if where.as_json:
                screen.document(run_document(planned))


def invoke(
    script: opt.Script,
    event: Annotated[
        Path,
        typer.Option("--event", help="File with the event as JSON.", exists=True, dir_okay=False, show_default=False),
    ],
    workers: opt.LocalWorkers,
    where: opt.Where,
    arguments: opt.Arguments = None,
) -> None:
    """Run a script once on one event, in a worker, and show its answer as JSON."""
    screen = Screen(as_json=True)  # the answer is
    try:
        document: Any = json.loads(event.read_text())
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{event} is not JSON: {error}") from error
    with environment(workers.choice(where, workers=1), screen) as env:
        screen.document(invoke_script(env, script, document, tuple(arguments or ())))


@dataclass(frozen=True)
class _Asked:
    """What ``run`` and ``plan`` were asked for."""

    script: str
    identity: RunIdentity
    given: planning.InputOptions
    shards: planning.ShardOptions
    ends: planning.EndOptions
    arguments: tuple[str, ...]

    def request(self) -> RunRequest:
        """The request, before anything is started: what is wrong with it is told at once."""
        return RunRequest(
            script=self.script,
            inputs=self.given.named(),
            output_uri=self.identity.output,
            run_id=self.identity.run_id,
            name=self.identity.name,
            py_files=tuple(self.identity.py_files or ()),
            args=self.arguments,
            params=opt.parse_pairs("--param", self.identity.params),
            options=planning.run_options(self.given, self.shards, self.ends),
            lists=self.given.list_requests(),
            access=self.given.access(),
        )

    def fitted(self, request: RunRequest, memory_mb: int, scratch_bytes: int) -> RunRequest:
        """The request with the largest shard that such a worker takes on, unless the user names a size."""
        options = request.options
        if not self.shards.max_shard_size:
            options = replace(options, max_shard_bytes=default_max_shard_bytes(memory_mb, scratch_bytes))
        refuse_wide_slices(options, scratch_bytes)
        return replace(request, options=options)

    def show_preview(self, where: opt.Where, screen: Screen) -> None:
        """Say what the plan would be; nothing is written, and where all is local nothing is started."""
        request = self.request()
        refuse_local_increments(request.options.incremental, request.inputs)
        if not request.lists and all("://" not in each for each in request.inputs):
            fitted = self.fitted(request, DEFAULT_MEMORY_MB, UNLIMITED_BYTES)
            self._show(screen, fitted, doctoring.no_store(), None)
            return
        with environment(where.choice(reading=True), screen) as env:
            fitted = self.fitted(request, env.size.memory_mb, env.size.scratch_bytes)
            done = partial(done_before, env.at, request.run_name) if request.options.incremental else None
            self._show(screen, fitted, env.at.inputs(request.access), done)

    def _show(
        self, screen: Screen, request: RunRequest, store: ObjectStore, done: Callable[[], Digests] | None
    ) -> None:
        with nothing_new_is_well(screen):
            found = preview(request.options, request.inputs, store, request.lists, done)
            if screen.as_json:
                screen.document(preview_document(found))
            else:
                screen.out.print(preview_table(found))


@contextmanager
def nothing_new_is_well(screen: Screen) -> Iterator[None]:
    """An incremental run that finds nothing new ends well, so that it can be started by a schedule."""
    try:
        yield
    except NothingNewError as reason:
        screen.say(str(reason))
        if screen.as_json:
            screen.document({"run_id": None, "state": "NOTHING_NEW", "reason": str(reason)})


def _refuse_without_output(identity: RunIdentity) -> None:
    if not identity.output:
        raise PlanError(NO_OUTPUT)
