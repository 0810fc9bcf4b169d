"""Incremental runs of one name, one at a time: each asks what the ones before it have done, so they must have ended.

The turns of a name are numbered files, each created once and never deleted, which hold the id of the run whose turn
it is. A turn can be taken once the run of the one before has ended; of two that try, the conditional put lets one.
No clock decides, and a planner that dies keeps its run's turn until that run ends.
"""

from collections import deque
from urllib.parse import quote

from sparklet.errors import ObjectChangedError, PlanError
from sparklet.fanout.deployment import Deployment
from sparklet.model import Run, RunState


def refuse_another_open(at: Deployment, name: str, run_id: str) -> None:
    """PlanError if an earlier run of the name is open: what it will have done is not known yet."""
    for run in at.ledger.runs.list():
        if run.name == name and run.run_id != run_id and not run.state.ended:
            raise PlanError(_busy(name, run.run_id))


def take_turn(at: Deployment, run: Run) -> None:
    """Make it this run's turn, if it is not already.

    Raises
    ------
    PlanError
        If it is another's. This run has then ended as FAILED with nothing planned.
    """
    while True:
        number, holder = _last_turn(at, run.name)
        if holder == run.run_id:
            return
        if holder and not _ended(at, holder):
            at.ledger.runs.finish(run.run_id, run.generation, RunState.FAILED)
            raise PlanError(f"{_busy(run.name, holder)}; {run.run_id} has ended with nothing planned")
        try:
            at.store.put(f"{_folder(at, run.name)}{number + 1:08d}", run.run_id.encode(), create_only=True)
        except ObjectChangedError:
            continue  # somebody was quicker: see who


def _last_turn(at: Deployment, name: str) -> tuple[int, str]:
    last = deque(at.store.list(_folder(at, name)), maxlen=1)
    if not last:
        return 0, ""
    return int(last[0].uri.rpartition("/")[2]), at.store.get(last[0].uri).decode()


def _folder(at: Deployment, name: str) -> str:
    return f"{at.runs_uri}_turns/{quote(name, safe='')}/"  # no run id begins with an underscore


def _ended(at: Deployment, run_id: str) -> bool:
    holder = at.known_run(run_id)
    return holder is None or holder.state.ended  # a run is entered before its turn: one that is gone was deleted since


def _busy(name: str, run_id: str) -> str:
    return f"the run {run_id}, also named {name!r}, has not ended: wait for it, or stop it (sparklet cancel {run_id})"
