"""Stream batches are written to a table: each record once, however the batches are cut, repeated and mixed."""

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
SHARD, OTHER_SHARD = "shardId-000000000006", "shardId-000000000007"
FIRST = 49590338271490256608559692538361571095921575989136588898  # too large for any integer type of a table


@pytest.fixture(params=[pytest.param(name, marks=SESSION_HERE) for name in ("ice", "delta")])
def lake(request: pytest.FixtureRequest, local: Lake) -> Lake:
    """A table with one row, whose id is -1."""
    lake_of_format: Lake = request.getfixturevalue(request.param)
    lake_of_format.create(rows_of(id=[-1]))
    return lake_of_format


def event(*ids: int, shard: str = SHARD) -> dict[str, Any]:
    records = [samples.kinesis(str(FIRST + 2**80 * id_)) for id_ in ids]
    return {"Records": [{**record, "eventID": record["eventID"].replace(SHARD, shard)} for record in records]}


def queued(*ids: int, shard: str = "") -> dict[str, Any]:
    records = [samples.sqs(f"m{id_}", "{}") for id_ in ids]
    for id_, record in zip(ids, records, strict=True):
        record["attributes"]["SentTimestamp"] = str(SENT_MS + id_)
    return {"Records": records}


def open_batch(lake: Lake, *ids: int, shard: str = SHARD, is_read: bool = False, make_event: Any = event) -> Batch:
    """Return the batch of these records as a script has it before its rows are staged."""
    return batch_of_job(Job(event=make_event(*ids, shard=shard)), lake, is_read=is_read)


def batch_of_job(job: Job, lake: Lake, label: str | None = None, *, is_read: bool = False) -> Batch:
    batch = batch_of(job, lake.table, label, session_for(lake.table), is_read)
    assert batch
    return batch


