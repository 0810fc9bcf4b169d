"""The log of planner, checker and the consumer of dead letters: one JSON object a line."""

import json
import sys


def log(level: str, message: str, subject: str, **fields: str | int) -> None:
    """Write one line about ``subject``: a run, a message, an execution."""
    write_line(json.dumps({"level": level, "message": message, "subject": subject, **fields}))


def write_line(text: str) -> None:
    """Write a line as it is."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
