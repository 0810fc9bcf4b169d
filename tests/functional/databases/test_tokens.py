"""A database's tokens: never more holders than there are; ``tests/contract/test_script_leases`` has the rest."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.stub import Stubber

from sparklet.databases import tokens as lease
from sparklet.databases.tokens import Tokens, tokens
from sparklet.job.errors import TableError
from tests.waiting import deadline_s, eventually

pytestmark = pytest.mark.usefixtures("account")


def test_no_more_are_held_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    held, most, lock, take = 0, 0, threading.Lock(), Tokens.take
    asked: set[int] = set()

    def ask(own: Tokens, wanted: int) -> bool:
        found = take(own, wanted)
        asked.add(threading.get_ident())
        return found

    monkeypatch.setattr(Tokens, "take", ask)

    def hold(wanted: int) -> int:
        nonlocal held, most
        with tokens("shared", 3, wanted, 60) as got:
            assert got
            with lock:
                held += len(got.numbers)
                most = max(most, held)
            eventually(lambda: len(asked) == 6, "all have asked")
            with lock:
                held -= len(got.numbers)
            return len(got.numbers)

    with ThreadPoolExecutor(6) as threads:
        counts = list(threads.map(hold, [1, 2, 3, 1, 2, 3]))

    assert most <= 3
    assert all(1 <= count <= wanted for count, wanted in zip(counts, [1, 2, 3, 1, 2, 3], strict=True))


def test_who_wakes_late_gives_back_nothing_of_anothers() -> None:
    late, heir = Tokens("left", 1, 0.2), Tokens("left", 1, 60)
    assert late.take(1)
    eventually(lambda: heir.take(1), "the lease is over")
    ended = threading.Event()
    ended.set()

    late.keep(ended)

    assert not late.take(1)


def test_who_cannot_renew_gives_the_connection_up() -> None:
    told = threading.Event()

    with tokens("taken", 1, 1, 0.2) as held:
        assert held
        held.lost = told.set
        lease.aws_client("dynamodb").delete_item(**held.item)
        assert told.wait(deadline_s())


@pytest.mark.parametrize("operation", ["get_item", "update_item"])
def test_who_may_not_take_is_told_at_once(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    client = lease.aws_client("dynamodb")
    monkeypatch.setattr(lease, "aws_client", lambda service: client)

    with Stubber(client) as answers:
        if operation == "update_item":
            answers.add_response("get_item", {})
        answers.add_client_error(operation, "AccessDeniedException", "the role may not", 400)
        with pytest.raises(TableError, match=r"dynamodb:UpdateItem.*may not"), tokens("closed", 1, 1, 5):
            pass


def test_a_busy_ledger_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    client = lease.aws_client("dynamodb")
    monkeypatch.setattr(lease, "aws_client", lambda service: client)

    with Stubber(client) as answers:
        for operation in ("get_item", "update_item"):
            answers.add_client_error(operation, "ThrottlingException", "Rate exceeded", 400)
        for operation in ("get_item", "update_item", "update_item"):
            answers.add_response(operation, {})
        with tokens("busy", 1, 1, 5) as held:
            assert held
            assert list(held.numbers) == [0]


def test_who_may_renew_no_more_gives_the_connection_up(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()

    with tokens("revoked", 1, 1, 0.2) as held:
        assert held
        held.lost = told.set
        monkeypatch.setitem(held.item, "TableName", "no-such-table")
        assert told.wait(deadline_s())
