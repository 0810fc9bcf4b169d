"""What scripts hold by a lease: a connection to a database, the turn to write to a table of Hudi.

One suite for both: held by one at a time, renewed while it is in use, and free again when its holder is gone.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deltalake import CommitProperties, DeltaTable, Transaction

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb.items import attributes
from sparklet.databases import tokens
from sparklet.job.errors import CommitConflictError, DatabaseError
from sparklet.tables import hudi
from sparklet.tables.staged_files import delta_place
from tests.contract.conftest import ON_STACK, TABLE

LENGTH_S = 1.0


@dataclass(frozen=True)
class Lease:
    """A kind of lease, on a thing of this test's own."""

    hold: Callable[[], AbstractContextManager[Any]]
    leave: Callable[[float], object]  # what a holder that is gone has stored: the lease, for so many seconds
    module: Any


def token(clients: AwsClients, run_id: str) -> Lease:
    def leave(duration_s: float) -> None:
        values = {"until_0": time.time() + duration_s, "holder_0": "gone"}
        key = {"pk": f"connections#{run_id}", "sk": "tokens"}
        clients.dynamodb.put_item(TableName=TABLE, Item=attributes({**key, **values}))

    return Lease(lambda: tokens.tokens(run_id, 1, 1, LENGTH_S / 5), leave, tokens)


def turn(uri: str) -> Lease:
    def leave(duration_s: float) -> None:
        with hudi.lease(uri):
            pass
        place, options = delta_place(uri)
        table = DeltaTable(place, storage_options=options)
        until = CommitProperties(app_transactions=[Transaction("lease", int((time.time() + duration_s) * 1000))])
        table.create_write_transaction([], "append", table.schema(), commit_properties=until)

    return Lease(lambda: hudi.lease(uri), leave, hudi)


@pytest.fixture(params=["folder", *(pytest.param(name, marks=ON_STACK) for name in ("token", "s3"))])
def lease(request: pytest.FixtureRequest, tmp_path: Path, run_id: str, monkeypatch: pytest.MonkeyPatch) -> Lease:
    monkeypatch.setattr(hudi, "LEASE_S", LENGTH_S)
    if request.param == "folder":
        return turn(f"file://{tmp_path}/t/_lease")
    clients: AwsClients = request.getfixturevalue("ministack_clients")
    monkeypatch.setenv("AWS_ENDPOINT_URL", clients.s3.meta.endpoint_url)
    monkeypatch.setenv(tokens.LEDGER, TABLE)
    if request.param == "token":
        return token(clients, run_id)
    clients.s3.create_bucket(Bucket=run_id)
    return turn(f"s3://{run_id}/t/_lease")


def test_one_holds_it_at_a_time(lease: Lease) -> None:
    seen: list[str] = []

    def hold(number: int) -> None:
        for _ in range(2):
            with lease.hold():
                seen.append(f"{number} in")
                time.sleep(0.02)
                seen.append(f"{number} out")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(hold, range(4)))

    assert len(seen) == 16
    assert all(enter.split()[0] == leave.split()[0] for enter, leave in zip(seen[::2], seen[1::2], strict=True))


def test_it_is_renewed_and_who_waits_too_long_is_told(lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease.hold():
        time.sleep(2 * LENGTH_S)
        monkeypatch.setattr(lease.module, "MAX_WAIT_S", 0.1)
        with pytest.raises((CommitConflictError, DatabaseError), match=r"in use|held by others"), lease.hold():
            pass


def test_one_that_is_left_is_free_once_it_is_over(lease: Lease) -> None:
    """Also one that an earlier version has taken: it stored the same."""
    lease.leave(LENGTH_S)
    left_s = time.time()

    with lease.hold():
        assert time.time() - left_s >= 0.8 * LENGTH_S
