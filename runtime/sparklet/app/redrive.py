"""Redrives failed shards, or shards selected by their inputs, if need be on workers of another size."""

import math
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparklet.app.costs import Load, Prices, work_costs
from sparklet.app.local_files import changed_files, local_inputs, local_part, stored_uri, upload
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
TIMEOUTS_S = (60, 120, 180, 300, 600, 900)  # the timeouts for which the template's queue has a visibility


@dataclass(frozen=True)
class Selection:
    """The part of a run to redrive: by default everything that has failed."""

    shards: tuple[int, ...] = ()
    cause: str = ""
    objects: tuple[str, ...] = ()  # addresses or local files; a folder ends in /
    first: str = ""  # partition or time, see ``_range_filter``
    last: str = ""
    everything: bool = False  # also what has succeeded


def selected_shards(stack: OpenStack, run_id: str, selection: Selection) -> tuple[int, ...]:
    """Return the numbers of the shards that a selection means.

    The result is empty for the default: all failed shards, or the check or commit that failed. PlanError if no shard
    fits the selection, SettingsError if its range is not valid.
    """
    by_inputs = selection.objects or selection.first or selection.last
    if selection.everything and (selection.shards or selection.cause or by_inputs):
        raise PlanError("--all selects all shards: leave out --all, or the options that select some of them")
    if not (by_inputs or selection.everything):
        return _shards_by_cause(stack.deployment, run_id, selection.shards, selection.cause)
    if selection.cause:
        raise PlanError("--cause selects failed shards; --object, --from and --to select shards by their inputs")
    if selection.everything:
        numbers = {
            record.number
            for record in stack.deployment.ledger.shards.list(run_id)
            if record.state is not ShardState.SPLIT
        }
    else:
        numbers = _shards_by_inputs(stack, run_id, selection)
    if selection.shards:
        numbers = numbers.intersection(selection.shards)
    if not numbers:
        raise PlanError(
            f"no shard of {run_id} has such an input; look for one with: sparklet status {run_id} --object URI"
        )
    return tuple(sorted(numbers))


def _shards_by_inputs(stack: OpenStack, run_id: str, selection: Selection) -> set[int]:
    deployment, local_paths = stack.deployment, local_inputs(stack, run_id)
    uris = tuple(name if name.startswith(SCHEME) else _copy_uri(name, local_paths) for name in selection.objects)
    is_in_range = _range_filter(selection.first, selection.last)
    numbers = {
        shard.number
        for part in deployment.ledger.runs.parts(run_id)
        for shard in shards_of(deployment, run_id, part)
        if any((not uris or _is_named(item, uris)) and is_in_range(item) for item in shard.objects)
    }
    return {number for number in numbers if deployment.ledger.shards.get(run_id, number).state is not ShardState.SPLIT}


def _copy_uri(path: str, local_paths: Mapping[str, str]) -> str:
    """Return the address to which a local input was copied; PlanError if it is not an input of the run."""
    uri = stored_uri(Path(path), local_paths)
    if not uri:
        raise PlanError(
            f"{path} is not an input of this run, whose inputs are {', '.join(local_paths.values()) or 'in S3'}"
        )
    return f"{uri}/" if path.endswith("/") and not uri.endswith("/") else uri


def _is_named(item: InputObject, uris: Sequence[str]) -> bool:
    """Return whether one of the URIs is that of the input, of its object or archive, or of a folder above it."""
    return any(uri in (item.uri, item.object_uri) or (uri.endswith("/") and item.uri.startswith(uri)) for uri in uris)


def _range_filter(first: str, last: str) -> Callable[[InputObject], bool]:
    """Return a function that tests whether an input lies between two partitions or two times, both included.

    A partition is written as ``year=2026/month=1``. If the last time is a day, all of this day is included.
    """
    if not (first or last):
        return lambda _: True
    if "=" in (first or last):
        first_names, low = _partition(first)
        last_names, high = _partition(last)
        if first and last and first_names != last_names:
            raise PlanError(f"--from {first} and --to {last} name different partitions")
        names = first_names or last_names

        def is_between(item: InputObject) -> bool:
            columns = dict(columns_of(item.uri)[1])
            partition = [_sort_key(columns[name]) for name in names if name in columns]
            if len(partition) < len(names):
                return False
            return (not first or partition >= low) and (not last or partition <= high)

        return is_between
    low_s = parse_time_s(first) if first else 0.0
    high_s = parse_time_s(last) if last else math.inf
    if re.fullmatch(r"[\d-]+", last):  # a day stands for its end, since else a range of one day would be empty
        high_s = math.nextafter(high_s + DAY_S, 0.0)
    return lambda item: bool(item.modified_s) and low_s <= item.modified_s <= high_s


