"""A run from its command to its end: local files copied, planned, dispatched, watched, its output downloaded."""

import os
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress
from rich.text import Text

from sparklet.app.costs import Prices
from sparklet.app.local_files import LocalPaths, check_output, fill, give_up_output, refuse_remote_only, upload
from sparklet.app.stack import Environment
from sparklet.app.state_machines import MachineWatch, chosen_mode, drive
from sparklet.app.status import follow_up_text, follow_ups, look, show_summary
from sparklet.cli.console import Screen, count_text, duration_text, exit_code, size_text
from sparklet.cli.options import WantedMode
from sparklet.errors import CheckpointConflictError, LocalStackError, PlanError, SparkletError
from sparklet.inputs.listed_once import listing_once
from sparklet.inputs.local_files import local_files
from sparklet.job.catalogs import VARIABLES, catalog_properties
from sparklet.model import Counts, Run, ShardState
from sparklet.planning.new_run import new_run, run_id_of
from sparklet.planning.packing import within_limit
from sparklet.planning.planner import PlanProgress, plan
from sparklet.planning.request import RunRequest
from sparklet.ports import Clock
from sparklet.runs.checker import check
from sparklet.runs.summary import Summary, summarize

PLAIN_EVERY_S = 5.0  # lines, where the output is no terminal
WINDOW_S = 60.0  # the estimated end follows from the last minute
POLL_S = 1.0
SHARDS_A_SECOND = 10_000  # open shards that lengthen the polling interval by a second: a check reads them all
MAX_POLL_S = 15.0
DETAILS_EVERY_S = 20.0  # at least; they need a whole pass over the ledger, which may take a twentieth of the time
LOOK_AT_TABLE_S = 20.0
REFUSAL = "import sys; from sparklet.tables.commit import refusal; print(refusal(*sys.argv[1:]), end='')"
LEDGER_PATIENCE_S = 60.0  # a watch tolerates a ledger or queue that does not respond for this long


def begin(
    env: Environment, request: RunRequest, dispatch_mode: WantedMode, screen: Screen, words: Sequence[str] = ()
) -> Run:
    """Start a run whose shards fit the stack's workers: copy local files, enter it, plan and dispatch it.

    In a mode with a state machine that one plans and dispatches the run; with ``auto`` the run is planned first. The
    inputs are listed once. ``words`` are the command's arguments; without them an interrupted start names no command
    that continues it.
    """
    request = request.fitted(env.size.memory_mb, env.size.scratch_bytes)
    with listing_once(env.at) as at:
        env = replace(env, at=at)
        by_machine = dispatch_mode != "queue"
        if by_machine:
            request = replace(request, dispatch=chosen_mode(env, request, dispatch_mode, screen).dispatch)
        request = replace(request, run_id=run_id_of(request, env.at.clock.now_s()), idempotency_key="")
        with resumable(env, screen, lambda: again(words, request.run_id)):
            if env.local:
                request = _with_local_files(env, request, screen)
            else:
                table = request.table.partition("file://")[2]
                refuse_remote_only((*request.inputs, *request.files.values(), table), request.output_uri)
            if request.table:
                _refuse_table(env, request)
            known = env.at.known_run(request.run_id)
            run = new_run(env.at, request)
        if not by_machine and known:
            screen.say(f"run {run.run_id} exists already, {run.state}; this is the same run")
        return go_on(env, run, screen, by_machine=by_machine, here=dispatch_mode == "auto")


def go_on(env: Environment, run: Run, screen: Screen, *, by_machine: bool, here: bool = False) -> Run:
    """Plan the rest of an entered run, or start its state machine if it does not run; with ``here`` do both."""
    with resumable(env, screen, lambda: ["sparklet", "resume", run.run_id, *env.command_options]):
        if here or not by_machine:
            run = _planned(env, run, screen)
        if by_machine:
            drive(env, run, screen)
        return run


