"""How much of an account's concurrency a caller of deployed functions takes by default."""

import json
from typing import Any

import pytest

from sparklet.functions import deployed
from sparklet.functions.deployed import LambdaFunctions


@pytest.mark.parametrize(
    ("reserved", "free", "slots"),
    [
        ({"reserved": 50}, 900, 50),
        ({"reserved": 0}, 900, 450),
        ({}, 900, 450),  # a stack of before
        ({"reserved": 0}, 1, 1),
    ],
)
def test_a_caller_leaves_others_their_share(
    monkeypatch: pytest.MonkeyPatch, reserved: dict[str, int], free: int, slots: int
) -> None:
    workers = [{"memory_mb": size, "function": "f", "queue": "q", **reserved} for size in (1769, 10240)]
    outputs: dict[str, Any] = dict.fromkeys(deployed.OUTPUTS, "x")
    outputs |= {"Workers": json.dumps(workers), "FunctionTimeoutS": "300"}
    monkeypatch.setattr(deployed, "stack_outputs", lambda *_: outputs)
    monkeypatch.setattr(deployed, "read_secret", lambda *_: b"key")
    monkeypatch.setattr(deployed, "unreserved_concurrency", lambda _: free)

    assert LambdaFunctions().slots == slots
    assert LambdaFunctions(slots=2000).slots == 2000
