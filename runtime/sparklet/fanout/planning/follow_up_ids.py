"""Ids of the runs that follow a run: ``daily-7-check-0`` checks it, ``daily-7-next-0`` works on what it wrote.

They are made from the parent's id, what it is and the generation alone, so that whoever comes to enter it finds the
one that is there. Nobody else can take one: such an id is refused to users.
"""

import hashlib
import re

FOLLOW_UP_ID = re.compile(r"-(check|next)-\d{1,6}$")
MAX_ID = 63  # see model.RUN_ID
DIGEST_CHARACTERS = 8


def check_id(run_id: str, generation: int) -> str:
    """The id of the run that checks a generation."""
    return _follow_up_id(run_id, f"-check-{generation}")


def next_id(run_id: str, generation: int) -> str:
    """The id of the run that works on what a generation has left."""
    return _follow_up_id(run_id, f"-next-{generation}")


def earlier_next_ids(parent: str, run_id: str) -> tuple[str, ...]:
    """The ids of a parent's next runs before this one; none if this is no next run."""
    found = FOLLOW_UP_ID.search(run_id) if parent else None
    generation = int(found[0].rpartition("-")[2]) if found and found[1] == "next" else 0
    return tuple(next_id(parent, earlier) for earlier in range(generation))


def is_check(run_id: str) -> bool:
    """Whether this is the id of a run that checks another."""
    found = FOLLOW_UP_ID.search(run_id)
    return found is not None and found[1] == "check"


def _follow_up_id(run_id: str, ending: str) -> str:
    """The parent's id with an ending; one that is too long is cut, with a digest of it in place of the rest."""
    room = MAX_ID - len(ending)
    if len(run_id) > room:
        digest = hashlib.sha256(run_id.encode()).hexdigest()[:DIGEST_CHARACTERS]
        run_id = f"{run_id[: room - DIGEST_CHARACTERS - 1].rstrip('-')}-{digest}"
    return run_id + ending
