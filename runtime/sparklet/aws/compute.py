"""Functions in AWS Lambda."""

import json
from collections.abc import Mapping
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.errors import RemoteFailureError, RemoteTaskError

MOST_PAYLOAD_BYTES = 6 * 1024 * 1024


class LambdaCompute:
    """A ``Compute`` over deployed functions.

    Parameters
    ----------
    clients
        Where its client comes from.
    """

    def __init__(self, clients: AwsClients) -> None:
        self._clients = clients

    def invoke(self, function: str, event: Mapping[str, Any]) -> Any:
        """Invoke synchronously, once: a call whose answer is lost may have run.

        Raises
        ------
        RemoteTaskError
            If the event is too large, the function cannot be invoked, or failed: with its error's type and message.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        payload = json.dumps(event, ensure_ascii=False).encode()
        if len(payload) > MOST_PAYLOAD_BYTES:
            raise RemoteTaskError(
                f"{function} cannot be given {len(payload)} bytes: Lambda takes {MOST_PAYLOAD_BYTES}. "
                "Put the data into S3 and pass its URI"
            )
        try:
            answer = self._clients.functions.invoke(
                FunctionName=function, InvocationType="RequestResponse", Payload=payload
            )
            body = answer["Payload"].read()
        except (BotoCoreError, ClientError) as error:
            raise RemoteTaskError(f"{function} could not be invoked: {error}") from error
        if answer.get("FunctionError"):
            raise RemoteFailureError(f"{function} failed: {_cause(body)}")
        return _decoded(function, body)


def _cause(body: bytes) -> str:
    """Type and message of a function's error; what came instead if it is none."""
    try:
        document = json.loads(body)
        return f"{document.get('errorType', 'Error')}: {document['errorMessage']}"
    except (ValueError, KeyError, AttributeError, TypeError):
        return body[:500].decode(errors="replace")


def _decoded(function: str, body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError as error:
        raise RemoteTaskError(f"{function} answered with what is no JSON: {body[:200]!r}") from error
