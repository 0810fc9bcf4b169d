"""What scripts hold by a lease: the turn to write to a table of Hudi.

Held by one at a time, renewed while it is in use, and free again when its holder is gone. Leases go
by the test's clock, and only the renewing thread's pauses, of parts of a second, are real.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from deltalake import CommitProperties, DeltaTable, Transaction

from sparklet.aws.clients import AwsClients
from sparklet.job.errors import CommitConflictError
from sparklet.tables import hudi
from sparklet.tables.staged_files import delta_place
from tests.contract.conftest import ON_STACK
from tests.stand_ins.memory import FakeClock
from tests.waiting import POLL_S, deadline_s, eventually

LENGTH_S = 1.0


@dataclass(frozen=True)
class Lease:
    """A lease, on a thing of this test's own."""

    hold: Callable[[], AbstractContextManager[Any]]
    leave: Callable[[float], object]  # what a holder that is gone has stored: the lease, until a time
    until_s: Callable[[], float]


def turn(uri: str) -> Lease:
    def table() -> DeltaTable:
        place, options = delta_place(uri)
        return DeltaTable(place, storage_options=options)

    def leave(until_s: float) -> None:
        with hudi.lease(uri):
            pass
        until = CommitProperties(app_transactions=[Transaction("lease", int(until_s * 1000))])
        table().create_write_transaction([], "append", table().schema(), commit_properties=until)

    def until_s() -> float:
        return (table().transaction_version("lease") or 0) / 1000

    return Lease(lambda: hudi.lease(uri), leave, until_s)


@pytest.fixture(params=["folder", pytest.param("s3", marks=ON_STACK)])
def lease(
    request: pytest.FixtureRequest, tmp_path: Path, run_id: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> Lease:
    monkeypatch.setattr(hudi, "LEASE_S", LENGTH_S)
    own = SimpleNamespace(time=clock.now_s, monotonic=clock.now_s, sleep=clock.sleep)
    monkeypatch.setattr(hudi, "time", own)
    if request.param == "folder":
        return turn(f"file://{tmp_path}/t/_lease")
    clients: AwsClients = request.getfixturevalue("ministack_clients")
    monkeypatch.setenv("AWS_ENDPOINT_URL", clients.s3.meta.endpoint_url)
    clients.s3.create_bucket(Bucket=run_id)
    return turn(f"s3://{run_id}/t/_lease")


def test_one_holds_it_at_a_time(lease: Lease, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, refused = list[str](), threading.Event()

    def wait_for_it(_: float) -> None:
        refused.set()
        threading.Event().wait(POLL_S)

    own = SimpleNamespace(time=clock.now_s, monotonic=clock.now_s, sleep=wait_for_it)
    monkeypatch.setattr(hudi, "time", own)

    def hold(number: int) -> None:
        for _ in range(2):
            with lease.hold():
                seen.append(f"{number} in")
                if len(seen) < 12:  # others want it still
                    refused.clear()
                    assert refused.wait(deadline_s())
                seen.append(f"{number} out")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(hold, range(4)))

    assert len(seen) == 16
    assert all(enter.split()[0] == leave.split()[0] for enter, leave in zip(seen[::2], seen[1::2], strict=True))


def test_it_is_renewed_and_who_waits_too_long_is_told(
    lease: Lease, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease.hold():
        for _ in range(3):
            clock.advance(0.9 * LENGTH_S)
            eventually(lambda: lease.until_s() > clock.now_s() + 0.5 * LENGTH_S)
        monkeypatch.setattr(hudi, "MAX_WAIT_S", 0.1)
        with pytest.raises(CommitConflictError, match="held by others"), lease.hold():
            pass


def test_one_that_is_left_is_free_once_it_is_over(lease: Lease, clock: FakeClock) -> None:
    over_s = clock.now_s() + 100 * LENGTH_S
    lease.leave(over_s)

    with lease.hold():
        assert clock.now_s() >= over_s
