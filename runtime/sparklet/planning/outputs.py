"""Ids of check, commit and next runs, and which output a run may write to or replace."""

import hashlib
import re
from collections.abc import Iterator

from sparklet.errors import CheckpointConflictError, PlanError
from sparklet.model import Run, RunState
from sparklet.planning.deployment import Deployment

FOLLOW_UP_ID = re.compile(r"-(check|commit|next)-(\d{1,6})$")
MAX_ID = 63  # see model.RUN_ID
DIGEST_CHARACTERS = 8
PUBLISHED = "shard="  # the beginning of the names of folders that Sparklet writes


def check_id(run_id: str, generation: int) -> str:
    """The id of the run that checks a generation."""
    return _follow_up_id(run_id, f"-check-{generation}")


def commit_id(run_id: str, number: int) -> str:
    """The id of the run that makes a run's commits to tables up to this one."""
    return _follow_up_id(run_id, f"-commit-{number}")


def next_id(run_id: str, generation: int) -> str:
    """The id of the run that processes the output of a generation."""
    return _follow_up_id(run_id, f"-next-{generation}")


def is_check_or_commit(run_id: str) -> bool:
    """Whether this is the id of a run that another one's end waits for."""
    found = FOLLOW_UP_ID.search(run_id)
    return found is not None and found[1] != "next"


def _follow_up_id(run_id: str, ending: str) -> str:
    """The parent's id with an ending; one that is too long is cut and ends with its digest."""
    room = MAX_ID - len(ending)
    if len(run_id) > room:
        digest = hashlib.sha256(run_id.encode()).hexdigest()[:DIGEST_CHARACTERS]
        run_id = f"{run_id[: room - DIGEST_CHARACTERS - 1].rstrip('-')}-{digest}"
    return run_id + ending


def refuse_outputs(at: Deployment, run: Run) -> None:
    """PlanError if a run that is not in the ledger yet may not write to its outputs."""
    open_runs = [other for other in at.ledger.runs.unfinalized() if not other.state.ended]
    for folder in _folders(run):
        for other in open_runs:
            _refuse_beside(run, other, folder)
        if run.options.existing == "refuse" and (found := next(_held(at, folder), "")):
            raise PlanError(
                f"the output {folder} is not empty, it holds {found}: append to it (--append), replace what is there "
                "(--overwrite), or name another folder"
            )
        if run.options.existing == "overwrite":
            for uri in _held(at, folder):
                if not uri[len(folder) :].startswith(PUBLISHED):
                    raise PlanError(
                        f"the output {folder} holds {uri}, which no Sparklet run wrote; name another folder"
                    )


def _refuse_beside(run: Run, other: Run, folder: str) -> None:
    """PlanError if one of two open runs would delete what the other one writes, or does not append to it."""
    shared = _overlap(folder, _folders(other))
    if not shared or other.run_id == run.run_id:
        return
    replacing = other.options.existing == "overwrite" and other.state is RunState.PLANNING
    if replacing or run.options.existing != "append":
        remedy = "" if replacing or run.options.existing == "overwrite" else ", or append to it (--append)"
        raise PlanError(f"the run {other.run_id} writes to {folder} too and has not ended; wait for its end{remedy}")


def make_room(at: Deployment, run: Run) -> None:
    """Delete what a run replaces, before any of its shards is handed out; it may be repeated.

    A next run also replaces what next runs of earlier generations have written; CheckpointConflictError if one of them
    has not ended yet.
    """
    named = FOLLOW_UP_ID.search(run.run_id) if run.parent else None
    generation = int(named[2]) if named and named[1] == "next" else 0
    known = (at.known_run(next_id(run.parent, number)) for number in range(generation))
    earlier = [other for other in known if other]
    for other in earlier:
        if not other.state.ended:
            raise CheckpointConflictError(f"{run.run_id} is planned once {other.run_id}, which it replaces, has ended")
    if run.options.existing == "overwrite":
        at.store.delete_all(_held(at, run.output_uri))
    for other in earlier:
        at.store.delete_all(info.uri for info in at.store.list(run.output_uri + other.shard_prefix))


def overtaken_by(at: Deployment, run: Run) -> str:
    """Which later run has replaced the output of this one, or plans again what it has not done; "" if none."""
    for other in at.ledger.runs.list():
        if other.created_s < run.created_s:
            return ""
        if other.run_id == run.run_id:
            continue
        shared = _overlap(other.output_uri, _folders(run))
        if shared and other.options.existing == "overwrite" and other.parent != run.run_id:
            return f"the run {other.run_id} has replaced what it wrote"
        both_incremental = run.options.incremental and other.options.incremental and other.name == run.name
        if both_incremental and (not other.state.ended or next(at.ledger.runs.parts(other.run_id), None)):
            return f"the later run {other.run_id} plans again what it has not done; redrive that one"
    return ""


def _folders(run: Run) -> tuple[str, ...]:
    return (run.output_uri, run.next.output_uri) if run.next else (run.output_uri,)


def _overlap(folder: str, others: tuple[str, ...]) -> bool:
    """Whether a folder equals one of the others, is in one or contains one."""
    return any(folder.startswith(other) or other.startswith(folder) for other in others)


def _held(at: Deployment, folder: str) -> Iterator[str]:
    """The objects in a folder, except the marker of the folder itself."""
    return (info.uri for info in at.store.list(folder) if info.uri != folder)
