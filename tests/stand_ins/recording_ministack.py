"""ministack with policies enforced and every decision recorded: which principal requested which action on what.

Its argument is the file of the records, one JSON line each. The stand-in derives action and resource from any request,
whoever sends it: botocore, the JVM's S3A, a service on a role's behalf. In five points it is made more like AWS:

- A batch of messages is authorized as the action on one message.
- Glue's requests are on the catalog and the database.
- A request on one item of DynamoDB has the item's leading key.
- A missing key of S3 is a 404 only for a principal that is allowed to list it (with the key as the prefix, which S3
  seems to check); it is a 403 for any other.
- Requests count as sent by TLS, though it serves plain HTTP: policies that demand TLS can be deployed unchanged.
"""

import json
import sys
import threading
from typing import Any

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.services import s3

_dynamodb_keys = iam_actions.dynamodb_service_context
BATCHES = {
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
}


class Recorder:
    """Wraps the stand-in's own decisions, and records them."""

    def __init__(self, path: str) -> None:
        self._records = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open as long as it serves
        self._enforce, self._evaluate = iam_evaluator.enforce, iam_evaluator.evaluate
        self._evaluated = threading.local()

    def evaluate(self, request: Any, *policies: Any) -> Any:
        """Note the request: only here is its principal known."""
        self._evaluated.request = request
        return self._evaluate(request, *policies)

    def enforce(self, access_key: str, action: str, *rest: Any, **more: Any) -> Any:
        """Decide, and record the decision; return the refusal, or None if the action is allowed."""
        if action.startswith("glue:") and "/" in more["resource_arn"]:
            arn, _, database = more["resource_arn"].replace(":table/", ":database/").partition("database/")
            if refusal := self._recorded(access_key, action, *rest, **{**more, "resource_arn": f"{arn}catalog"}):
                return refusal
            more["resource_arn"] = f"{arn}database/{database}"
        refusal = self._recorded(access_key, BATCHES.get(action, action), *rest, **more)
        if refusal is None and action == "s3:GetObject":
            bucket, _, key = more.get("resource_arn", "").removeprefix("arn:aws:s3:::").partition("/")
            if key not in s3._buckets.get(bucket, {}).get("objects", {key: None}):
                prefix = {"resource_arn": f"arn:aws:s3:::{bucket}", "service_context": {"s3:prefix": key}}
                return self._recorded(access_key, "s3:ListBucket", *rest, **prefix)
        return refusal

    def _recorded(self, access_key: str, action: str, *rest: Any, **more: Any) -> Any:
        self._evaluated.request = None
        refusal = self._enforce(access_key, action, *rest, **more)
        # Nothing is evaluated for the account's own credentials, which no policy limits.
        if (request := self._evaluated.request) is not None:
            keys = {key: value for key, value in request.service_context.items() if isinstance(value, str)}
            line = {
                "principal": request.principal_arn,
                "action": request.action,
                "resource": request.resource_arn,
                "keys": {**keys, "aws:SecureTransport": "true"},
                "allowed": refusal is None,
            }
            self._records.write(json.dumps(line) + "\n")
        return refusal


def with_leading_key(body: bytes) -> dict[str, Any]:
    """The condition keys of a request to DynamoDB, with the leading key if the request names an item."""
    key = json.loads(body or b"{}").get("Key")
    leading = {"dynamodb:leadingkeys": [key["pk"]["S"]]} if key else {}
    return {**_dynamodb_keys(body), **leading}


def main() -> None:
    """Serve until the process is ended."""
    iam_actions.dynamodb_service_context = with_leading_key
    recorder, pin = Recorder(sys.argv.pop(1)), app.pin_request_origin
    iam_evaluator.evaluate, iam_evaluator.enforce = recorder.evaluate, recorder.enforce
    app.pin_request_origin = lambda source_ip, _secure: pin(source_ip, True)
    app.main()
