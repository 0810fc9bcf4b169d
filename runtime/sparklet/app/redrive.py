"""The redrive of failed shards, and of others by their inputs, if need be on workers of another size."""

import math
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparklet.app.costs import Load, Prices, work_costs
from sparklet.app.local_files import changed, local_inputs, local_part, stored_uri, upload
from sparklet.app.reporter import Reporter, count_text
from sparklet.app.stack import OpenStack, StackSelection
from sparklet.app.state_machines import drive, driver_of, machine_of, was_driven
from sparklet.errors import PlanError
from sparklet.model import SCHEME, InputObject, Run, ShardRecord, ShardState
from sparklet.model.options import LARGE_MB
from sparklet.model.quantities import parse_time_s
from sparklet.planning.inputs.partitions import columns_of
from sparklet.planning.new_run import repaired_script
from sparklet.planning.plan_files import planned_shard, shards_of
from sparklet.ports.deployment import Deployment
from sparklet.runs.phases import failed_end, refuse_same_commit
from sparklet.runs.redrive import Again, failed_with, redrivable
from sparklet.runs.redrive import redrive as redrive_shards

DAY_S = 24 * 3600.0
TIMEOUTS_S = (60, 120, 180, 300, 600, 900)  # that the template's queue has a visibility for


@dataclass(frozen=True)
class Selection:
    """The part of a run to redrive: by default everything that has failed."""

    shards: tuple[int, ...] = ()
    cause: str = ""
    objects: tuple[str, ...] = ()  # addresses or local files; a folder ends in /
    first: str = ""  # partition or time, see ``_range``
    last: str = ""
    everything: bool = False  # also what has succeeded


def selected(stack: OpenStack, run_id: str, which: Selection) -> tuple[int, ...]:
    """The shards that are selected; empty: all failed ones, or the check or commit that failed.

    PlanError if there are none, SettingsError if the range is not valid.
    """
    by_inputs = which.objects or which.first or which.last
    if which.everything and (which.shards or which.cause or by_inputs):
        raise PlanError("--all is all shards; leave it away, or what selects some of them")
    if not (by_inputs or which.everything):
        return _by_cause(stack.deployment, run_id, which.shards, which.cause)
    if which.cause:
        raise PlanError("--cause selects failed shards; --object, --from and --to select shards by their inputs")
    if which.everything:
        candidates = {
            record.number
            for record in stack.deployment.ledger.shards.list(run_id)
            if record.state is not ShardState.SPLIT
        }
    else:
        candidates = _by_inputs(stack, run_id, which)
    if not (numbers := candidates.intersection(which.shards) if which.shards else candidates):
        raise PlanError(f"no shard of {run_id} has such an input; sparklet status {run_id} --object URI finds one")
    return tuple(sorted(numbers))


def _by_inputs(stack: OpenStack, run_id: str, which: Selection) -> set[int]:
    deployment, copied = stack.deployment, local_inputs(stack, run_id)
    uris = tuple(name if name.startswith(SCHEME) else _stored(name, copied) for name in which.objects)
    fits = _range(which.first, which.last)
    numbers = {
        shard.number
        for part in deployment.ledger.runs.parts(run_id)
        for shard in shards_of(deployment, run_id, part)
        if any((not uris or _is_named(item, uris)) and fits(item) for item in shard.objects)
    }
    return {number for number in numbers if deployment.ledger.shards.get(run_id, number).state is not ShardState.SPLIT}


def _stored(path: str, copied: Mapping[str, str]) -> str:
    """The address to which a local input was copied; PlanError if it is not an input of the run."""
    uri = stored_uri(Path(path), copied)
    if not uri:
        raise PlanError(f"{path} is not an input of this run, whose inputs are {', '.join(copied.values()) or 'in S3'}")
    return f"{uri}/" if path.endswith("/") and not uri.endswith("/") else uri


def _is_named(item: InputObject, uris: Sequence[str]) -> bool:
    return any(uri in (item.uri, item.object_uri) or (uri.endswith("/") and item.uri.startswith(uri)) for uri in uris)


