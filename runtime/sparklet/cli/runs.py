"""A run from the command line: upload, plan, watch, finish, download."""

import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from sparklet.cli.console import Screen
from sparklet.cli.environment import Environment
from sparklet.cli.machines import MachineWatch, dispatch_of, drive, driver_of, machine_of, was_driven
from sparklet.cli.operating import look, view_details
from sparklet.cli.progress import RunDisplay
from sparklet.cli.resuming import again, resume_command, told_how_to_resume
from sparklet.cli.sizes import count_text, size_text
from sparklet.cli.transfer import (
    LocalPaths,
    changed,
    check_output,
    fill,
    give_up_output,
    local_part,
    refuse_remote_only,
    upload,
)
from sparklet.errors import CheckpointConflictError, PlanError, SparkletError
from sparklet.fanout.checking.checker import CheckReport, check
from sparklet.fanout.checking.redrive import redrive
from sparklet.fanout.choosing.prices import Prices
from sparklet.fanout.choosing.ways import Way
from sparklet.fanout.plan_parts import planned_shard
from sparklet.fanout.planning.local_files import local_files
from sparklet.fanout.planning.new_run import RunRequest, keyed_run_id, new_run, run_id_for
from sparklet.fanout.planning.planner import PlanProgress, plan
from sparklet.fanout.planning.scripts import repaired_script
from sparklet.fanout.reporting.summary import Summary, summarize
from sparklet.model import Counts, Run, ShardState

POLL_S = 1.0
SLOWER_BY = 10_000  # open shards: so many more, and the ledger is asked a second later, since it reads them all
SLOWEST_POLL_S = 15.0
DETAILS_EVERY_S = 20.0  # the whole pass that details need; and no more often than takes a twentieth of the time
LEDGER_PATIENCE_S = 60.0  # so long a watch puts up with a ledger or queue that does not answer


def start(
    env: Environment,
    request: RunRequest,
    screen: Screen,
    *,
    way: Way | None = None,
    here: bool = False,
    files: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
) -> Run:
    """Put local inputs into the bucket, enter the run, plan and dispatch it; the sealed run.

    ``files`` are local files that every shard needs: each is put into the bucket too, and its URI becomes the
    parameter it is named by. With a ``way`` a state machine is started, which plans and dispatches the run; the run is
    planned ``here`` before where the input was listed to choose the way. ``words`` are those of the command.
    """
    if way is not None:
        machine_of(env, dispatch_of(way))  # a machine that is not there is told before anything is put anywhere
        request = replace(request, dispatch=dispatch_of(way))
    request = replace(request, run_id=_run_id(env, request), idempotency_key="")
    asked_s = env.at.clock.now_s()
    with told_how_to_resume(env, screen, again(words, request.run_id)):
        run = _entered(env, request, screen, files or {})
    if way is None and run.created_s < asked_s:
        screen.say(f"run {run.run_id} is there already, {run.state}; this is the same run")
    return go_on(env, run, screen, by_machine=way is not None, here=here)


def go_on(env: Environment, run: Run, screen: Screen, *, by_machine: bool, here: bool = False) -> Run:
    """Plan the rest of a run that the ledger knows, or leave it to its state machine, which is started if need be.

    With ``here`` the run is planned before the machine is started.
    """
    with told_how_to_resume(env, screen, resume_command(env, run.run_id)):
        if here or not by_machine:
            run = _planned(env, run, screen)
        if by_machine:
            drive(env, run, screen)
        return run


def _entered(env: Environment, request: RunRequest, screen: Screen, files: Mapping[str, str]) -> Run:
    """The run, in the ledger; what is local was put into the bucket before. One that was there is the same run."""
    if not env.local:
        refuse_remote_only((*request.inputs, *files.values()), request.output_uri)
        return new_run(env.at, request)
    refuse_local_increments(request.options.incremental, request.inputs)
    run_id = request.run_id
    paths = _output_paths(env, run_id, request)
    output_uri = f"s3://{env.at.bucket}/output/{run_id}/" if paths.output else request.output_uri
    inputs: list[str] = []
    for index, given in enumerate(request.inputs):
        if "://" in given:
            inputs.append(given)
            continue
        uri = _upload_input(env, request, run_id, index, Path(given), screen)
        paths = replace(paths, inputs={**paths.inputs, uri: str(Path(given).resolve())})
        inputs.append(uri)
    paths.save(env.paths_dir, run_id)
    request = replace(request, params={**request.params, **_upload_files(env, run_id, files, screen)})
    return new_run(env.at, replace(request, inputs=tuple(inputs), output_uri=output_uri))


