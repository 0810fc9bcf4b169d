"""Executions that a stop has interrupted, and the error class that is read from a failed function's log."""

import pytest

from sparklet.local.deploy import same_run
from sparklet.local.ministack_patches import error_class
from sparklet.model import successor


def test_a_successors_name_has_the_next_number() -> None:
    assert successor("daily-7-g0") == "daily-7-g0-2"
    assert successor("daily-7-g0-2") == "daily-7-g0-3"
    assert successor("daily-7-g12-9") == "daily-7-g12-10"
    assert successor("nightly") == "nightly-2"
    assert successor("2026-11-20") == "2026-11-20-2"  # not every number at an end counts executions


def test_a_successor_requests_the_same_run() -> None:
    assert same_run("nightly", {"script": "s"}) == {"script": "s", "idempotency_key": "nightly"}
    assert same_run("nightly", {"run_id": "daily-7"}) == {"run_id": "daily-7"}
    assert same_run("nightly-2", {"script": "s", "idempotency_key": "k"}) == {"script": "s", "idempotency_key": "k"}


TRACE = """\
loading …
Traceback (most recent call last):
  File "a.py", line 1, in f
    g()
ValueError: inner

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "shim.py", line 95, in handle
    return handler(event, context)
sparklet.errors.ShardFailedError: shard 3 has FAILED: KeyError: 'day'
and a second line
Error: of the message
"""


@pytest.mark.parametrize(
    ("log", "name"),
    [
        (TRACE, "ShardFailedError"),
        ("Traceback (most recent call last):\n  File x\nKeyboardInterrupt\n", "KeyboardInterrupt"),
        ("Error: no traceback at all", ""),
        ("", ""),
    ],
)
def test_the_last_tracebacks_exception_names_the_failure(log: str, name: str) -> None:
    assert error_class(log) == name
