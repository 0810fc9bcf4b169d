"""Batches of a stream into a table without Spark: each record once, however batches are cut, repeated and mixed."""

import os
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from deltalake import DeltaTable

from sparklet.connectors.tables import chains, stream_batch
from sparklet.connectors.tables import commit as committer
from sparklet.connectors.tables.declaration import CHAINS, Committed
from sparklet.connectors.tables.stream_batch import Batch, batch_of
from sparklet.job import Job
from sparklet.job.commit_ids import KEPT_DAYS
from sparklet.job.errors import CommitConflictError, CommitStateUnknownError, TableError
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.tables.lakes import Lake, file_system, rows_of
from tests.functional.tables.making import session_for
from tests.unit.events import samples

SENT_MS = 1_700_000_000_000
SHARD, OTHER = "shardId-000000000006", "shardId-000000000007"
FIRST = 49590338271490256608559692538361571095921575989136588898  # more than any integer type of a table holds


@pytest.fixture(params=[pytest.param(name, marks=SESSION_HERE) for name in ("ice", "delta")])
def lake(request: pytest.FixtureRequest, local: Lake) -> Lake:
    """A table with one row, -1."""
    found: Lake = request.getfixturevalue(request.param)
    found.create(rows_of(id=[-1]))
    return found


def event(*ids: int, shard: str = SHARD) -> dict[str, Any]:
    records = [samples.kinesis(str(FIRST + 2**80 * id_)) for id_ in ids]
    return {"Records": [{**record, "eventID": record["eventID"].replace(SHARD, shard)} for record in records]}


def queued(*ids: int, shard: str = "") -> dict[str, Any]:
    records = [samples.sqs(f"m{id_}", "{}") for id_ in ids]
    for id_, record in zip(ids, records, strict=True):
        record["attributes"]["SentTimestamp"] = str(SENT_MS + id_)
    return {"Records": records}


def opened(lake: Lake, *ids: int, shard: str = SHARD, is_read: bool = False, of: Any = event) -> Batch:
    """The batch as a script has it before its rows are staged."""
    return opened_by(Job(event=of(*ids, shard=shard)), lake, is_read=is_read)


def opened_by(job: Job, lake: Lake, label: str | None = None, *, is_read: bool = False) -> Batch:
    batch = batch_of(job, lake.table, label, session_for(lake.table), is_read)
    assert batch
    return batch