def _partition(text: str) -> tuple[list[str], list[tuple[float, str]]]:
    """Return the names of a partition's columns, and the sort keys of their values."""
    columns = columns_of(f"{text.strip('/')}/")[1]
    return [name for name, _ in columns], [_sort_key(value) for _, value in columns]


def _sort_key(value: str) -> tuple[float, str]:
    """Return the key that sorts values of a partition: numbers by their size, before texts."""
    return (float(value), "") if re.fullmatch(r"-?\d+(\.\d+)?", value) else (float("inf"), value)


def preview(stack: OpenStack, run_id: str, shards: tuple[int, ...], prices: Prices) -> dict[str, Any]:
    """Return a redrive's preview: its shards, files, bytes, and the cost if the shards take as long as before."""
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
    """Return the records of these shards, or of all failed shards if ``shards`` is empty."""
    if shards:
        return (deployment.ledger.shards.get(run_id, number) for number in shards)
    return deployment.ledger.shards.list(run_id, ShardState.FAILED)


def _shards_by_cause(deployment: Deployment, run_id: str, numbers: tuple[int, ...], cause: str) -> tuple[int, ...]:
    """Return ``numbers``; with a ``cause`` return the failed shards that it fits, among ``numbers`` if these are given.

    If no shard failed, but the run's check or commit failed with this cause, return () for it. Without a cause,
    PlanError if a commit failed and would fail in the same way again.
    """
    run = deployment.ledger.runs.get(run_id)
    failed_shard = next(deployment.ledger.shards.list(run_id, ShardState.FAILED), None)
    failed_phase = None if numbers or failed_shard else failed_end(deployment, run)
    if failed_phase and not cause:
        refuse_same_commit(deployment, run, failed_phase)
    if not cause:
        return numbers
    if failed_phase and cause.casefold() in f"{failed_phase.error_class}: {failed_phase.message}".casefold():
        return numbers
    return failed_with(deployment, run_id, cause, numbers or None)


def selection_with_size(selection: StackSelection) -> StackSelection:
    """Return the selection; if the running local stack has workers of another size, one that restarts the stack."""
    from sparklet.local.stack import running

    info = None if selection.stack else running(selection.state)
    if info is None:
        return selection
    memory_mb, timeout_s = selection.memory_mb or info.memory_mb, selection.timeout_s or info.timeout_s
    if (memory_mb, timeout_s) == (info.memory_mb, info.timeout_s):
        return selection
    return replace(selection, workers=info.workers, memory_mb=memory_mb, timeout_s=timeout_s, replace_kept=True)


def again_with_size(stack: OpenStack, again: Again, memory_mb: int | None, timeout_s: int | None) -> Again:
    """Return ``again`` if the workers have the size of --memory and --timeout; with lambda-large if only that has it.

    Else PlanError, which says how to get workers of that size. A local stack has already been restarted with the size,
    unless another command uses the stack. A deployed stack is not changed here: that needs permission to change its
    functions, and affects every run on it.
    """
    size, is_deployed = stack.size, not stack.state
    needs_large = is_deployed and (memory_mb or 0) > size.memory_mb and (timeout_s or 0) <= TIMEOUTS_S[-1]
    if needs_large and (again_by_large := again.by_large_function(stack.deployment)):
        return again_by_large
    settings = (
        ("--memory", "FunctionMemoryMB", memory_mb, size.memory_mb),
        ("--timeout", "FunctionTimeoutS", timeout_s, size.timeout_s),
    )
    changes = [
        (option, parameter, value) for option, parameter, value, current in settings if value not in (None, current)
    ]
    if not changes:
        return again
    options_text = " and ".join(f"{option} {value}" for option, _, value in changes)
    if not is_deployed:
        raise PlanError(
            f"{options_text} is not possible: another command uses the local stack as it is "
            f"({size.memory_mb} MB, {size.timeout_s} s); wait for its end, or stop the stack: sparklet stop"
        )
    if timeout_s is not None and timeout_s not in TIMEOUTS_S:
        raise PlanError(f"--timeout {timeout_s} must be one of {', '.join(map(str, TIMEOUTS_S))} on a deployed stack")
    raise PlanError(
        f"{options_text}: the workers of {stack.name} have {size.memory_mb} MB and {size.timeout_s} s, and a redrive "
        f"does not change a deployed stack. LargeFunction=yes adds lambda-large, which does shards with up to "
        f"{LARGE_MB:,} MB; or change the workers, then redrive without {options_text}:\n"
        f"{_update_command(stack, {parameter: str(value) for _, parameter, value in changes})}"
    )