def commit_batch(lake: Lake, batch: Batch, mode: str = "append", **options: Any) -> Committed:
    """Stage one row for each new record and commit the rows, as the rest of a script's write does."""
    numbers = [number for each in batch.new.values() for number in each]
    has_messages = "sqs" in batch.folder
    ids = [(number >> 128) - SENT_MS if has_messages else (number - FIRST) // 2**80 for number in numbers]
    staged = lake.stage(-1, rows_of(id=ids), mode=mode) if ids else lake.stage(-1, rows_of(id=[0]).slice(0, 0))
    folder = f"{batch.opened.root}/{batch.folder}"
    keys = ("id",) if mode == "upsert" else ()
    planned = lake.commit(batch.name, staged, mode=mode, keys=keys, records=batch.new, chains_folder=folder)
    return committer.commit(planned, session_for(planned.table), batch.opened, **options)


def deliver(lake: Lake, *ids: int, shard: str = SHARD) -> Committed:
    return commit_batch(lake, open_batch(lake, *ids, shard=shard))


def ids_of(lake: Lake) -> list[int]:
    return [id_ for (id_,) in lake.rows("id") if id_ >= 0]


def lanes_of(records: Sequence[int], lanes: int) -> list[list[int]]:
    """Split records by partition key, each part in order, as Lambda's parallelization factor splits a shard."""
    return [[record for record in records if random.Random(record).randrange(lanes) == lane] for lane in range(lanes)]


CUTS = [(event, 0), (event, 1), (queued, 4)]
MORE_CUTS = [pytest.param(*cut, marks=pytest.mark.nightly) for cut in ((event, 2), (event, 3), (queued, 5))]


@pytest.mark.parametrize(("make_event", "seed"), [*CUTS, *MORE_CUTS])
def test_each_record_is_written_once_however_batches_are_cut(
    lake: Lake, make_event: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes overlap; batches are repeated whole, in part or with more records; some commit to an old state."""
    dice = random.Random(seed)
    monkeypatch.setattr(chains, "MAX_RANGES", 3)
    lanes = lanes_of(range(60), dice.choice((1, 3)))
    done = [0] * len(lanes)
    waiting: list[Batch] = []
    while any(position < len(lane) for position, lane in zip(done, lanes, strict=True)):
        turn = dice.randrange(len(lanes))
        begin = max(0, done[turn] - dice.choice((0, 0, 2, 9)))  # some records are delivered again
        end = min(len(lanes[turn]), begin + dice.randint(1, 15))
        if begin == end:
            continue
        batch = open_batch(lake, *lanes[turn][begin:end], make_event=make_event)
        if dice.random() < 0.3:
            waiting.append(batch)  # a worker that is paused, and continues after the others
        else:
            commit_batch(lake, batch)
            done[turn] = max(done[turn], end)
    for late in waiting:
        with suppress(CommitConflictError):  # other workers have committed a part: Lambda delivers the batch again
            commit_batch(lake, late)

    assert ids_of(lake) == list(range(60))


def test_a_batch_that_is_delivered_again_adds_nothing(lake: Lake) -> None:
    deliver(lake, 1, 2, 3)
    before = lake.versions()

    assert not open_batch(lake, 1, 2, 3).new
    assert deliver(lake, 2).rows == 0
    assert lake.versions() == before


def test_two_lanes_can_commit_on_the_same_state(lake: Lake) -> None:
    lane, another = open_batch(lake, 1, 3), open_batch(lake, 2, 4)

    assert [commit_batch(lake, lane).rows, commit_batch(lake, another).rows] == [2, 2]

    assert not open_batch(lake, 1, 2, 3, 4).new
    assert ids_of(lake) == [1, 2, 3, 4]


def test_two_deliveries_at_once_add_each_record_once(lake: Lake) -> None:
    one, same, cut = open_batch(lake, 1, 2, 3), open_batch(lake, 1, 2, 3), open_batch(lake, 3, 4)
    commit_batch(lake, one)

    assert commit_batch(lake, same).already
    with pytest.raises(CommitConflictError) as conflict:
        commit_batch(lake, cut)

    assert conflict.value.retryable
    assert deliver(lake, 3, 4).rows == 1
    assert ids_of(lake) == [1, 2, 3, 4]


def test_records_of_two_shards_are_counted_separately(lake: Lake) -> None:
    one, other = open_batch(lake, 1, 2), open_batch(lake, 3, shard=OTHER_SHARD)

    commit_batch(lake, one)
    commit_batch(lake, other)

    assert not open_batch(lake, 1, 2).new and not open_batch(lake, 3, shard=OTHER_SHARD).new
    assert deliver(lake, 1, shard=OTHER_SHARD).rows == 1


def test_a_commit_keeps_its_files_if_the_response_is_lost(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, errors = open_batch(lake, 1, 2), [CommitConflictError("no answer")]
    write = batch.opened.write

    def write_and_lose_response(*args: Any) -> str:
        write(*args)
        raise errors.pop()

    monkeypatch.setattr(batch.opened, "write", write_and_lose_response)

    assert not commit_batch(lake, batch).already  # if it were true, the script would delete the table's files
    assert ids_of(lake) == [1, 2]


def test_maintenance_forgets_no_record(lake: Lake) -> None:
    for id_ in range(3):
        deliver(lake, id_)
    if lake.format == "delta":
        DeltaTable(lake.delta).optimize.compact()
    lake.expire(full=True)

    assert not open_batch(lake, 0, 1, 2).new
    assert deliver(lake, 2, 3).rows == 1


def test_links_of_messages_are_deleted_after_the_retention(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "MAX_RANGES", 3)
    folder = Path(file_system(f"{open_batch(lake, 0, make_event=queued).opened.root}/{CHAINS}")[1])
    for number in range(5):
        commit_batch(lake, open_batch(lake, 10 * number, 10 * number + 1, make_event=queued))
    commit_batch(lake, open_batch(lake, 1))  # a link of a stream, which is never deleted
    links = {path: path.stat().st_mtime for path in folder.rglob("*.gz")}
    for path in links:
        os.utime(path, (0, time.time() - KEPT_DAYS * 24 * 3600 - 1))
    commit_batch(lake, open_batch(lake, 60, make_event=queued))
    assert links.keys() <= {*folder.rglob("*.gz")}  # this link was not a third one

    commit_batch(lake, open_batch(lake, 70, make_event=queued))

    left = links.keys() & {*folder.rglob("*.gz")}
    assert [path.parent for path in left] == [folder]
    assert open_batch(lake, 60, 70, 71, make_event=queued).old == ["m60", "m70"]
    commit_batch(lake, open_batch(lake, 60, 70, 71, make_event=queued))
    assert ids_of(lake) == [0, 1, 1, 10, 11, 20, 21, 30, 31, 40, 41, 60, 70, 71]
    chains.links_of.cache_clear()
    with pytest.raises(CommitStateUnknownError):
        open_batch(lake, 0, make_event=queued)  # an old event, sent by hand, is an error, not a guess


def test_a_failed_message_is_in_no_commit(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(event=queued(1, 2, 3))
    batch = batch_of_job(job, lake, is_read=True)
    job.fail_message("m2", "bad")
    excluded_messages = _new_rows(batch, job, lake, monkeypatch)
    commit_batch(lake, batch)

    assert excluded_messages == ["m2"]
    assert ids_of(lake) == [1, 3]
    assert open_batch(lake, 1, 2, 3, make_event=queued).old == ["m1", "m3"]


def test_no_rows_are_written_if_all_messages_have_failed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(event=queued(1, 2, 3))
    batch = batch_of_job(job, lake, is_read=True)
    for message in ("m1", "m2", "m3"):
        job.fail_message(message, "bad")

    assert _new_rows(batch, job, lake, monkeypatch) == "no rows"


def _new_rows(batch: Batch, job: Job, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call ``new_rows`` with fakes: it returns the messages that it excludes, or "no rows" if it excludes all rows."""
    frame: Any = SimpleNamespace(limit=lambda n: "no rows")
    monkeypatch.setattr(stream_batch, "without_records", lambda frame, event, names: names)
    return batch.new_rows(frame, job, lake.table)


def test_a_missing_chain_is_an_error(lake: Lake) -> None:
    deliver(lake, 1)
    root = open_batch(lake, 2).opened.root
    system, path = file_system(f"{root}/{CHAINS}")
    system.delete_dir(path)
    chains.links_of.cache_clear()

    with pytest.raises(CommitStateUnknownError):
        open_batch(lake, 2)


def test_rows_computed_from_an_old_state_are_refused(lake: Lake) -> None:
    """A script that adds to the table's rows, such as to a count, has a result only for the state that it has read."""
    one, other = open_batch(lake, 1, is_read=True), open_batch(lake, 1, shard=OTHER_SHARD, is_read=True)
    commit_batch(lake, one, "upsert", only_on_opened=True)

    with pytest.raises(CommitConflictError):
        commit_batch(lake, other, "upsert", only_on_opened=True)

    again = open_batch(lake, 1, shard=OTHER_SHARD, is_read=True)
    assert commit_batch(lake, again, "upsert", only_on_opened=True).rows == 1
    assert ids_of(lake) == [1]


def test_a_second_write_of_a_batch_needs_a_label(lake: Lake) -> None:
    job = Job(event=event(1))
    batch = batch_of_job(job, lake)
    batch.is_written = True

    with pytest.raises(TableError, match="label"):
        batch_of_job(job, lake)
    assert batch_of_job(job, lake, "late").new.keys().isdisjoint(batch.new)


def test_records_read_for_one_table_cannot_go_to_another(lake: Lake) -> None:
    deliver(lake, 1)
    job = Job(event=event(1, 2))
    batch_of_job(job, lake, is_read=True)

    with pytest.raises(TableError, match="not for"):
        batch_of_job(job, lake, "dead letters")