def again(words: Sequence[str], run_id: str) -> list[str]:
    """The command that starts the same run again, while the ledger does not know the run."""
    if any(word.partition("=")[0] in ("--run-id", "--idempotency-key") for word in words):
        return ["sparklet", *words]
    return [] if not words else ["sparklet", *words[:1], "--run-id", run_id, *words[1:]]


@contextmanager
def resumable(env: Environment, screen: Screen, command: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Print ``command``, which continues the run, after an interruption, the end of the stack or a transient error."""
    try:
        try:
            yield
        except SparkletError:
            env.check()  # if the local stack has ended, that is the cause
            raise
    except (KeyboardInterrupt, SparkletError) as error:
        if (isinstance(error, KeyboardInterrupt | LocalStackError) or error.retryable) and (words := command()):
            screen.warn(f"interrupted, and nothing is lost; this continues the run:\n  {shlex.join(words)}")
        raise


def _refuse_table(env: Environment, request: RunRequest) -> None:
    """PlanError if no commit can write to the run's table. Where this machine cannot tell, the first script will.

    In a process of its own: the tables' libraries may be missing here, are slow to import, and wait long for networks.
    """
    format_, _, place = request.table.partition(":")
    environ, warehouse = {**os.environ, **request.env}, str(request.params.get("warehouse") or "")
    uri = place if format_ == "delta" else catalog_properties(environ, warehouse).get("uri", "s3://")
    is_here = Path(uri.removeprefix("file://").removeprefix("sqlite:///")).exists()  # what is in S3 needs the stand-in
    if format_ not in ("delta", "iceberg") or (env.local and not is_here):
        return
    words = [sys.executable, "-c", REFUSAL, request.table, warehouse]
    with suppress(subprocess.TimeoutExpired):
        told = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=LOOK_AT_TABLE_S, check=False)
        if told.stdout:
            raise PlanError(told.stdout)


def _with_local_files(env: Environment, request: RunRequest, screen: Screen) -> RunRequest:
    """Copy a request's local files to the bucket; the request with their addresses, its output in the bucket."""
    is_local = request.output_uri and "://" not in request.output_uri
    paths = _output_paths(env, request) if is_local else LocalPaths()
    inputs: list[str] = []
    for index, given in enumerate(request.inputs):
        inputs.append(given if "://" in given else _upload_input(env, request, index, Path(given), screen))
        if "://" not in given:
            paths = replace(paths, inputs={**paths.inputs, inputs[-1]: str(Path(given).resolve())})
    paths.save(env.paths_dir, request.run_id)
    files = {}
    for name, given in request.files.items():
        path = Path(given)
        if not path.is_file():
            raise PlanError(f"--file {name}={given}: there is no such file (you are in {Path.cwd()})")
        files[name] = f"s3://{env.at.bucket}/input/{request.run_id}/files/{name}/{path.name}"
        screen.say(f"copying {path} to the bucket")
        env.at.store.upload(path, files[name])
    output_uri = f"s3://{env.at.bucket}/output/{request.run_id}/" if paths.output else request.output_uri
    if paths.output and request.table.startswith("iceberg:"):
        request = replace(request, env={**_catalog(Path(paths.output), request), **request.env})
    return replace(request, inputs=tuple(inputs), output_uri=output_uri, params={**request.params, **files})


def _catalog(output: Path, request: RunRequest) -> Mapping[str, str]:
    """A catalog of Iceberg's below a local output, in SQLite; nothing if one is configured.

    The warehouse is a ``file://`` folder, since Iceberg's metadata holds absolute addresses.
    """
    if {"type", "uri"} & catalog_properties({**os.environ, **request.env}, request.params.get("warehouse")).keys():
        return {}
    output.mkdir(parents=True, exist_ok=True)
    return {
        f"{VARIABLES}TYPE": "sql",
        f"{VARIABLES}URI": f"sqlite:///{output / 'catalog.sqlite'}",
        f"{VARIABLES}WAREHOUSE": f"file://{output}/warehouse",
    }


def _output_paths(env: Environment, request: RunRequest) -> LocalPaths:
    """The local output and what is replaced there; a run that is started again keeps its own."""
    output, existing = str(Path(request.output_uri).resolve()), request.options.existing
    known = env.local_paths(request.run_id)
    if known.output == output:
        return known
    paths = LocalPaths(output=output, replaces=check_output(Path(output), existing))
    if existing == "overwrite":
        give_up_output(env.paths_dir, output)
    return paths


def _upload_input(env: Environment, request: RunRequest, index: int, path: Path, screen: Screen) -> str:
    """Copy one local input; the S3 folder or object of the copy."""
    base = f"s3://{env.at.bucket}/input/{request.run_id}/{index}/"
    screen.say(f"copying {path} to the bucket")
    since_s = request.options.modified_since_s

    def files() -> Iterator[tuple[Path, str]]:
        found = local_files(path, request.options.include, request.options.exclude)
        return ((file, base + key) for file, key in found if not since_s or file.stat().st_mtime >= since_s)

    deque(within_limit(files(), request.options.limit, str(path)), maxlen=0)  # before anything is copied
    if upload(env.at.store, files(), screen.say) == 0:
        raise PlanError(f"the input {path} holds no file to plan; check the folder, --include, --exclude and --since")
    return base if path.is_dir() else base + path.name


def _planned(env: Environment, run: Run, screen: Screen) -> Run:
    screen.say(f"run {run.run_id}: planning")

    def show(progress: PlanProgress) -> None:
        skipped = "".join(f", {count} {reason} left out" for reason, count in sorted(progress.skipped.items()))
        planned = f"{count_text(progress.shards, 'shard')} of {count_text(progress.objects, 'object')}"
        text = f"  {planned}, {size_text(progress.size_bytes)}{skipped}"
        screen.say(f"{text}, all sent" if progress.sealed else text)
        if progress.sealed and progress.whole:
            reasons = ", ".join(f"{count} ({reason})" for reason, count in sorted(progress.whole.items()))
            screen.warn(f"large objects that could not be sliced and are planned whole: {reasons}")

    try:
        return plan(env.at, run.run_id, show)
    except CheckpointConflictError:
        run = env.at.ledger.runs.get(run.run_id)
        if run.cancelled_s is None:
            raise
        screen.warn(f"run {run.run_id} was cancelled during planning")
        return run


def watch(env: Environment, run_id: str, screen: Screen, prices: Prices) -> Summary:
    """Check and show a run until it has ended, then fill its local output; its summary."""
    silent_since_s: float | None = None
    machine = MachineWatch(env)
    with RunDisplay(screen, run_id, env.at.clock, lambda run: look(env, run, prices).details()) as display:
        while True:
            try:
                report = check(env.at, run_id)
                display.show(report.run, report.counts)
                silent_since_s = None
            except SparkletError as error:
                env.check()
                now_s = env.at.clock.now_s()
                silent_since_s = silent_since_s or now_s
                if not error.retryable or now_s - silent_since_s > LEDGER_PATIENCE_S:
                    raise
                env.at.clock.sleep(POLL_S)
                continue
            if report.lapsed:
                lost = count_text(report.lapsed, "worker")
                display.warn(f"{lost} lost: their shards are retried (since when: sparklet status {run_id})")
            for text in machine.reports(report.run):
                display.warn(text)
            if report.run.state.ended:
                break
            env.at.clock.sleep(poll_s(report.counts))
    summary = report.summary or summarize(report.run, env.at.ledger.shards)
    fill_output(env, report.run, screen)
    return summary


def finish(env: Environment, run_id: str, screen: Screen, prices: Prices) -> None:
    """Watch a run until it ends, show its result and its follow-ups, and exit with its code."""
    with resumable(env, screen, lambda: ["sparklet", "resume", run_id, *env.command_options]):
        summary = watch(env, run_id, screen, prices)
    run = env.at.ledger.runs.get(run_id)
    show_summary(env, screen, run, summary)
    for follower in follow_ups(env, run):
        screen.say(f"{follower['what']}: {follow_up_text(follower)}")
    raise typer.Exit(exit_code(summary.state))


def poll_s(counts: Counts) -> float:
    """The polling interval; a check costs in proportion to the open shards."""
    return min(MAX_POLL_S, POLL_S + counts.open / SHARDS_A_SECOND)


def fill_output(env: Environment, run: Run, screen: Screen) -> None:
    """Download the output of succeeded shards to the run's local output folder, if it has one."""
    paths = env.local_paths(run.run_id)
    if paths.output:
        screen.say(f"filling {paths.output}")
        succeeded = {record.number for record in env.at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED)}
        fill(env.at.store, run, paths, succeeded, screen.say)


