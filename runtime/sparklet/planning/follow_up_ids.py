"""Ids of schema, check, commit and next runs, which derive from their parent's."""

import hashlib
import re
from typing import Literal, get_args

Kind = Literal["schema", "check", "commit", "next"]
FOLLOW_UP_ID = re.compile(rf"-({'|'.join(get_args(Kind))})-(\d{{1,6}})$")
MAX_ID = 63  # see model.RUN_ID
DIGEST_CHARACTERS = 8


def follow_up_id(run_id: str, what: Kind, number: int = 0) -> str:
    """The id of the run that infers a run's schema, checks a generation, commits up to a file, or processes its output.

    ``number``: of the generation, or of the commit. An id that would be too long is cut and ends with its digest.
    """
    ending = f"-{what}-{number}"
    room = MAX_ID - len(ending)
    if len(run_id) > room:
        digest = hashlib.sha256(run_id.encode()).hexdigest()[:DIGEST_CHARACTERS]
        run_id = f"{run_id[: room - DIGEST_CHARACTERS - 1].rstrip('-')}-{digest}"
    return run_id + ending


def own_task(run_id: str) -> str:
    """The task of another run that a run of this id does while that waits: schema, check or commit; "": none."""
    match = FOLLOW_UP_ID.search(run_id)
    return match[1] if match and match[1] != "next" else ""
