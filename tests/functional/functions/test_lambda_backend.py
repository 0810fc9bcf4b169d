"""Python functions in deployed workers: what the transports promise. (The contract of all backends is elsewhere.)"""

import os


import pytest

from sparklet.functions.deployed import LambdaFunctions, Transport
from sparklet.functions.executor import LambdaExecutor
from tests.functional.functions import called
from tests.functional.functions.conftest import STACK, Functions

pytestmark = pytest.mark.stack
TRANSPORTS = ("invoke", "event", "queue")


def executor(transport: Transport = "auto", **options: object) -> LambdaExecutor:
    return LambdaExecutor(LambdaFunctions(STACK, transport=transport), **options)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_call_is_performed_by_a_worker(functions: Functions, transport: Transport) -> None:
    with executor(transport) as pool:
        assert pool.submit(called.pid).result() != os.getpid()
        assert pool.submit(called.echo, {"a": (1, 2)}).result() == {"a": (1, 2)}