def _run_id(env: Environment, request: RunRequest) -> str:
    """The run's id before it is entered: what is put into the bucket for it lies below."""
    if request.run_id and request.idempotency_key:
        raise PlanError("--run-id and --idempotency-key were given; give one of them: each names one run")
    if request.idempotency_key:
        return keyed_run_id(request.run_name, request.idempotency_key)
    return request.run_id or run_id_for(request.run_name, env.at.clock.now_s())


def refuse_local_increments(incremental: bool, inputs: Collection[str]) -> None:
    """PlanError if what earlier runs have done is to be left out of a local folder: nobody could know it again."""
    local = [given for given in inputs if "://" not in given]
    if incremental and local:
        raise PlanError(
            f"--incremental needs inputs in S3: {local[0]} is put into the bucket anew for each run; "
            "use --since for local files"
        )


def _output_paths(env: Environment, run_id: str, request: RunRequest) -> LocalPaths:
    """The local output and what is replaced there; that of a run which is asked for again stays as it is."""
    if "://" in request.output_uri:
        return LocalPaths()
    output, existing = str(Path(request.output_uri).resolve()), request.options.existing
    known = LocalPaths.load(env.paths_dir, run_id)
    if known.output == output:
        return known
    paths = LocalPaths(output=output, replaces=check_output(Path(output), existing))
    if existing == "overwrite":
        give_up_output(env.paths_dir, output)
    return paths


def _upload_input(env: Environment, request: RunRequest, run_id: str, index: int, path: Path, screen: Screen) -> str:
    """Copy one local input; the S3 folder, or object, that it became."""
    base = f"s3://{env.at.bucket}/input/{run_id}/{index}/"
    screen.say(f"putting {path} into the bucket")
    since_s = request.options.modified_since_s
    found = local_files(path, request.options.include, request.options.exclude)
    files = ((file, base + key) for file, key in found if not since_s or file.stat().st_mtime >= since_s)
    if upload(env.at.store, files, screen.say) == 0:
        raise PlanError(f"the input {path} holds no file to plan; check the folder, --include, --exclude and --since")
    return base if path.is_dir() else base + path.name


def _upload_files(env: Environment, run_id: str, files: Mapping[str, str], screen: Screen) -> dict[str, str]:
    uris = {}
    for name, given in files.items():
        path = Path(given)
        if not path.is_file():
            raise PlanError(f"--file {name}={given}: there is no such file (you are in {Path.cwd()})")
        uris[name] = f"s3://{env.at.bucket}/input/{run_id}/files/{name}/{path.name}"
        screen.say(f"putting {path} into the bucket")
        env.at.store.upload(path, uris[name])
    return uris


def _planned(env: Environment, run: Run, screen: Screen) -> Run:
    screen.say(f"run {run.run_id}: planning")

    def tell(progress: PlanProgress) -> None:
        skipped = "".join(f", {count} {reason} left out" for reason, count in sorted(progress.skipped.items()))
        planned = f"{count_text(progress.shards, 'shard')} of {count_text(progress.objects, 'object')}"
        text = f"  {planned}, {size_text(progress.size_bytes)}{skipped}"
        screen.say(f"{text}, all sent" if progress.sealed else text)
        if progress.sealed and progress.whole:
            reasons = ", ".join(f"{count} ({reason})" for reason, count in sorted(progress.whole.items()))
            screen.warn(f"large objects that could not be cut and are planned whole: {reasons}")

    try:
        return plan(env.at, run.run_id, tell)
    except CheckpointConflictError:
        run = env.at.ledger.runs.get(run.run_id)
        if run.cancelled_s is None:
            raise
        screen.warn(f"run {run.run_id} was cancelled while it was planned")
        return run


