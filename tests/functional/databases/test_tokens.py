"""A database's tokens: never more holders than there are, and free again when a holder is gone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sparklet.job.databases import tokens as lease
from sparklet.job.databases.tokens import Tokens, tokens
from sparklet.job.errors import DatabaseError

pytestmark = pytest.mark.usefixtures("account")


def test_no_more_are_held_than_there_are() -> None:
    held, most, lock = 0, 0, threading.Lock()

    def hold(wanted: int) -> int:
        nonlocal held, most
        with tokens("shared", 3, wanted, 2) as got:
            assert got
            with lock:
                held += len(got.numbers)
                most = max(most, held)
            time.sleep(0.1)
            with lock:
                held -= len(got.numbers)
            return len(got.numbers)

    with ThreadPoolExecutor(6) as threads:
        counts = list(threads.map(hold, [1, 2, 3, 1, 2, 3]))

    assert most <= 3
    assert all(1 <= count <= wanted for count, wanted in zip(counts, [1, 2, 3, 1, 2, 3], strict=True))


def test_tokens_of_the_dead_are_free_after_their_lease() -> None:
    dead, heir = Tokens("left", 1, 0.2), Tokens("left", 1, 0.2)
    assert dead.take(1)
    started_s = time.time()

    while not heir.take(1):
        time.sleep(0.05)

    assert time.time() - started_s >= 5 * 0.2
    assert not dead._hold(1, lease._MINE), "and the dead get them back no more"


def test_who_waits_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "MAX_WAIT_S", 0.1)

    with tokens("full", 1, 1, 5), pytest.raises(DatabaseError, match="in use"), tokens("full", 1, 1, 5):
        pass


def test_who_cannot_renew_gives_the_connection_up() -> None:
    told = threading.Event()

    with tokens("taken", 1, 1, 0.2) as held:
        assert held
        held.lost = told.set
        held._client.delete_item(**held._item)
        assert told.wait(timeout=10)
