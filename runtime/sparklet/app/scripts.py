"""Scripts that the worker function runs on one event."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparklet.app.stack import OpenStack
from sparklet.planning.new_run import script_body


def invoke_script(
    stack: OpenStack, script: str, event: Any, arguments: tuple[str, ...], variables: Mapping[str, str]
) -> Mapping[str, Any]:
    """Invoke the worker function with ``event`` for ``script``; the worker's answer.

    A local script and its environment variables are copied to ``scripts/`` of the bucket first; the invocation only
    names them. PlanError if the script cannot be read or compiled, RemoteFailureError if it failed.
    """
    task: dict[str, Any] = {"script": _script_uri(stack, script), "args": list(arguments), "event": event}
    if variables:
        task["env"] = _stored(stack, "env.json", json.dumps(dict(variables)).encode())
    answer: Mapping[str, Any] = stack.compute.invoke(stack.worker_function, {"sparklet": task})
    return answer


def _script_uri(stack: OpenStack, script: str) -> str:
    if "://" in script:
        return script
    return _stored(stack, Path(script).name, script_body(script))


def _stored(stack: OpenStack, name: str, body: bytes) -> str:
    """Store a file in the bucket under its digest; its URI."""
    uri = f"s3://{stack.at.bucket}/scripts/{hashlib.sha256(body).hexdigest()}/{name}"
    stack.at.store.put(uri, body)
    return uri
