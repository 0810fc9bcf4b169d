"""Makes the JSON document of a report: all that ``sparklet status --json`` prints, and more.

It reads all shards of the run once, the plan's lines of a few failed shards, and the script.
"""

import platform
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from os.path import commonprefix
from typing import Any

from sparklet import __version__
from sparklet.app.costs import Load, Prices, estimate, shard_time
from sparklet.app.documents import group_document
from sparklet.app.explain import DATA, FailureGroup, explain
from sparklet.app.local_files import local_inputs, local_part
from sparklet.app.logs import printed_texts
from sparklet.app.report.advice import advise
from sparklet.app.report.events import logs_of, spark_figures
from sparklet.app.reporter import size_text, time_text
from sparklet.app.stack import OpenStack
from sparklet.app.status import RunView, task_failures, view_run
from sparklet.errors import LogsError, ObjectStoreError, PlanError, ShardNotFoundError
from sparklet.model import Run, ScriptRef, ShardRecord
from sparklet.model.redaction import redacted
from sparklet.planning.plan_files import planned_shard
from sparklet.planning.request import places
from sparklet.runs.manifest import VERSION, ShardTable

MAX_GROUPS = 50  # causes of failure
# Only the first causes list files, since each file is a read of the plan.
GROUPS_WITH_FILES, MAX_FILES = 5, 20
LINES_AROUND = 2  # lines of the script before and after the line that failed
# Objects up to which a report names each shard's inputs; in a larger run `sparklet status RUN --object` finds a shard.
MAX_NAMED = 50_000
PACKAGES = ("pyspark", "delta-spark", "pyiceberg", "boto3")


def report_document(stack: OpenStack, run: Run, prices: Prices) -> dict[str, Any]:
    """Return the report of a run as it is now; nothing is written."""
    # The table keeps a sample of a large run's shards, which is known only at the end of the pass. To name the inputs
    # of the sample's shards all records are kept until then, unless the run is too large for that.
    table, records = ShardTable(run.created_s), dict[int, ShardRecord]()
    names_inputs = max(run.object_count, run.shard_count or 0) <= MAX_NAMED

    def add(record: ShardRecord) -> None:
        table.add(record)
        if names_inputs:
            records[record.number] = record

    view = view_run(stack, run, prices, add)
    shards = table.document()
    groups = explain(stack.deployment, run, view.found.failures.values(), view.found.succeeded)
    groups = tuple(sorted(groups, key=lambda group: group.advice.at_fault != DATA))  # first what a user can repair
    return {
        "version": VERSION,
        "made_s": stack.deployment.clock.now_s(),
        "versions": _versions(stack),
        "run": _run_document(run),
        "status": view.document(stack),
        "causes": [
            *_causes(stack, run, groups),
            *(group_document(stack, group) | {"files": [], "script": {}} for group in task_failures(stack, run)),
        ],
        "causes_left_out": max(0, len(groups) - MAX_GROUPS),
        "worker": {"memory_mb": stack.size.memory_mb, "timeout_s": stack.size.timeout_s, "local": view.local},
        "estimate": _estimate(stack, run, view, prices),
        "advice": advise(run, view, shards, stack, prices),
        "shard_table": shards,
        "inputs": _inputs(stack, run, [records[number] for number in shards["columns"]["shard"] if names_inputs]),
        "printed": _printed_texts(stack, run, shards["columns"]["shard"]),
        "spark": _spark_figures(stack, run, view, groups) if run.options.event_log else [],
    }


def _spark_figures(stack: OpenStack, run: Run, view: RunView, groups: Sequence[FailureGroup]) -> list[dict[str, Any]]:
    """Return Spark's figures of the slowest shards, and of the examples of the first causes."""
    records = (*view.found.slowest, *(group.example for group in groups[:GROUPS_WITH_FILES]))
    return spark_figures(stack, logs_of(stack, run.run_id), {record.number: record.attempt_id for record in records})


def _printed_texts(stack: OpenStack, run: Run, numbers: Sequence[int]) -> list[str]:
    """Return what each shard printed; [] if no shard printed anything, or the logs are not on this machine."""
    text_by_shard: dict[int, str] = {}
    with suppress(LogsError):  # a log file was deleted while it was read
        if stack.state:
            text_by_shard = printed_texts(stack, run.run_id, run.created_s)
    return [text_by_shard.get(number, "") for number in numbers] if text_by_shard else []


def _versions(stack: OpenStack) -> dict[str, str]:
    """Return the versions installed on this machine or, for a deployed stack, the parameters that choose its image."""
    versions = {"sparklet": __version__, "python": platform.python_version()}
    if not stack.state:
        return versions | {
            name: value for name, value in stack.parameters.items() if "Image" in name or "Stack" in name
        }
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _run_document(run: Run) -> dict[str, Any]:
    return {
        "id": run.run_id,
        "name": run.name,
        "scripts": [
            {"uri": script.uri, "source": script.source_uri, "sha256": script.sha256} for script in run.scripts
        ],
        "args": redacted(run.args),
        "params": redacted(run.params),
        "variables": sorted(run.env),  # only the names, since values can be secrets, and a report is passed on
        "options": list(_options(run)),
        "shards": run.shard_count,
        "created_s": run.created_s,
        "ended_s": run.ended_s,
    }


