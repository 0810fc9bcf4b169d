"""``--max-concurrency``: a run's messages are sent by its checks, for so many shards at once and no more.

Its planner sends none. A check counts the shards that have a message or are RUNNING, and sends for the next PENDING
ones, in order of number, up to the cap. A file saves reading all shards each time::

    runs/<run_id>/capped/<identity>/sent-<generation>.json    {"next": shard, "sent": {shard: when}}

Shards before ``next`` were looked at in this generation; those among them that had not ended are in ``sent``. However
old the file is, the cap holds: what was sent since comes first again, and counts (docs/decisions/0038). A Map state has
the cap as its own, so only what it leaves is sent here.
"""

import json
from collections.abc import Container
from itertools import count, takewhile
from typing import Any

from sparklet.model import Dispatch, Run, ShardRecord, ShardState
from sparklet.planning.planner import send_messages
from sparklet.ports.deployment import Deployment
from sparklet.runs.redelivery import CAPPED

FOLDER, SENT = "capped/", "sent-{:06d}.json"


def within_cap(deployment: Deployment, run: Run, waiting: list[ShardRecord]) -> list[ShardRecord]:
    """Those of waiting shards that have a place under the cap, as ``send_up_to_cap`` gave it to them."""
    if not waiting or run.has_map:
        return waiting
    placed = _stored(deployment, run).get(SENT.format(run.generation), {"sent": {}})["sent"]
    return [record for record in waiting if str(record.number) in placed]


def has_begun(deployment: Deployment, run: Run) -> bool:
    """Whether a check has sent a message of this run."""
    return bool(_stored(deployment, run))


def send_up_to_cap(deployment: Deployment, run: Run) -> int:
    """Send messages for as many shards as the cap has room for, and lost ones again; how many were lost."""
    stored, now_s, sent = _stored(deployment, run), deployment.clock.now_s(), dict[int, float]()
    file = SENT.format(run.generation)
    # Names are padded, so the last one as text is that of the latest generation.
    newest = max(stored, default="")
    was, goes_on = stored.get(newest, {"sent": {}}), newest == file  # else a redrive has moved shards that had ended
    to_send: list[ShardRecord] = []
    for number, when_s in was["sent"].items():
        record = deployment.ledger.shards.get(run.run_id, int(number))
        if record.state.ended or record.split:
            continue
        sent[record.number] = when_s
        if not goes_on:
            to_send.append(record)
        elif record.is_for_functions and CAPPED.is_due(record, now_s, when_s):
            to_send += filter(None, [deployment.ledger.attempts.count_requeue(record)])
    lost = len(to_send) if goes_on else 0
    next_number = was["next"] if goes_on else 0
    room = run.options.max_concurrency - _beside(deployment, run, sent)
    for number in deployment.for_a_while(takewhile(lambda _: len(sent) < room, count(next_number))):
        if (later := deployment.known_shard(run.run_id, number)) is None:
            break  # not planned yet, or there are no more
        next_number += 1
        if not (later.state.ended or later.split or number in sent):
            sent[number] = now_s
            to_send.append(later)
    # Sent before it is noted: after a crash in between the next check meets the same shards first, and gives them
    # places again. Noted first, a shard could have a place and no message.
    send_messages(deployment, run, to_send, by_check=True)
    deployment.store.put(
        deployment.run_uri(run.run_id, f"{FOLDER}{run.identity}/{file}"),
        json.dumps({"next": next_number, "sent": sent}).encode(),
    )
    return lost


def _beside(deployment: Deployment, run: Run, sent: Container[int]) -> int:
    """How many shards are RUNNING without a message: children of a Map that goes on."""
    if run.dispatch is Dispatch.QUEUE:
        return 0
    running = deployment.ledger.shards.list(run.run_id, ShardState.RUNNING)
    return sum(record.number not in sent and record.by_function for record in running)


def _stored(deployment: Deployment, run: Run) -> dict[str, Any]:
    """The documents of a run, by name; they are listed, since a role may not ask for one that is not there."""
    folder = deployment.run_uri(run.run_id, f"{FOLDER}{run.identity}/")
    return {
        info.uri.removeprefix(folder): json.loads(deployment.store.get(info.uri))
        for info in deployment.store.list(folder)
    }
