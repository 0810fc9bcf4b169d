"""Run the real handler in a separate process, as Lambda does: it reads events and writes responses as JSON lines."""

import json
import sys
import time
import traceback
from typing import Any


class Context:
    """The part of Lambda's context that the handler reads."""

    aws_request_id = "request-1"

    def __init__(self, timeout_s: float) -> None:
        self._end_s = time.time() + timeout_s

    def get_remaining_time_in_millis(self) -> int:
        return int((self._end_s - time.time()) * 1000)


def main() -> None:
    responses = sys.stdout
    sys.stdout = sys.stderr
    from sparklet.worker.handler import lambda_handler

    for line in sys.stdin:
        request = json.loads(line)
        response: dict[str, Any]
        try:
            response = {"answer": lambda_handler(request["event"], Context(request["timeout_s"]))}
        except Exception as error:  # noqa: BLE001 - as Lambda does, which returns the name of the exception
            traceback.print_exc()
            response = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(response), file=responses, flush=True)


if __name__ == "__main__":
    main()