def _range(first: str, last: str) -> Callable[[InputObject], bool]:
    """Whether an input lies between two partitions, such as ``year=2026/month=1``, or two times, both included.

    A day as the last time is the whole day.
    """
    if not (first or last):
        return lambda _: True
    if "=" in (first or last):
        names, low = _partition(first)
        others, high = _partition(last)
        if first and last and names != others:
            raise PlanError(f"--from {first} and --to {last} name different partitions")
        names = names or others

        def lies_between(item: InputObject) -> bool:
            columns = dict(columns_of(item.uri)[1])
            partition = [_in_order(columns[name]) for name in names if name in columns]
            return len(partition) == len(names) and (not first or partition >= low) and (not last or partition <= high)

        return lies_between
    low_s = parse_time_s(first) if first else 0.0
    high_s = parse_time_s(last) if last else math.inf
    if re.fullmatch(r"[\d-]+", last):  # a day means its end, else a range of one day would be empty
        high_s = math.nextafter(high_s + DAY_S, 0.0)
    return lambda item: bool(item.modified_s) and low_s <= item.modified_s <= high_s


def _partition(text: str) -> tuple[list[str], list[tuple[float, str]]]:
    """The columns of a partition, and their values in their order."""
    columns = columns_of(f"{text.strip('/')}/")[1]
    return [name for name, _ in columns], [_in_order(value) for _, value in columns]


def _in_order(value: str) -> tuple[float, str]:
    """A value of a partition: numbers by their size, before texts."""
    return (float(value), "") if re.fullmatch(r"-?\d+(\.\d+)?", value) else (float("inf"), value)


def preview(stack: OpenStack, run_id: str, shards: tuple[int, ...], prices: Prices) -> dict[str, Any]:
    """A preview of a redrive: its files, bytes, and the cost if these shards take as long as before."""
    deployment, (run, _) = stack.deployment, redrivable(stack.deployment, run_id, shards or None)
    records = list(_records(deployment, run_id, shards))
    files, size_bytes = (sum(getattr(record, name) for record in records) for name in ("object_count", "size_bytes"))
    load = Load(len(records), files, size_bytes, files if run.options.output_per else 0)
    took_s = sum(record.took_s for record in records)
    return {
        "dry_run": True,
        "run_id": run_id,
        "redriven": [record.number for record in records],
        "succeeded": sum(record.state is ShardState.SUCCEEDED for record in records),
        "files": files,
        "bytes": size_bytes,
        "cost_usd": round(sum(work_costs(run.dispatch, took_s, load, stack.size, prices).values()), 6),
    }


def _records(deployment: Deployment, run_id: str, shards: Sequence[int]) -> Iterator[ShardRecord]:
    """These shards, or all failed ones."""
    if shards:
        return (deployment.ledger.shards.get(run_id, number) for number in shards)
    return deployment.ledger.shards.list(run_id, ShardState.FAILED)


def _by_cause(deployment: Deployment, run_id: str, numbers: tuple[int, ...], cause: str) -> tuple[int, ...]:
    run, failed = (
        deployment.ledger.runs.get(run_id),
        next(deployment.ledger.shards.list(run_id, ShardState.FAILED), None),
    )
    end = None if numbers or failed else failed_end(deployment, run)
    if end and not cause:
        refuse_same_commit(deployment, run, end)
    names_end = end is not None and cause.casefold() in f"{end.error_class}: {end.message}".casefold()
    return failed_with(deployment, run_id, cause, numbers or None) if cause and not names_end else numbers


def resized(selection: StackSelection) -> StackSelection:
    """The selection, which restarts the running local stack if its workers have another size than the selected one."""
    from sparklet.local.stack import running

    info = None if selection.stack else running(selection.state)
    if info is None:
        return selection
    memory_mb, timeout_s = selection.memory_mb or info.memory_mb, selection.timeout_s or info.timeout_s
    if (memory_mb, timeout_s) == (info.memory_mb, info.timeout_s):
        return selection
    return replace(selection, workers=info.workers, memory_mb=memory_mb, timeout_s=timeout_s, replace_kept=True)


def sized(stack: OpenStack, again: Again, memory_mb: int | None, timeout_s: int | None) -> Again:
    """How to redrive shards with --memory and --timeout; PlanError with the remedy if the workers have another size.

    The local stack restarts with that size unless another command uses it. A deployed stack is not changed from here:
    that needs permission to change its functions, and affects every run on it. It may have lambda-large.
    """
    is_larger = (memory_mb or 0) > stack.size.memory_mb and not stack.state and (timeout_s or 0) <= TIMEOUTS_S[-1]
    if is_larger and (by_larger := again.by_large_function(stack.deployment)):
        return by_larger
    sizes = {
        "--memory": ("FunctionMemoryMB", memory_mb, stack.size.memory_mb),
        "--timeout": ("FunctionTimeoutS", timeout_s, stack.size.timeout_s),
    }
    other = {option: size for option, size in sizes.items() if size[1] not in (None, size[2])}
    if not other:
        return again
    sizes_text = " and ".join(f"{option} {size}" for option, (_, size, _) in other.items())
    if stack.state:
        raise PlanError(
            f"{sizes_text} is not possible: another command uses the local stack as it is "
            f"({stack.size.memory_mb} MB, {stack.size.timeout_s} s); wait for its end, or stop the stack: sparklet stop"
        )
    if timeout_s is not None and timeout_s not in TIMEOUTS_S:
        raise PlanError(f"--timeout {timeout_s} must be one of {', '.join(map(str, TIMEOUTS_S))} on a deployed stack")
    raise PlanError(
        f"{sizes_text}: the workers of {stack.name} have {stack.size.memory_mb} MB and {stack.size.timeout_s} s, and a "
        f"redrive does not change a deployed stack. LargeFunction=yes adds lambda-large, which does shards with up to "
        f"{LARGE_MB:,} MB; or change the workers, then redrive without {sizes_text}:\n"
        f"{_update_command(stack, {parameter: str(size) for parameter, size, _ in other.values()})}"
    )


