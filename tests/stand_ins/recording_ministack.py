"""ministack with policies enforced and every decision written down: who asked for which action on what.

Started with the file that takes the records, a JSON line each. The stand-in derives action and resource from any
request, whoever sends it: botocore, the JVM's S3A, a service on a role's behalf. In five things it is brought nearer
to AWS: batches of messages are authorized as the action on one; Glue's requests are on the catalog and the database;
a request on one item of DynamoDB's has its leading key; a missing key is a 404 only for who may list it (by its name as
the prefix, as S3 seems to ask), and a 403 for anybody else; and though it answers over plain HTTP it takes requests for
TLS, so that the policies which refuse anything else are deployed as they are.
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
    """Stands before the stand-in's own decision."""

    def __init__(self, path: str) -> None:
        self._records = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open as long as it serves
        self._enforce, self._evaluate = iam_evaluator.enforce, iam_evaluator.evaluate
        self._asking = threading.local()

    def evaluate(self, asked: Any, *policies: Any) -> Any:
        """Note who asks; only the stand-in knows."""
        self._asking.now = asked
        return self._evaluate(asked, *policies)

    def enforce(self, access_key: str, action: str, *rest: Any, **more: Any) -> Any:
        """Decide, and write it down; None if it is allowed."""
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
        self._asking.now = None
        refusal = self._enforce(access_key, action, *rest, **more)
        if (asked := self._asking.now) is not None:  # None: the account's own credentials, which no policy limits
            keys = {key: value for key, value in asked.service_context.items() if isinstance(value, str)}
            line = {
                "principal": asked.principal_arn,
                "action": asked.action,
                "resource": asked.resource_arn,
                "keys": {**keys, "aws:SecureTransport": "true"},
                "allowed": refusal is None,
            }
            self._records.write(json.dumps(line) + "\n")
        return refusal


def with_leading_key(body: bytes) -> dict[str, Any]:
    """The condition keys of a request to DynamoDB; of one that names an item its leading key, too."""
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