class RunDisplay:
    """Shows a run's progress: live on a terminal, there with ``details`` now and then; elsewhere in plain lines."""

    def __init__(
        self, screen: Screen, run_id: str, clock: Clock, details: Callable[[Run], RenderableType] = lambda run: ""
    ) -> None:
        self._screen, self._run_id, self._clock = screen, run_id, clock
        self._find_details = details
        self._details: RenderableType = ""
        self._details_s = clock.now_s() + DETAILS_EVERY_S / 2  # when they are looked for next
        self._live = Live(console=screen.side, refresh_per_second=4) if screen.side.is_terminal else None
        columns = BarColumn(40), MofNCompleteColumn()
        self._bar = Progress(*columns, console=screen.side, get_time=clock.now_s, speed_estimate_period=WINDOW_S)
        self._bar.add_task("", total=None)
        (self._task,) = self._bar.tasks
        self._line_s = float("-inf")  # when the last line was printed
        self._last_line = ""

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, run: Run, counts: Counts) -> None:
        """Show the state as it is now."""
        ended = counts.succeeded + counts.failed
        self._bar.update(self._task.id, completed=ended, total=run.shard_count or max(1, counts.total))
        if self._live:
            self._refresh(run)
            self._live.update(self._picture(run, counts))
            return
        line, now_s = self._line(run, counts), self._clock.now_s()
        if line != self._last_line and (now_s - self._line_s >= PLAIN_EVERY_S or (run.sealed and counts.open == 0)):
            self._screen.say(f"{line} · {self._estimate(counts)}")
            self._last_line, self._line_s = line, now_s

    def _refresh(self, run: Run) -> None:
        """Look for the details, unless it is too soon: that takes a whole pass over the ledger."""
        began_s = self._clock.now_s()
        if began_s >= self._details_s and not run.state.ended:
            self._details = self._find_details(run)
            ended_s = self._clock.now_s()
            self._details_s = ended_s + max(DETAILS_EVERY_S, 20 * (ended_s - began_s))

    def warn(self, text: str) -> None:
        """A warning, on a terminal above the display."""
        if self._live:
            self._live.console.print(f"[yellow]warning:[/yellow] {escape(text)}")
        else:
            self._screen.warn(text)

    def _line(self, run: Run, counts: Counts) -> str:
        total = run.shard_count if run.shard_count is not None else f"{counts.total}+"
        states = (
            f"{counts.succeeded} succeeded, {counts.running} running, {counts.pending} pending, {counts.failed} failed"
        )
        return ", ".join(filter(None, (f"{self._run_id}: {states} of {total} shards", _stage(run))))

    def _estimate(self, counts: Counts) -> str:
        """The pace and the estimated end by the last minute, and the time since the display began."""
        per_s = self._task.speed or 0.0
        rate = f"{per_s * 60:.0f} shards/min · " if per_s else ""
        end = f"about {duration_text(counts.open / per_s)} left · " if per_s and counts.open else ""
        return f"{rate}{end}{duration_text(self._task.elapsed or 0.0)}"

    def _picture(self, run: Run, counts: Counts) -> Group:
        details = [Text(""), self._details] if self._details and counts.open else []
        estimate = Text(self._estimate(counts), style="dim")
        return Group(Text(self._line(run, counts), style="bold"), self._bar, estimate, *details)


def _stage(run: Run) -> str:
    """Whether the run is being planned or cancelled."""
    if run.cancelled_s is not None and not run.state.ended:
        return "being cancelled …"
    return "" if run.sealed else "planning …"
