"""One event for one script, in a worker."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparklet.cli.environment import Environment
from sparklet.errors import PlanError
from sparklet.fanout.planning.scripts import refuse_bad_syntax


def invoke_script(env: Environment, script: str, event: Any, arguments: tuple[str, ...]) -> Mapping[str, Any]:
    """Invoke the worker function with ``event``, to be done by ``script``; the worker's answer.

    A local script is copied to ``scripts/`` in the bucket first, under its digest.

    Raises
    ------
    PlanError
        If the event is no JSON object (it must name the script), or the script is not there or cannot be compiled.
    RemoteTaskError
        If the script failed.
    """
    if not isinstance(event, dict):
        raise PlanError(
            f"the event must be a JSON object, so that it can name the script; it is a {type(event).__name__}"
        )
    named = {**event, "sparklet": {"script": _script_uri(env, script), "args": list(arguments)}}
    answer: Mapping[str, Any] = env.compute.invoke(env.worker_function, named)
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
    uri = f"s3://{env.at.bucket}/scripts/{hashlib.sha256(body).hexdigest()}/{path.name}"
    env.at.store.put(uri, body)
    return uri
