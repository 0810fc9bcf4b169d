"""How a script's process is prepared before the script runs."""

import errno
import importlib
from typing import Any

import pytest

from sparklet.spark.script_main import refuse_semaphores


@pytest.mark.parametrize("named", [{}, {"name": "/joblib-1", "unlink": True}])
def test_a_lock_between_processes_fails_as_in_lambda(named: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _multiprocessing: Any = importlib.import_module("_multiprocessing")
    monkeypatch.setattr(_multiprocessing, "SemLock", _multiprocessing.SemLock)
    refuse_semaphores()

    with pytest.raises(OSError) as raised:
        _multiprocessing.SemLock(0, 0, 1, *(() if named else ("/mp-1", True)), **named)

    assert raised.value.errno == errno.ENOSYS  # with this error joblib works without processes, and its import succeeds
