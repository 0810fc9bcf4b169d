"""``--max-concurrency``: a run's messages are sent by its checks, for so many shards at once and no more.

Its planner sends none. A check counts the shards that have a message or are RUNNING, and sends for the next PENDING
ones, in order of number, up to the cap. A file saves reading all shards each time::

    runs/<run_id>/throttle/<identity>/sent-<generation>.json    {"next": shard, "sent": {shard: when}}

Shards before ``next`` were looked at in this generation; those among them that had not ended are in ``sent``. However
old the file is, the cap holds: what was sent since comes first again, and counts (docs/decisions/0038).
"""

import json
from itertools import count, takewhile
from typing import Any

from sparklet.errors import PlanError, ShardNotFoundError
from sparklet.model import Dispatch, Run, ShardRecord, ShardState
from sparklet.planning.planner import send_messages
from sparklet.ports.deployment import Deployment
from sparklet.runs.redelivery import CAPPED

FOLDER, SENT, CAP = "throttle/", "sent-{:06d}.json", "max_concurrency.json"


def cap_of(at: Deployment, run: Run) -> int:
    """How many shards of a run may be in work at once, by its options or what changed them; 0: any number."""
    return int(_stored(at, run).get(CAP, run.options.max_concurrency))


def throttle(at: Deployment, run_id: str, max_concurrency: int) -> None:
    """Change an open run's cap, from its next check or batch on; PlanError if it has ended, or began without a cap."""
    run = at.ledger.runs.get(run_id)
    if run.state.ended:
        raise PlanError(f"the run {run_id} has ended already, it is {run.state}; there is nothing to throttle")
    if not run.options.max_concurrency and run.dispatch is Dispatch.QUEUE:
        raise PlanError(f"the run {run_id} was started without --max-concurrency, so all its messages are sent")
    at.store.put(at.run_uri(run_id, f"{FOLDER}{run.identity}/{CAP}"), json.dumps(max_concurrency).encode())


def within_cap(at: Deployment, run: Run, waiting: list[ShardRecord]) -> list[ShardRecord]:
    """Those of an engine's waiting shards that have a place under the cap, as ``send_up_to_cap`` gave it to them."""
    if run.dispatch is not Dispatch.QUEUE or not waiting:
        return waiting
    placed = _stored(at, run).get(SENT.format(run.generation), {"sent": {}})["sent"]
    return [record for record in waiting if str(record.number) in placed]


def send_up_to_cap(at: Deployment, run: Run) -> int:
    """Send messages for as many shards as the cap has room for, and lost ones again; how many were lost."""
    stored, now_s, sent = _stored(at, run), at.clock.now_s(), dict[int, float]()
    file = SENT.format(run.generation)
    newest = max(stored.keys() - {CAP}, default="")
    was, goes_on = stored.get(newest, {"sent": {}}), newest == file  # else a redrive has moved shards that had ended
    to_send: list[ShardRecord] = []
    for number, when_s in was["sent"].items():
        record = at.ledger.shards.get(run.run_id, int(number))
        if record.state.ended:
            continue
        sent[record.number] = when_s
        if not goes_on:
            to_send.append(record)
        elif record.state is ShardState.PENDING and not record.engine and CAPPED.is_due(record, now_s, when_s):
            to_send += filter(None, [at.ledger.attempts.count_requeue(record)])
    lost = len(to_send) if goes_on else 0
    place, cap = was["next"] if goes_on else 0, stored.get(CAP, run.options.max_concurrency)
    for number in at.for_a_while(takewhile(lambda _: len(sent) < cap, count(place))):
        try:
            record = at.ledger.shards.get(run.run_id, number)
        except ShardNotFoundError:
            break  # not planned yet, or there are no more
        place += 1
        if not record.state.ended and number not in sent:
            sent[number] = now_s
            to_send.append(record)
    send_messages(at, run, (each for each in to_send if each.state is ShardState.PENDING), by_check=True)
    at.store.put(
        at.run_uri(run.run_id, f"{FOLDER}{run.identity}/{file}"), json.dumps({"next": place, "sent": sent}).encode()
    )
    return lost


def _stored(at: Deployment, run: Run) -> dict[str, Any]:
    """The documents of a run, by name; they are listed, since a role may not ask for one that is not there.

    Earlier versions wrote them into the folder itself, where those of a run in another ledger may be: older ones.
    """
    folder, mine, found = at.run_uri(run.run_id, FOLDER), f"{run.identity}/", dict[str, Any]()
    for info in at.store.list(folder):
        owner, slash, name = info.uri.removeprefix(folder).rpartition("/")
        if owner + slash == mine or (not owner and info.modified_s >= run.created_s and name not in found):
            found[name] = json.loads(at.store.get(info.uri))
    return found
