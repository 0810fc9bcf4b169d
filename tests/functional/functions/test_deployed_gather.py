"""``gather``, ``remote`` and the sizes over deployed workers: the functions' code is needed only there."""

import os

import pytest

from sparklet import Invocation, LambdaExecutor, RemoteTaskError, gather, remote
from tests.functional.functions import called
from tests.functional.functions.conftest import Functions
from tests.waiting import deadline_s

pytestmark = pytest.mark.stack
MODULE = called.__name__


def test_different_calls_end_each_for_itself(functions: Functions) -> None:
    large = os.urandom(300_000)
    with LambdaExecutor("lambda", max_workers=3) as executor, LambdaExecutor("threads") as here:
        found = gather(
            [
                Invocation(f"{MODULE}:echo", [[1, "é"]], {}, executor, {"codec": "json"}),
                Invocation(f"{MODULE}.echo", [large], {}, executor, {"memory_mb": 3000}),
                Invocation(f"{MODULE}.echo", ["small"], {}, executor, {"offload_arguments": True}),
                Invocation(f"{MODULE}.fail", ["sad"], {}, executor),
                Invocation(f"{MODULE}.fail", ["sad"], {}, executor, {"codec": "json"}),
                Invocation(f"{MODULE}.no_such", [], {}, executor),
                Invocation(called.echo, ["never wanted"], {}, executor, wait=False),
                Invocation(called.pid, executor=here),
            ],
            timeout=deadline_s(),
        )
        assert executor.submit(remote(memory_mb=99_999)(called.pid)).exception()

    echoed, same, small, sad, told, missing, unawaited, pid = found
    assert (echoed, same == large, small, unawaited, pid) == ([1, "é"], True, "small", None, os.getpid())
    assert isinstance(sad, ValueError) and str(sad) == "sad"
    assert isinstance(told, RemoteTaskError) and "ValueError: sad" in str(told)
    assert isinstance(missing, RemoteTaskError) and missing.reason == "refused"


def test_what_the_operator_does_not_allow_is_refused(functions: Functions) -> None:
    with LambdaExecutor("lambda"):
        errors = gather([Invocation(lambda: 1, options={"codec": "cloudpickle"}), Invocation(os.getpid)])

    assert [getattr(error, "reason", error) for error in errors] == ["refused", "refused"]


def test_a_remote_function_runs_in_deployed_workers(functions: Functions) -> None:
    echo = remote(timeout_s=deadline_s())(called.echo)
    with LambdaExecutor("lambda", max_workers=2) as executor:
        assert list(echo.map([{"a": (1,)}, None], chunksize=2)) == [{"a": (1,)}, None]
        assert executor.stats()["succeeded"] == 1