def watch(env: Environment, run_id: str, screen: Screen, prices: Prices) -> Summary:
    """Check and show a run until it has ended, then fill its local output; what it has to show."""
    silent_since_s: float | None = None
    machine, details = MachineWatch(env), _Details(env, prices)
    with RunDisplay(screen, run_id) as display:
        while True:
            try:
                report = check(env.at, run_id)
                if display.live:
                    details.refresh(report, display)
                silent_since_s = None
            except SparkletError as error:
                env.check()
                now_s = time.monotonic()
                silent_since_s = silent_since_s or now_s
                if not error.retryable or now_s - silent_since_s > LEDGER_PATIENCE_S:
                    raise
                time.sleep(POLL_S)
                continue
            display.show(report.run, report.counts)
            if report.lapsed:
                lost = count_text(report.lapsed, "worker")
                display.warn(f"{lost} lost: what they did is done again (sparklet status {run_id} says since when)")
            for news in machine.news(report.run):
                display.warn(news)
            if report.run.state.ended:
                break
            time.sleep(poll_s(report.counts))
    summary = report.summary or summarize(report.run, env.at.ledger.shards)
    if env.local:
        fill_output(env, report.run, screen)
    return summary


def poll_s(counts: Counts) -> float:
    """How long to wait before the next look: it costs as much as there are open shards."""
    return min(SLOWEST_POLL_S, POLL_S + counts.open / SLOWER_BY)


class _Details:
    """Below the counts: slow shards, pace, cost. They need a whole pass over the ledger, so they come seldom."""

    def __init__(self, env: Environment, prices: Prices) -> None:
        self._env, self._prices = env, prices
        self._next_s = time.monotonic() + DETAILS_EVERY_S / 2

    def refresh(self, report: CheckReport, display: RunDisplay) -> None:
        began_s = time.monotonic()
        if began_s < self._next_s or report.run.state.ended:
            return
        display.detail(view_details(look(self._env, report.run, self._prices)))
        ended_s = time.monotonic()
        self._next_s = ended_s + max(DETAILS_EVERY_S, 20 * (ended_s - began_s))


def fill_output(env: Environment, run: Run, screen: Screen) -> None:
    """Bring what succeeded shards wrote to the run's local output folder, if it has one."""
    paths = LocalPaths.load(env.paths_dir, run.run_id)
    if paths.output:
        screen.say(f"filling {paths.output}")
        succeeded = {record.number for record in env.at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED)}
        fill(env.at.store, run, paths, succeeded, screen.say)


def redrive_run(env: Environment, run_id: str, shards: tuple[int, ...], script: str, screen: Screen) -> None:
    """Send failed shards again, repaired local inputs put into the bucket first; a run of a machine's gets it anew."""
    run = env.at.ledger.runs.get(run_id)
    driven = was_driven(env, run)
    if driven and not shards and _only_its_machine_is_gone(env, run):
        drive(env, run, screen)
        return
    if driven:
        machine_of(env, run.dispatch)
    if env.local:
        _upload_repaired(env, run, screen)
    ref = repaired_script(env.at, run, script) if script else None
    redriven = redrive(env.at, run_id, shards or None, ref)
    sent = count_text(max(redriven.messages, redriven.shards), "shard")
    screen.say(f"run {run_id}: {sent} sent again, generation {redriven.run.generation}")
    if driven:
        drive(env, redriven.run, screen)
    if redriven.unplanned:
        screen.warn(
            f"{run_id} was cancelled before its plan was done: objects that were never planned stay so; "
            "start another run for them (--incremental leaves out what this one does)"
        )


def _only_its_machine_is_gone(env: Environment, run: Run) -> bool:
    """Whether the run is open and none of its shards has failed, but nobody drives it any more."""
    if run.state.ended or run.cancelled_s is not None:
        return False
    driver = driver_of(env, run)
    if driver is None or driver.status.state.ended:
        return next(env.at.ledger.shards.list(run.run_id, ShardState.FAILED), None) is None
    return False


def _upload_repaired(env: Environment, run: Run, screen: Screen) -> None:
    """Put those inputs of failed shards again that were repaired locally since."""
    inputs = LocalPaths.load(env.paths_dir, run.run_id).inputs
    if not inputs:
        return
    repaired = changed(env.at.store, _failed_inputs(env, run, inputs))
    if repaired:
        screen.say(f"putting {len(repaired)} repaired files into the bucket")
        upload(env.at.store, repaired, screen.say)


def _failed_inputs(env: Environment, run: Run, inputs: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    for record in env.at.ledger.shards.list(run.run_id, ShardState.FAILED):
        for each in planned_shard(env.at, record).objects:
            path = local_part(each.uri, inputs)
            if path is not None and path.is_file() and os.access(path, os.R_OK):
                yield path, each.uri


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: in order, with exit code 130."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
