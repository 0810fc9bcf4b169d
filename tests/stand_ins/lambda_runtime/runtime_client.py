"""A Lambda runtime client with the order that AWS documents for SnapStart: init, restore/next, hooks, invocations."""

import http.client
import importlib
import json
import os
import sys
import time
import traceback
from typing import Any


class Context:
    """The part of Lambda's context that the handler reads."""

    def __init__(self, request_id: str, deadline_ms: int) -> None:
        self.aws_request_id, self._deadline_ms = request_id, deadline_ms

    def get_remaining_time_in_millis(self) -> int:
        return self._deadline_ms - int(time.time() * 1000)


def call(method: str, path: str, body: Any = None) -> tuple[Any, bytes]:
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, f"/2018-06-01/runtime/{path}", None if body is None else json.dumps(body))
    response = connection.getresponse()
    return response.headers, response.read()


def main(handler: str) -> None:
    module, _, name = handler.rpartition(".")
    handle = getattr(importlib.import_module(module), name)
    if os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"] == "snap-start":
        call("GET", "restore/next")
        for hook, args, kwargs in importlib.import_module("snapshot_restore_py").get_after_restore():
            hook(*args, **kwargs)
    while True:
        headers, event = call("GET", "invocation/next")
        request_id = headers["Lambda-Runtime-Aws-Request-Id"]
        context = Context(request_id, int(headers["Lambda-Runtime-Deadline-Ms"]))
        try:
            call("POST", f"invocation/{request_id}/response", handle(json.loads(event), context))
        except Exception as error:  # noqa: BLE001 - what Lambda does with an exception: the answer is its name
            traceback.print_exc()
            call("POST", f"invocation/{request_id}/error", {"errorMessage": str(error)})


if __name__ == "__main__":
    main(sys.argv[1])
