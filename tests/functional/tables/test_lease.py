"""A lease is held by one writer at a time, and is free again when its writer is gone."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from deltalake import CommitProperties, DeltaTable, Transaction

from sparklet.job.errors import CommitConflictError
from sparklet.tables import hudi as leases
from sparklet.tables.hudi import lease
from sparklet.tables.staged_files import delta_place
from tests.functional.tables.lakes import Lake


@pytest.fixture(params=["local", "in_s3"])
def uri(request: pytest.FixtureRequest) -> str:
    lake: Lake = request.getfixturevalue(request.param)
    return f"{lake.place}/t/_lease"


def held_until_ms(uri: str) -> int:
    place, options = delta_place(uri)
    return DeltaTable(place, storage_options=options).transaction_version(leases.LEASE) or 0


def hold(uri: str, duration_s: float) -> None:
    """What another writer does; somebody has held the lease before."""
    place, options = delta_place(uri)
    table = DeltaTable(place, storage_options=options)
    until = CommitProperties(app_transactions=[Transaction(leases.LEASE, int((time.time() + duration_s) * 1000))])
    table.create_write_transaction([], "append", table.schema(), commit_properties=until)


def test_one_holds_it_at_a_time(uri: str) -> None:
    seen: list[str] = []

    def hold(number: int) -> None:
        for _ in range(3):
            with lease(uri):
                seen.append(f"{number} in")
                time.sleep(0.02)
                seen.append(f"{number} out")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(hold, range(4)))

    assert len(seen) == 24
    assert all(enter.split()[0] == leave.split()[0] for enter, leave in zip(seen[::2], seen[1::2], strict=True))


def test_a_lease_is_renewed(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 1.5)

    with lease(uri):
        time.sleep(2.5)
        assert held_until_ms(uri) > time.time() * 1000, "nobody else gets it"


def test_an_abandoned_lease_ends(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease(uri):
        pass
    hold(uri, 0.5)
    started_s = time.monotonic()

    with lease(uri):
        assert time.monotonic() - started_s >= 0.3


def test_who_lost_a_lease_is_told(uri: str) -> None:
    with pytest.raises(CommitConflictError, match="was lost"), lease(uri):
        hold(uri, 30)  # another writer, once the lease has ended whose holder sleeps


def test_who_waits_too_long_is_told(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MAX_WAIT_S", 0.3)
    with suppress(CommitConflictError), lease(uri):
        hold(uri, 30)

    with pytest.raises(CommitConflictError, match="was held by others"), lease(uri):
        pass
