"""The event that a script gets: our contract with every script, built here and nowhere else.

``docs/schemas/event.json`` describes it, and tests hold every event that is built to it. An event of a source (S3,
SQS, Kinesis, …) that is not a shard's and no task request's reaches the script as Lambda received it.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparklet.errors import EventError
from sparklet.job.event_objects import misread
from sparklet.model import Access, InputObject, Run, Shard, ShardRecord
from sparklet.s3_uri import split_uri

MAX_ARGUMENT_BYTES = 100 * 1024  # Linux holds 128 KiB in one argument (MAX_ARG_STRLEN)


def shard_event(run: Run, record: ShardRecord, shard: Shard, output_uri: str) -> dict[str, Any]:
    """The event of a shard; ``output_uri`` is a folder of the attempt's own."""
    uris = shard.inputs
    items = [] if uris else shard.items  # a shard has either
    return {
        "sparklet": {
            "run": run.run_id,
            "shard": record.number,
            "attempt": record.attempt_id,
            "generation": record.generation,
        },
        "inputs": uris,
        "input_path": uris[0] if len(uris) == 1 else None,
        "output_path": output_uri,
        "params": dict(run.params),
        **({"items": items} if items else {}),
    }


def with_local_inputs(event: Mapping[str, Any], uris: Sequence[str]) -> dict[str, Any]:
    """A shard's event after some inputs were fetched; ``origins`` are what they were fetched from."""
    one = uris[0] if len(uris) == 1 else None
    return {**event, "inputs": list(uris), "input_path": one, "origins": event["inputs"]}


def request_event(body: Mapping[str, Any], task_id: str) -> dict[str, Any]:
    """The event of a task request: the client's own, with the request's id."""
    return {**body, "sparklet": {**body.get("sparklet", {}), "task": task_id}}


def needs_staging(item: InputObject, access: Access, cross_region: Collection[str] = ()) -> bool:
    """Whether Spark would not read just this input by its object's name, so that the event names a local copy.

    ``cross_region`` are buckets of other regions.
    """
    if item.item:
        return False
    if item.slice or item.version_id or access.requester_pays or access.role_arn or misread(item.uri):
        return True
    return bool(cross_region) and split_uri(item.uri)[0] in cross_region


def handed_over(event: Any, folder: Path, *, is_shard: bool) -> tuple[str, dict[str, str]]:
    """The event as a command line's argument, and what of it a script finds in its environment.

    An event that is too long for an argument goes through a file, ``@<path>``. Scripts that look for ``input_path`` and
    ``output_path`` in the environment find those of the shard there: "" where no one path says it, or they would take
    the function's own for the shard's.
    """
    env = {name: event[name] or "" for name in ("input_path", "output_path")} if is_shard else {}
    try:
        text = json.dumps(event, separators=(",", ":"))
    except RecursionError as error:
        raise EventError("the event is nested too deeply to be handed to a script") from error
    if len(text) <= MAX_ARGUMENT_BYTES:  # json.dumps writes ASCII: characters are bytes
        return text, env
    path = folder / "event.json"
    path.write_text(text, encoding="ascii")
    return f"@{path}", env
