"""One event for one script, in a worker."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparklet.cli.environment import Environment
from sparklet.errors import PlanError
from sparklet.fanout.planning.new_run import refuse_bad_syntax


def invoke_script(
    env: Environment, script: str, event: Any, arguments: tuple[str, ...], variables: Mapping[str, str]
) -> Mapping[str, Any]:
    """Hand ``event`` over to the worker function, to be done by ``script`` whatever its source; the worker's answer.

    A local script, and what it is to find in its environment, are put into ``scripts/`` of the bucket first: the
    invocation only names them.

    Raises
    ------
    PlanError
        If the script is not there or cannot be compiled.
    RemoteFailureError
        If the script failed.
    """
    wish: dict[str, Any] = {"script": _script_uri(env, script), "args": list(arguments), "event": event}
    if variables:
        wish["env"] = _kept(env, "env.json", json.dumps(dict(variables)).encode())
    answer: Mapping[str, Any] = env.compute.invoke(env.worker_function, {"sparklet": wish})
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
    return _kept(env, path.name, body)


def _kept(env: Environment, name: str, body: bytes) -> str:
    """Where a file lies in the bucket, under its digest."""
    uri = f"s3://{env.at.bucket}/scripts/{hashlib.sha256(body).hexdigest()}/{name}"
    env.at.store.put(uri, body)
    return uri
