"""From the first message to the end of a run: check, dead letters, state machines, cancel, redrive, manifests."""

import json


def log(level: str, message: str, subject: str, **fields: str | int) -> None:
    """Write one line about ``subject``: a run, a message, an execution."""
    print(json.dumps({"level": level, "message": message, "subject": subject, **fields}), flush=True)
