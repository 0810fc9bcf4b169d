"""A client of a local stack in a process of its own: attaches, says so, and stays until its input ends."""

import dataclasses
import json
import sys
from pathlib import Path

from sparklet.errors import LocalStackError
from sparklet.local.stack import LocalStack, StackOptions


def main() -> None:
    order = json.loads(sys.argv[1])
    options = StackOptions(state_dir=Path(order.pop("state_dir")), **order)
    said: list[str] = []
    try:
        with LocalStack.attach(options, said.append) as stack:
            answer = {"info": dataclasses.asdict(stack.info), "said": said}
            print(json.dumps(answer, default=str), flush=True)
            sys.stdin.read()
    except LocalStackError as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    main()
