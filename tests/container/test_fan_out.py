"""The demo on the real image: planned, queued, done by the container, checked, and compared with the original.

A loop stands in for the event source mapping, one request at a time; all else is the command line's own code.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

from spark_scripts.demo.flights_check import compare
from spark_scripts.demo.flights_data import FlightsData, make_flights, some_days
from spark_scripts.demo.run_demo import corrupt
from sparklet.model import Counts, Run, RunState, ShardState
from sparklet.runs.redrive import redrive
from tests.container.account import EXAMPLES, Account, QueueMapping
from tests.waiting import eventually

DAYS = tuple(f"2013-02-{day:02d}.csv" for day in range(4, 10))  # with the snowstorm of the 8th and 9th
POISONED = 3  # its place among them


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FlightsData:
    """Six days of flights, with an original that has no others."""
    return some_days(make_flights(tmp_path_factory.mktemp("year")), tmp_path_factory.mktemp("days"), DAYS)


@pytest.fixture(scope="module")
def tables(account: Account, data: FlightsData) -> dict[str, str]:
    """The tables that every shard joins, in the bucket."""
    return {path.stem: account.put(f"input/{path.name}", path.read_bytes()) for path in (data.airlines, data.planes)}


def put_days(account: Account, days: Sequence[Path]) -> str:
    """Put day files into the bucket; their folder."""
    for day in days:
        account.put(f"input/flights/{day.name}", day.read_bytes())
    return account.uri("input/flights/")


def to_its_end(account: Account, mapping: QueueMapping, run: Run) -> Run:
    """Deliver what is in the queue and look after the run until it has ended."""
    eventually(lambda: mapping.deliver() is None and account.check(run).run.state.ended, "the run has ended", 70)
    return account.check(run).run


def test_a_poisoned_file_fails_alone_and_is_redriven_by_image(
    account: Account, mapping: QueueMapping, data: FlightsData, tables: dict[str, str], tmp_path: Path
) -> None:
    days = list(data.days)
    poisoned = tmp_path / days[POISONED].name
    poisoned.write_bytes(days[POISONED].read_bytes())
    corrupt(poisoned)
    folder = put_days(account, [*days[:POISONED], poisoned, *days[POISONED + 1 :]])

    run = account.start(EXAMPLES / "flights_daily.py", [folder], tables, max_attempts=2)
    ended = to_its_end(account, mapping, run)

    assert ended.state is RunState.FAILED
    assert account.at.ledger.shards.count(run.run_id) == Counts(succeeded=len(days) - 1, failed=1)
    failed = account.shard(run, POISONED)
    assert (failed.state, failed.attempts) == (ShardState.FAILED, 2)
    assert f"bad input in {folder}{poisoned.name}: malformed line" in failed.error_message
    done = {
        record.number: record.attempt_id for record in account.at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED)
    }

    put_days(account, [days[POISONED]])  # repaired
    redrive(account.at, run.run_id)
    ended = to_its_end(account, mapping, run)

    assert ended.state is RunState.SUCCEEDED
    records = list(account.at.ledger.shards.list(run.run_id))
    assert {record.number: record.attempt_id for record in records if record.number != POISONED} == done
    comparison = compare(account.download(run.output_uri, tmp_path / "output"), data)
    assert comparison.ok, comparison
    assert sum(record.rows or 0 for record in records) == comparison.rows == data.rows
