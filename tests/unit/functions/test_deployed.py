"""The backend of deployed functions: how many calls it makes at once, and calls that Lambda refuses."""

import json
import queue
from typing import Any

import pytest

from sparklet.errors import LedgerError, RemoteTaskError
from sparklet.functions import deployed
from sparklet.functions.calls import Call, Content, TryResult
from sparklet.functions.deployed import LambdaFunctions
from tests.waiting import deadline_s


def backend(monkeypatch: pytest.MonkeyPatch, reserved: int = 0, free: int = 100, **options: Any) -> LambdaFunctions:
    workers = [{"memory_mb": size, "function": "f", "reserved": reserved} for size in (1769, 10240)]
    outputs: dict[str, Any] = dict.fromkeys(deployed.OUTPUTS, "x")
    outputs |= {"Workers": json.dumps(workers), "FunctionTimeoutS": "300"}
    monkeypatch.setattr(deployed, "described_stack", lambda *_: (outputs, {}))
    monkeypatch.setattr(deployed, "read_secret", lambda *_: b"key")
    monkeypatch.setattr(deployed, "unreserved_concurrency", lambda _: free)
    return LambdaFunctions(**options)


@pytest.mark.parametrize(("reserved", "free", "slots"), [(50, 900, 50), (0, 900, 450), (0, 1, 1)])
def test_a_caller_leaves_half_of_the_free_concurrency_to_others(
    monkeypatch: pytest.MonkeyPatch, reserved: int, free: int, slots: int
) -> None:
    assert backend(monkeypatch, reserved, free).slots == slots
    assert backend(monkeypatch, reserved, free, slots=2000).slots == 2000


@pytest.mark.parametrize(("refused", "told"), [("throttled", "throttled"), ("killed", "throttled"), ("", "")])
def test_a_call_that_lambda_refused_is_sent_again(monkeypatch: pytest.MonkeyPatch, refused: str, told: str) -> None:
    """After ``killed`` the call may have begun; it can be sent again since the ledger lets a call run only once."""

    def invoke(*_: Any, **__: Any) -> None:
        raise RemoteTaskError("no", refused)

    functions, ends = backend(monkeypatch), queue.Queue[TryResult]()
    monkeypatch.setattr(functions._compute, "invoke", invoke)
    monkeypatch.setattr(functions._poller, "read", lambda names: [])
    functions.start(Call("task", "a:b", Content("json", 0), 1, 1, 1), 0, ends.put)

    end = ends.get(timeout=deadline_s())
    assert isinstance(end, RemoteTaskError) and end.reason == told
    functions.close()


def test_a_call_whose_record_cannot_be_read_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    functions, ends = backend(monkeypatch), queue.Queue[TryResult]()
    monkeypatch.setattr(functions._compute, "invoke", lambda *_, **__: None)
    monkeypatch.setattr(functions._poller, "watch", lambda name, recorded: recorded(LedgerError("no rights")))
    functions.start(Call("task", "a:b", Content("json", 0), 1, 1, 1), 0, ends.put)

    end = ends.get(timeout=deadline_s())
    assert isinstance(end, RemoteTaskError) and "a:b: its answer cannot be read: LedgerError: no rights" in str(end)
    functions.close()
