"""Ids of schema, check, commit and next runs, which derive from their parent's."""

import hashlib
import re

FOLLOW_UP_ID = re.compile(r"-(schema|check|commit|next)-(\d{1,6})$")
MAX_ID = 63  # see model.RUN_ID
DIGEST_CHARACTERS = 8


def schema_id(run_id: str) -> str:
    """The id of the run that infers a run's schema."""
    return _follow_up_id(run_id, "-schema-0")


def check_id(run_id: str, generation: int) -> str:
    """The id of the run that checks a generation."""
    return _follow_up_id(run_id, f"-check-{generation}")


def commit_id(run_id: str, number: int) -> str:
    """The id of the run that makes a run's commits to tables up to this one."""
    return _follow_up_id(run_id, f"-commit-{number}")


def next_id(run_id: str, generation: int) -> str:
    """The id of the run that processes the output of a generation."""
    return _follow_up_id(run_id, f"-next-{generation}")


def is_own_task(run_id: str) -> bool:
    """Whether this is the id of a run that does a task of another one, which waits for it: schema, check or commit."""
    found = FOLLOW_UP_ID.search(run_id)
    return found is not None and found[1] != "next"


def _follow_up_id(run_id: str, ending: str) -> str:
    """The parent's id with an ending; one that is too long is cut and ends with its digest."""
    room = MAX_ID - len(ending)
    if len(run_id) > room:
        digest = hashlib.sha256(run_id.encode()).hexdigest()[:DIGEST_CHARACTERS]
        run_id = f"{run_id[: room - DIGEST_CHARACTERS - 1].rstrip('-')}-{digest}"
    return run_id + ending
