"""Scripts that the worker function runs on one event."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparklet.app.stack import Environment
from sparklet.errors import PlanError
from sparklet.planning.new_run import refuse_bad_syntax


def invoke_script(
    env: Environment, script: str, event: Any, arguments: tuple[str, ...], variables: Mapping[str, str]
) -> Mapping[str, Any]:
    """Invoke the worker function with ``event`` for ``script``; the worker's answer.

    A local script and its environment variables are copied to ``scripts/`` of the bucket first; the invocation only
    names them. PlanError if the script cannot be read or compiled, RemoteFailureError if it failed.
    """
    task: dict[str, Any] = {"script": _script_uri(env, script), "args": list(arguments), "event": event}
    if variables:
        task["env"] = _stored(env, "env.json", json.dumps(dict(variables)).encode())
    answer: Mapping[str, Any] = env.compute.invoke(env.worker_function, {"sparklet": task})
    return answer


def _script_uri(env: Environment, script: str) -> str:
    if "://" in script:
        return script
    path = Path(script)
    try:
        body = path.read_bytes()
    except OSError as error:
        raise PlanError(f"the script {script} cannot be read: {error.strerror}") from error
    refuse_bad_syntax(script, body)
    return _stored(env, path.name, body)


def _stored(env: Environment, name: str, body: bytes) -> str:
    """Store a file in the bucket under its digest; its URI."""
    uri = f"s3://{env.at.bucket}/scripts/{hashlib.sha256(body).hexdigest()}/{name}"
    env.at.store.put(uri, body)
    return uri