def _options(run: Run) -> Iterator[str]:
    """Return the run's options that differ from the defaults, as a user types them."""
    text_of = {"size": lambda value: size_text(value).replace(".0 ", "").replace(" ", ""), "time": time_text}
    for key, option, kind, default, group, name in places().values():
        value = getattr(run.options, name) if group == "options" else default
        if kind == "tolerance" and run.options.tolerated_failure_percentage:
            value = f"{run.options.tolerated_failure_percentage:g}%"
        if value == default:
            continue
        # An option such as --append stands for one value of its field, which --incremental sets, too.
        if key.value and (value != key.value or run.options.incremental):
            continue
        if key.value or value is True:
            yield option
        else:
            arguments = value if isinstance(value, tuple) else [text_of.get(kind, str)(value)]
            yield from (f"{option} {shlex.quote(argument)}" for argument in arguments)


def _inputs(stack: OpenStack, run: Run, records: Sequence[ShardRecord]) -> dict[str, Any]:
    """Return the folder that all inputs share, and for each shard a text with its inputs' names, one a line.

    A shard's text is "" if its line of the plan cannot be read.
    """

    @cache
    def part(uri: str) -> bytes:
        with suppress(ObjectStoreError):
            return stack.deployment.store.get(uri)
        return b""

    local_paths, all_names = local_inputs(stack, run.run_id), list[list[str]]()
    for record in records:
        uri = stack.deployment.part_uri(run.run_id, record.part)
        try:
            line = part(uri)[record.offset : record.offset + record.length]
            objects = record.planned(line, uri).objects
            all_names.append([str(local_part(item.name, local_paths) or item.name) for item in objects])
        except PlanError:  # the report shows the other shards
            all_names.append([])
    folder = commonprefix([name for names in all_names for name in names]).rpartition("/")[0]  # noqa: RUF071 - or URIs
    prefix = f"{folder}/" if folder else ""
    return {"folder": prefix, "names": ["\n".join(name[len(prefix) :] for name in names) for names in all_names]}


def _causes(stack: OpenStack, run: Run, groups: Sequence[FailureGroup]) -> Iterator[dict[str, Any]]:
    sources: dict[ScriptRef, list[str]] = {}
    for index, group in enumerate(groups[:MAX_GROUPS]):
        files = _failed_files(stack, run, group) if index < GROUPS_WITH_FILES else []
        excerpt: dict[str, Any] = {}
        if group.line is not None:
            script = run.scripts[group.example.generation]
            if script not in sources:
                sources[script] = _script_lines(stack, script)
            first = max(1, group.line - LINES_AROUND)
            excerpt = {"first": first, "lines": redacted(sources[script][first - 1 : group.line + LINES_AROUND])}
        yield group_document(stack, group) | {"files": files, "script": excerpt}


def _script_lines(stack: OpenStack, script: ScriptRef) -> list[str]:
    try:
        return stack.deployment.store.get(script.uri).decode("utf-8", "replace").splitlines()
    except ObjectStoreError:  # the run's copy of the script was deleted
        return []


def _failed_files(stack: OpenStack, run: Run, group: FailureGroup) -> list[str]:
    """Return inputs of a group's first shards: for each shard those that its message names, else its first input."""
    local_paths = local_inputs(stack, run.run_id)
    numbers = (number for first, last in group.shards.ranges for number in range(first, last + 1))
    files: dict[str, None] = {}
    for number in islice(numbers, MAX_FILES):
        try:
            record = stack.deployment.ledger.shards.get(run.run_id, number)
            names = [item.name for item in planned_shard(stack.deployment, record).objects]
        except (ObjectStoreError, PlanError, ShardNotFoundError):  # the report shows the other shards
            continue
        failed_names = [name for name in names if name.rpartition("/")[2] in record.error_message] or names[:1]
        files |= dict.fromkeys(str(local_part(name, local_paths) or name) for name in failed_names)
    return list(files)[:MAX_FILES]


def _estimate(stack: OpenStack, run: Run, view: RunView, prices: Prices) -> dict[str, Any] | None:
    """Return the estimate of the run's cost and end from its plan; None until the run is planned."""
    if not run.shard_count:
        return None
    load = Load(run.shard_count, run.object_count, run.size_bytes, run.object_count if run.options.output_per else 0)
    time = shard_time(load, prices, stack.size.memory_mb)
    plan_estimate = estimate(run.dispatch, load, time.seconds, stack.size, prices)
    return {
        "end_s": round(plan_estimate.end_s, 1),
        "shard_s": round(time.seconds, 3),
        "origin": time.origin,
        "costs_usd": {item: round(cost, 6) for item, cost in plan_estimate.costs.items()},
    }
