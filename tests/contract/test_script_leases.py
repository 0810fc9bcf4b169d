"""The lease that a script holds while it writes to a Hudi table.

One script holds it at a time. It is renewed while it is in use, and free again once its holder is gone. Leases use the
test's clock; only the pauses of the renewing thread, parts of a second, are real.
"""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.connectors.tables import lease as leases
from sparklet.job.errors import CommitConflictError
from tests.contract.conftest import ON_STACK
from tests.stand_ins.memory import FakeClock
from tests.waiting import POLL_S, deadline_s, eventually

LENGTH_S = 1.0


@dataclass(frozen=True)
class Lease:
    """The file of a lease."""

    uri: str

    def hold(self) -> AbstractContextManager[None]:
        return leases.lease(self.uri)

    def until_s(self) -> float:
        _, body = leases.file_at(self.uri).read()
        return float(json.loads(body)["until_ms"]) / 1000

    def leave(self, until_s: float) -> None:
        """Store a lease of another holder, who is gone or was faster."""
        file = leases.file_at(self.uri)
        version, _ = file.read()
        assert file.replace(version, json.dumps({"holder": "other", "until_ms": until_s * 1000}).encode())


@pytest.fixture(params=["folder", pytest.param("s3", marks=ON_STACK)])
def lease(
    request: pytest.FixtureRequest, tmp_path: Path, run_id: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> Lease:
    monkeypatch.setattr(leases, "LEASE_S", LENGTH_S)
    own = SimpleNamespace(time=clock.now_s, monotonic=clock.now_s, sleep=clock.sleep)
    monkeypatch.setattr(leases, "time", own)
    if request.param == "folder":
        return Lease(f"file://{tmp_path}/t/a file%20#1")
    clients: AwsClients = request.getfixturevalue("ministack_clients")
    monkeypatch.setenv("AWS_ENDPOINT_URL", clients.s3.meta.endpoint_url)
    clients.s3.create_bucket(Bucket=run_id)
    return Lease(f"s3://{run_id}/t/a file%20#1")


def test_one_thread_holds_the_lease_at_a_time(lease: Lease, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, refused = list[str](), threading.Event()

    def wait_for_lease(_: float) -> None:
        refused.set()
        threading.Event().wait(POLL_S)

    own = SimpleNamespace(time=clock.now_s, monotonic=clock.now_s, sleep=wait_for_lease)
    monkeypatch.setattr(leases, "time", own)

    def hold(number: int) -> None:
        for _ in range(2):
            with lease.hold():
                seen.append(f"{number} in")
                if len(seen) < 12:  # other threads still wait for the lease
                    refused.clear()
                    assert refused.wait(deadline_s())
                seen.append(f"{number} out")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(hold, range(4)))

    assert len(seen) == 16
    assert all(enter.split()[0] == leave.split()[0] for enter, leave in zip(seen[::2], seen[1::2], strict=True))


def test_a_lease_is_renewed_and_a_waiter_gives_up_with_an_error(
    lease: Lease, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease.hold():
        for _ in range(3):
            clock.advance(0.9 * LENGTH_S)
            eventually(lambda: lease.until_s() > clock.now_s() + 0.5 * LENGTH_S)
        monkeypatch.setattr(leases, "MAX_WAIT_S", 0.1)
        with pytest.raises(CommitConflictError, match="held by others"), lease.hold():
            pass


def test_a_renewal_that_fails_is_tried_again(lease: Lease, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    file, failed = leases.file_at(lease.uri), threading.Event()
    replace = file.replace

    def fail_once(version: str, body: bytes) -> str:
        if version and not failed.is_set():
            failed.set()
            raise OSError("the store does not answer")
        return replace(version, body)

    monkeypatch.setattr(file, "replace", fail_once)
    monkeypatch.setattr(leases, "file_at", lambda uri: file)

    with lease.hold():
        assert failed.wait(deadline_s())
        clock.advance(0.5 * LENGTH_S)
        eventually(lambda: lease.until_s() > clock.now_s() + 0.8 * LENGTH_S)


def test_a_lease_whose_holder_is_gone_is_free_after_its_end(lease: Lease, clock: FakeClock) -> None:
    over_s = clock.now_s() + 100 * LENGTH_S
    lease.leave(over_s)

    with lease.hold():
        assert clock.now_s() >= over_s


def test_a_writer_that_lost_its_lease_gets_an_error(lease: Lease, clock: FakeClock) -> None:
    with pytest.raises(CommitConflictError, match="was lost"), lease.hold():
        lease.leave(clock.now_s() + 30)


def test_a_writer_cannot_extend_a_lease_that_it_lost(lease: Lease, clock: FakeClock) -> None:
    held = leases._Lease(lease.uri)
    assert held.take()
    lease.leave(end_s := clock.now_s() + 30)

    assert [held.extend(duration_s) for duration_s in (60, 60, 0)] == [False, False, False]

    assert lease.until_s() == pytest.approx(end_s, abs=1)


def test_a_renewal_whose_response_was_lost_belongs_to_the_holder(lease: Lease, clock: FakeClock) -> None:
    held = leases._Lease(lease.uri)
    assert held.take()
    version, _ = (file := leases.file_at(lease.uri)).read()
    renewed = {"holder": held._holder, "until_ms": clock.now_s() * 1000 + 5}
    assert file.replace(version, json.dumps(renewed).encode())

    assert held.extend(60)
    assert lease.until_s() == pytest.approx(clock.now_s() + 60, abs=1)
    assert held.extend(0)
    assert leases._Lease(lease.uri).take()


def test_only_one_of_two_creates_a_missing_lease(lease: Lease) -> None:
    file = leases.file_at(lease.uri)

    assert file.read() == ("", b"")
    assert file.replace("", b"1") and not file.replace("", b"2")
    assert file.read()[1] == b"1"
