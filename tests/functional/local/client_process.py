"""A client of a local stack in a process of its own: it attaches, prints the stack, and stays until its input ends."""

import dataclasses
import json
import sys
from pathlib import Path

from sparklet.errors import LocalStackError
from sparklet.local.stack import LocalStack, StackOptions


def main() -> None:
    arguments = json.loads(sys.argv[1])
    options = StackOptions(state_dir=Path(arguments.pop("state_dir")), **arguments)
    progress: list[str] = []
    try:
        with LocalStack.attach(options, progress.append) as stack:
            answer = {"info": dataclasses.asdict(stack.info), "progress": progress}
            print(json.dumps(answer, default=str), flush=True)
            sys.stdin.read()
    except LocalStackError as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    main()
