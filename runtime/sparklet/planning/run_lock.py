"""The lock on a run name: of incremental runs of one name one is open, since each asks what those before it have done.

A name's locks are numbered files, each created once and never deleted; each holds the id of the run that has taken it.
The next one can be taken once that run has ended; of two that try, the conditional put lets one. No clock decides, and
a planner that dies keeps its run's lock until that run ends.
"""

from collections import deque
from urllib.parse import quote

from sparklet.errors import ObjectChangedError, PlanError
from sparklet.model import Run, RunState
from sparklet.planning.deployment import Deployment


def refuse_another_open(at: Deployment, name: str, run_id: str) -> None:
    """PlanError if an earlier run of the name is open: what it will have done is not known yet."""
    for run in at.ledger.runs.list():
        if run.name == name and run.run_id != run_id and not run.state.ended:
            raise PlanError(_busy(name, run.run_id))


def take_run_lock(at: Deployment, run: Run) -> None:
    """Take the lock on the run's name, unless the run has it already.

    Raises
    ------
    PlanError
        If another run has it. This run has then ended as FAILED with nothing planned.
    """
    folder = f"{at.runs_uri}_locks/{quote(run.name, safe='')}/"  # no run id begins with an underscore
    while True:
        number, holder = 0, ""
        if last := deque(at.store.list(folder), maxlen=1):
            number, holder = int(last[0].uri.rpartition("/")[2]), at.store.get(last[0].uri).decode()
        if holder == run.run_id:
            return
        known = at.known_run(holder) if holder else None  # entered before it took the lock: one not known was deleted
        if known and not known.state.ended:
            at.ledger.runs.finish(run.run_id, run.generation, RunState.FAILED)
            raise PlanError(f"{_busy(run.name, holder)}; {run.run_id} has ended with nothing planned")
        try:
            at.store.put(f"{folder}{number + 1:08d}", run.run_id.encode(), create_only=True)
        except ObjectChangedError:
            continue  # somebody was quicker: see who


def _busy(name: str, run_id: str) -> str:
    return f"the run {run_id}, also named {name!r}, has not ended: wait for it, or stop it (sparklet cancel {run_id})"
