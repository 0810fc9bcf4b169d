"""The real handler in a process of its own, as Lambda has it: events come as JSON lines, answers go back so."""

import json
import sys
import time
import traceback
from typing import Any


class Context:
    """Of Lambda's context what the handler reads."""

    aws_request_id = "request-1"

    def __init__(self, timeout_s: float) -> None:
        self._end_s = time.time() + timeout_s

    def get_remaining_time_in_millis(self) -> int:
        return int((self._end_s - time.time()) * 1000)


def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr
    from sparklet.worker.handler import lambda_handler

    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = {"answer": lambda_handler(request["event"], Context(request["timeout_s"]))}
        except Exception as error:  # noqa: BLE001 - what Lambda does with an exception: the answer is its name
            traceback.print_exc()
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