def _update_command(stack: OpenStack, changes: Mapping[str, str]) -> str:
    """Return the command that changes only these parameters, and waits until the stack is updated."""
    parameters = [
        # A parameter that an update leaves out falls back to the template's default.
        f"ParameterKey={key}," + (f"ParameterValue={changes[key]}" if key in changes else "UsePreviousValue=true")
        for key in sorted({*stack.parameters, *changes})
    ]
    update = ["aws", "cloudformation", "update-stack", "--stack-name", stack.name, "--use-previous-template"]
    # The second capability is needed since SAM transforms the template.
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
    """Copy repaired local inputs and dispatch shards again, through the state machine if one drove the run.

    If no shard has failed and only the run's execution has ended, another execution is started, and nothing else is
    done.
    """
    run = stack.deployment.ledger.runs.get(run_id)
    by_machine = was_driven(stack, run)
    if by_machine and not shards and _needs_only_an_execution(stack, run):
        drive(stack, run, reporter)
        return
    if by_machine:
        # Refuses a stack without a machine before anything is changed.
        machine_of(stack)
    _upload_repaired(stack, run, shards, reporter)
    # The repaired script is stored, as are inputs, before a shard is opened: a worker can claim the shard at once.
    ref = repaired_script(stack.deployment, run, script) if script else None
    result = redrive_shards(stack.deployment, run_id, shards or None, ref, again)
    outcome_text = f"{count_text(max(result.messages, result.shards), 'shard')} sent again"
    if (phase := failed_end(stack.deployment, run)) and not (result.messages or result.shards):
        outcome_text = f"{phase.run_id} failed with {phase.error_class}: {phase.message}; its work is done again"
    reporter.say(f"run {run_id}: {outcome_text}, generation {result.run.generation}")
    if by_machine:
        drive(stack, result.run, reporter)
    if result.unplanned:
        reporter.warn(
            f"{run_id} was cancelled before its plan was complete: the rest of its objects is not planned; "
            "start another run for them (--incremental leaves out what this run processes)"
        )


def _needs_only_an_execution(stack: OpenStack, run: Run) -> bool:
    """Return whether the run is open and no shard has failed, but its execution has ended."""
    if run.state.ended or run.cancelled_s is not None:
        return False
    driver = driver_of(stack, run)
    if driver is None or driver.state.ended:
        return next(stack.deployment.ledger.shards.list(run.run_id, ShardState.FAILED), None) is None
    return False


def _upload_repaired(stack: OpenStack, run: Run, shards: Sequence[int], reporter: Reporter) -> None:
    """Copy those local files of the shards to the bucket whose content has changed since they were copied."""
    local_paths = local_inputs(stack, run.run_id)
    if not local_paths:
        return
    records = _records(stack.deployment, run.run_id, shards)
    repaired_files = changed_files(stack.deployment.store, _readable_files(stack.deployment, records, local_paths))
    if repaired_files:
        reporter.say(f"copying {count_text(len(repaired_files), 'repaired file')} to the bucket")
        upload(stack.deployment.store, repaired_files, reporter.say)


def _readable_files(
    deployment: Deployment, records: Iterator[ShardRecord], local_paths: Mapping[str, str]
) -> Iterator[tuple[Path, str]]:
    """Return the local files of the shards' inputs that this user can read, each with its address in the bucket."""
    for record in records:
        for item in planned_shard(deployment, record).objects:
            path = local_part(item.object_uri, local_paths)
            if path is not None and path.is_file() and os.access(path, os.R_OK):
                yield path, item.object_uri