def committed(lake: Lake, batch: Batch, mode: str = "append", **how: Any) -> Committed:
    """The rest of the script's write: one row for each new record."""
    numbers = [number for each in batch.new.values() for number in each]
    of_queue = "sqs" in batch.folder
    ids = [(number >> 128) - SENT_MS if of_queue else (number - FIRST) // 2**80 for number in numbers]
    staged = lake.stage(-1, rows_of(id=ids), mode=mode) if ids else lake.stage(-1, rows_of(id=[0]).slice(0, 0))
    folder = f"{batch.opened.root}/{batch.folder}"
    keys = ("id",) if mode == "upsert" else ()
    planned = lake.commit(batch.name, staged, mode=mode, keys=keys, records=batch.new, chains_folder=folder)
    return committer.commit(planned, session_for(planned.table), batch.opened, **how)


def deliver(lake: Lake, *ids: int, shard: str = SHARD) -> Committed:
    return committed(lake, opened(lake, *ids, shard=shard))


def ids_of(lake: Lake) -> list[int]:
    return [id_ for (id_,) in lake.rows("id") if id_ >= 0]


def lanes_of(records: Sequence[int], lanes: int) -> list[list[int]]:
    """How a parallelization factor shares out a shard: by partition key, each part in order."""
    return [[record for record in records if random.Random(record).randrange(lanes) == lane] for lane in range(lanes)]


CUTS = [(event, 0), (event, 1), (queued, 4)]
MORE_CUTS = [pytest.param(*cut, marks=pytest.mark.nightly) for cut in ((event, 2), (event, 3), (queued, 5))]


@pytest.mark.parametrize(("of", "seed"), [*CUTS, *MORE_CUTS])
def test_each_record_once_however_the_stream_is_cut(
    lake: Lake, of: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes overlap; batches come again whole, in parts and with more; a state that was read is old by its commit."""
    dice = random.Random(seed)
    monkeypatch.setattr(chains, "MAX_RANGES", 3)
    lanes = lanes_of(range(60), dice.choice((1, 3)))
    done = [0] * len(lanes)
    waiting: list[Batch] = []
    while any(at < len(lane) for at, lane in zip(done, lanes, strict=True)):
        turn = dice.randrange(len(lanes))
        begin = max(0, done[turn] - dice.choice((0, 0, 2, 9)))  # what was delivered before comes again
        end = min(len(lanes[turn]), begin + dice.randint(1, 15))
        if begin == end:
            continue
        batch = opened(lake, *lanes[turn][begin:end], of=of)
        if dice.random() < 0.3:
            waiting.append(batch)  # a worker that wakes when others have gone on
        else:
            committed(lake, batch)
            done[turn] = max(done[turn], end)
    for late in waiting:
        with suppress(CommitConflictError):  # others have committed a part: Lambda delivers the batch again
            committed(lake, late)

    assert ids_of(lake) == list(range(60))


def test_a_batch_that_comes_again_adds_nothing(lake: Lake) -> None:
    deliver(lake, 1, 2, 3)
    before = lake.versions()

    assert not opened(lake, 1, 2, 3).new
    assert deliver(lake, 2).rows == 0
    assert lake.versions() == before


def test_lanes_that_have_read_the_same_state(lake: Lake) -> None:
    lane, another = opened(lake, 1, 3), opened(lake, 2, 4)

    assert [committed(lake, lane).rows, committed(lake, another).rows] == [2, 2]

    assert not opened(lake, 1, 2, 3, 4).new
    assert ids_of(lake) == [1, 2, 3, 4]


def test_two_deliveries_at_once(lake: Lake) -> None:
    one, same, cut = opened(lake, 1, 2, 3), opened(lake, 1, 2, 3), opened(lake, 3, 4)
    committed(lake, one)

    assert committed(lake, same).already
    with pytest.raises(CommitConflictError) as conflict:
        committed(lake, cut)

    assert conflict.value.retryable
    assert deliver(lake, 3, 4).rows == 1
    assert ids_of(lake) == [1, 2, 3, 4]


def test_shards_are_counted_each_for_itself(lake: Lake) -> None:
    one, other = opened(lake, 1, 2), opened(lake, 3, shard=OTHER)

    committed(lake, one)
    committed(lake, other)

    assert not opened(lake, 1, 2).new and not opened(lake, 3, shard=OTHER).new
    assert deliver(lake, 1, shard=OTHER).rows == 1


def test_an_answer_that_was_lost_keeps_the_files(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, answers = opened(lake, 1, 2), [CommitConflictError("no answer")]
    write = batch.opened.write

    def lost(*args: Any) -> str:
        write(*args)
        raise answers.pop()

    monkeypatch.setattr(batch.opened, "write", lost)

    assert not committed(lake, batch).already  # else the script would delete the table's files
    assert ids_of(lake) == [1, 2]


def test_maintenance_forgets_no_record(lake: Lake) -> None:
    for id_ in range(3):
        deliver(lake, id_)
    if lake.format == "delta":
        DeltaTable(lake.delta).optimize.compact()
    lake.expire(full=True)

    assert not opened(lake, 0, 1, 2).new
    assert deliver(lake, 2, 3).rows == 1


def test_links_of_messages_end_with_the_queues_retention(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "MAX_RANGES", 3)
    folder = Path(file_system(f"{opened(lake, 0, of=queued).opened.root}/{CHAINS}")[1])
    for number in range(5):
        committed(lake, opened(lake, 10 * number, 10 * number + 1, of=queued))
    committed(lake, opened(lake, 1))  # a stream's, which never end
    links = {path: path.stat().st_mtime for path in folder.rglob("*.gz")}
    for path in links:
        os.utime(path, (0, time.time() - KEPT_DAYS * 24 * 3600 - 1))
    committed(lake, opened(lake, 60, of=queued))
    assert links.keys() <= {*folder.rglob("*.gz")}  # it was no third

    committed(lake, opened(lake, 70, of=queued))

    left = links.keys() & {*folder.rglob("*.gz")}
    assert [path.parent for path in left] == [folder]
    assert opened(lake, 60, 70, 71, of=queued).old == ["m60", "m70"]
    committed(lake, opened(lake, 60, 70, 71, of=queued))
    assert ids_of(lake) == [0, 1, 1, 10, 11, 20, 21, 30, 31, 40, 41, 60, 70, 71]
    chains.links_of.cache_clear()
    with pytest.raises(CommitStateUnknownError):
        opened(lake, 0, of=queued)  # an old event, by hand: it is an error, not a guess


def test_a_failed_message_is_in_no_commit(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: Any = SimpleNamespace(limit=lambda n: "no rows")
    job = Job(event=queued(1, 2, 3))
    batch = opened_by(job, lake, is_read=True)
    job.fail_message("m2", "bad")
    monkeypatch.setattr(stream_batch, "without_records", lambda frame, event, names: names)
    assert batch.new_rows(rows, job, lake.table) == ["m2"]
    committed(lake, batch)

    assert ids_of(lake) == [1, 3]
    assert opened(lake, 1, 2, 3, of=queued).old == ["m1", "m3"]
    for each in ("m1", "m3"):
        job.fail_message(each, "bad")
    assert batch.new_rows(rows, job, lake.table) == "no rows"


def test_a_list_that_is_gone_is_an_error_not_a_guess(lake: Lake) -> None:
    deliver(lake, 1)
    root = opened(lake, 2).opened.root
    system, path = file_system(f"{root}/{CHAINS}")
    system.delete_dir(path)
    chains.links_of.cache_clear()

    with pytest.raises(CommitStateUnknownError):
        opened(lake, 2)


def test_rows_made_of_an_old_state_are_refused(lake: Lake) -> None:
    """What a script counts on top of the table's rows fits only the state that it has read."""
    one, other = opened(lake, 1, is_read=True), opened(lake, 1, shard=OTHER, is_read=True)
    committed(lake, one, "upsert", only_on_opened=True)

    with pytest.raises(CommitConflictError):
        committed(lake, other, "upsert", only_on_opened=True)

    again = opened(lake, 1, shard=OTHER, is_read=True)
    assert committed(lake, again, "upsert", only_on_opened=True).rows == 1
    assert ids_of(lake) == [1]


def test_a_second_write_of_a_batch_needs_a_label(lake: Lake) -> None:
    job = Job(event=event(1))
    batch = opened_by(job, lake)
    batch.is_written = True

    with pytest.raises(TableError, match="label"):
        opened_by(job, lake)
    assert opened_by(job, lake, "late").new.keys().isdisjoint(batch.new)


def test_records_read_for_one_table_are_not_another_s(lake: Lake) -> None:
    deliver(lake, 1)
    job = Job(event=event(1, 2))
    opened_by(job, lake, is_read=True)

    with pytest.raises(TableError, match="not for"):
        opened_by(job, lake, "dead letters")
