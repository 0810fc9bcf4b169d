"""The log of planner, checker and the consumer of dead letters: one JSON object a line."""

import json


def log(level: str, message: str, subject: str, **fields: str | int) -> None:
    """Write one line about ``subject``: a run, a message, an execution."""
    print(json.dumps({"level": level, "message": message, "subject": subject, **fields}), flush=True)
