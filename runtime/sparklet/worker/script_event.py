"""The event of a script: our contract with every script; ``docs/schemas/event.json`` describes it.

An event of a source (S3, SQS, Kinesis, …) without a shard or a task request reaches the script as Lambda received it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparklet.errors import EventError
from sparklet.job.fields import SCHEMA
from sparklet.job.outcome import EVENT, EVENT_FILE
from sparklet.model import INPUT, OUTPUT, Run, Shard, ShardRecord, ShardState
from sparklet.model.shards import OF_SPLIT
from sparklet.spark.script import EVENT_FILE_OPTION, EVENT_OPTION
from sparklet.worker.inputs import SparkInput

LOST = "LeaseExpired"
STOPPED = (LOST, "DeadlineExceededError", "GatewayLostError", "OutOfMemoryError")
"""Causes of attempts whose scripts may have been stopped at any line."""
MAX_ARGUMENT_BYTES = 100 * 1024  # Linux holds 128 KiB in one argument (MAX_ARG_STRLEN)


def shard_event(run: Run, record: ShardRecord, shard: Shard, output_uri: str) -> dict[str, Any]:
    """The event of a shard; ``output_uri`` is the attempt's own folder."""
    uris = shard.inputs
    items = [] if uris else shard.items  # a shard has either
    table = run.lists[0].table if run.lists else {}
    folders = [uri for uri in run.inputs if uri.endswith("/")]
    return {
        "sparklet": {
            "run": run.run_id,
            "identity": run.identity,
            "shard": record.number,
            "attempt": record.attempt_id,
            "generation": record.generation,
            **({"split_off": True} if record.part.startswith(OF_SPLIT) else {}),
            **({"redone": True} if record.redone else {}),
            **({"allow_drift": True} if run.options.allow_drift else {}),
            **(_previous_attempt(record) if record.attempts > 1 or record.error_class else {}),
        },
        "inputs": uris,
        "input_path": uris[0] if len(uris) == 1 else None,
        **({"input_folders": folders} if folders else {}),
        "output_path": output_uri,
        "params": {**run.params, **({SCHEMA: run.schema} if run.schema else {})},
        **({"table": run.table} if run.table else {}),
        **({"items": items} if items else {}),
        **({"catalog_table": {**table, "values": [item.partition for item in shard.objects]}} if table else {}),
    }


def _previous_attempt(record: ShardRecord) -> dict[str, Any]:
    """The attempt before, from the ledger; the state of its commits is unknown if it was stopped."""
    error_class, message = record.error_class, record.error_message
    if record.taken_from == ShardState.RUNNING:  # it left no error; what is there is an earlier attempt's
        error_class, message = LOST, "its worker was lost"
    state = "unknown" if error_class in STOPPED else None
    number = record.attempts - 1  # 0: of an earlier generation
    previous = {"number": number, "error_class": error_class, "message": message, "commit_state": state}
    return {"previous_attempt": previous}


def with_shown_inputs(event: Mapping[str, Any], inputs: Iterable[SparkInput]) -> Mapping[str, Any]:
    """A shard's event with the names under which Spark reads its inputs, and their addresses, if others."""
    objects = [each for each in inputs if each.item.uri]
    paths = [each.path for each in objects]
    if paths == event["inputs"] and all(each.origin is each.item for each in objects):
        return event
    origins = [each.origin.object_uri for each in objects]
    return {**event, "inputs": paths, "input_path": paths[0] if len(paths) == 1 else None, "origins": origins}


def request_event(body: Mapping[str, Any], task_id: str) -> dict[str, Any]:
    """The event of a task request: the client's own, with the request's id."""
    return {**body, "sparklet": {**body.get("sparklet", {}), "task": task_id}}


def event_variables(event: Any, names: Iterable[str]) -> dict[str, str]:
    """The variables that an event gives to its task: its own texts and numbers of these names; else EventError."""
    fields = {name: event[name] for name in names if isinstance(event, Mapping) and event.get(name) is not None}
    for name, value in fields.items():
        if not isinstance(value, str | int | float) or "\0" in str(value) or len(str(value)) > MAX_ARGUMENT_BYTES:
            raise EventError(f"the event's {name} cannot become a variable: it must be a text or a number")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}


def handed_over(event: Any, folder: Path, *, is_shard: bool) -> dict[str, str]:
    """The variables in which a script finds its event, which is also written to a file in ``folder``.

    SPARKLET_EVENT is what ``--event`` has (JSON, or ``@<path>`` if it is long), SPARKLET_EVENT_FILE the path. A shard's
    ``input_path`` and ``output_path`` are there by these names, also in capitals; "" if there is no single path.
    """
    paths = {name: event[name] or "" for name in ("input_path", "output_path")} if is_shard else {}
    try:
        text = json.dumps(event, separators=(",", ":"))
    except RecursionError as error:
        raise EventError("the event is nested too deeply to be handed to a script") from error
    path = folder / "event.json"
    path.write_text(text, encoding="ascii")
    argument = text if len(text) <= MAX_ARGUMENT_BYTES else f"@{path}"  # json.dumps writes ASCII: characters are bytes
    return {
        **paths,
        **{name.upper(): address for name, address in paths.items()},
        EVENT: argument,
        EVENT_FILE: str(path),
    }


def script_arguments(
    args: Sequence[str], event: Mapping[str, Any], option: str, handed: Mapping[str, str]
) -> tuple[str, ...]:
    """A script's arguments, in a shard with its addresses for ``{input}`` and ``{output}``.

    The event comes last, by the ``option`` that the script takes it by; ``handed``: see ``handed_over``.
    """
    if event:
        # For several inputs without a folder no address stands for all, so ``{input}`` stays as it is.
        [address, *_] = event.get("input_folders") or [event["input_path"] or INPUT]
        args = [argument.replace(INPUT, address).replace(OUTPUT, event["output_path"]) for argument in args]
    of_event = {"": (), EVENT_OPTION: (option, handed[EVENT]), EVENT_FILE_OPTION: (option, handed[EVENT_FILE])}
    return (*args, *of_event[option])