def _update_command(stack: OpenStack, changes: Mapping[str, str]) -> str:
    """The command that changes only these parameters, and waits until the stack is updated."""
    parameters = [
        # A parameter that an update leaves out falls back to the template's default.
        f"ParameterKey={key}," + (f"ParameterValue={changes[key]}" if key in changes else "UsePreviousValue=true")
        for key in sorted({*stack.parameters, *changes})
    ]
    update = ["aws", "cloudformation", "update-stack", "--stack-name", stack.name, "--use-previous-template"]
    # The last since the template is transformed by SAM.
    capabilities = ["--capabilities", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
    wait = ["aws", "cloudformation", "wait", "stack-update-complete", "--stack-name", stack.name]
    return f"{shlex.join([*update, *capabilities, '--parameters', *parameters])} && {shlex.join(wait)}"


def redrive_run(
    stack: OpenStack,
    run_id: str,
    shards: tuple[int, ...],
    script: str,
    reporter: Reporter,
    again: Again,
) -> None:
    """Copy repaired local inputs and dispatch shards again, through the state machine if one drove the run."""
    run = stack.deployment.ledger.runs.get(run_id)
    driven = was_driven(stack, run)
    if driven and not shards and _only_its_machine_is_gone(stack, run):
        drive(stack, run, reporter)
        return
    if driven:
        # Refuses a stack without a machine before anything is changed.
        machine_of(stack)
    _upload_repaired(stack, run, shards, reporter)
    # Repaired inputs and script are there before a shard is opened: a worker may claim it at once.
    ref = repaired_script(stack.deployment, run, script) if script else None
    redriven = redrive_shards(stack.deployment, run_id, shards or None, ref, again)
    sent = f"{count_text(max(redriven.messages, redriven.shards), 'shard')} sent again"
    if (end := failed_end(stack.deployment, run)) and not (redriven.messages or redriven.shards):
        sent = f"what {end.run_id} could not do is done again, it failed with {end.error_class}: {end.message}"
    reporter.say(f"run {run_id}: {sent}, generation {redriven.run.generation}")
    if driven:
        drive(stack, redriven.run, reporter)
    if redriven.unplanned:
        reporter.warn(
            f"{run_id} was cancelled before its plan was complete: the rest of its objects is not planned; "
            "start another run for them (--incremental leaves out what this run processes)"
        )


def _only_its_machine_is_gone(stack: OpenStack, run: Run) -> bool:
    """Whether the run is open and no shard has failed, but its execution has ended."""
    if run.state.ended or run.cancelled_s is not None:
        return False
    driver = driver_of(stack, run)
    if driver is None or driver.state.ended:
        return next(stack.deployment.ledger.shards.list(run.run_id, ShardState.FAILED), None) is None
    return False


def _upload_repaired(stack: OpenStack, run: Run, shards: Sequence[int], reporter: Reporter) -> None:
    inputs = local_inputs(stack, run.run_id)
    if not inputs:
        return
    repaired = changed(
        stack.deployment.store, _local_inputs(stack.deployment, _records(stack.deployment, run.run_id, shards), inputs)
    )
    if repaired:
        reporter.say(f"copying {count_text(len(repaired), 'repaired file')} to the bucket")
        upload(stack.deployment.store, repaired, reporter.say)


def _local_inputs(
    deployment: Deployment, records: Iterator[ShardRecord], inputs: Mapping[str, str]
) -> Iterator[tuple[Path, str]]:
    for record in records:
        for item in planned_shard(deployment, record).objects:
            path = local_part(item.object_uri, inputs)
            if path is not None and path.is_file() and os.access(path, os.R_OK):
                yield path, item.object_uri
