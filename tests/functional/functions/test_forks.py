"""Executors and clients that processes share by a fork, as gunicorn's --preload and multiprocessing do."""

import faulthandler
import gc
import os
import pickle
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest

from sparklet.aws.clients import AwsClients
from sparklet.errors import RemoteTaskError
from sparklet.functions.executor import LambdaExecutor
from tests.functional.functions import called
from tests.functional.functions.conftest import STACK, Functions
from tests.stand_ins.function_backend import MemoryBackend
from tests.waiting import deadline_s, eventually

WITHIN_S = deadline_s(40)  # includes the lease of a lost worker, and another try
LARGE = b"x" * 5_000_000  # so large that it is passed through the folder for contents


class Child:
    """A forked process that calls a function; ``result`` is what the function returns, or its error as text."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._answer, write_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            gc.disable()  # objects of earlier tests must not be finalized in this process
            try:
                value = function()
            except BaseException as error:  # noqa: BLE001 - shown by the parent
                faulthandler.dump_traceback(2)
                value = repr(error)
            os.write(write_end, pickle.dumps(value))
            os._exit(0)
        os.close(write_end)

    def result(self) -> Any:
        killer = threading.Timer(2 * WITHIN_S, os.kill, (self.pid, 9))
        killer.start()
        with os.fdopen(self._answer, "rb") as answer:
            pickled = answer.read()
        os.waitpid(self.pid, 0)
        killer.cancel()
        return pickle.loads(pickled) if pickled else "nothing: it hung"


def test_two_processes_never_make_calls_with_the_same_id() -> None:
    backend = MemoryBackend()
    executor = LambdaExecutor(backend)

    def task_id() -> str:
        executor.submit(called.echo, 1)
        return backend.under_way[-1].call.task_id

    ids = [child.result() for child in [Child(task_id), Child(task_id)]]

    assert len({*ids, task_id()}) == 3
    executor.abort()  # these calls get no answer, and the interpreter's end would wait for them


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_a_forked_executor_works(backend: str) -> None:
    with LambdaExecutor(backend, max_workers=2) as executor:
        assert executor.submit(called.echo, LARGE).result(WITHIN_S) == LARGE

        def pid() -> Any:
            echoed: Any = executor.submit(called.echo, (os.getpid(), LARGE)).result(WITHIN_S)
            own_pid, _ = echoed
            return own_pid

        children = [Child(pid), Child(pid)]

        assert [child.result() for child in children] == [child.pid for child in children]


def test_a_child_that_shuts_down_leaves_its_parent_alone(tmp_path: Path) -> None:
    with LambdaExecutor("processes", max_workers=1) as executor:
        running = executor.submit(called.count, tmp_path / "mark", tmp_path / "go on")
        later = executor.submit(called.tail, LARGE)
        eventually((tmp_path / "mark").exists)

        assert Child(lambda: executor.shutdown(cancel_futures=True)).result() is None
        assert Child(executor.abort).result() is None

        (tmp_path / "go on").touch()
        assert running.result(WITHIN_S) == 1
        assert later.result(WITHIN_S) == (len(LARGE), LARGE[-10:])


def test_a_parents_future_is_an_error_in_its_child(tmp_path: Path) -> None:
    with LambdaExecutor("threads", max_workers=1) as executor:
        futures = [executor.submit(called.count, tmp_path / "mark", tmp_path / "go on") for _ in "ab"]
        eventually((tmp_path / "mark").exists)

        found = Child(lambda: [type(future.exception(WITHIN_S)) for future in futures]).result()

        assert found == [RemoteTaskError] * 2
        (tmp_path / "go on").touch()
        assert [future.result(WITHIN_S) for future in futures] == [1, 2]


def test_forks_share_no_client() -> None:
    clients = AwsClients(endpoint_url="http://127.0.0.1:9", region="us-east-1")
    parents = clients.s3

    assert Child(lambda: clients.s3 is not parents).result() is True
    assert clients.s3 is parents


def test_forks_wait_for_no_lock_of_their_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = AwsClients(endpoint_url="http://127.0.0.1:9", region="us-east-1")
    begun, go_on, parent, make = threading.Event(), threading.Event(), os.getpid(), boto3.Session.client

    def slowly(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert os.getpid() != parent or go_on.wait(deadline_s(WITHIN_S))
        return make(*arguments, **options)

    monkeypatch.setattr(boto3.Session, "client", slowly)
    thread = threading.Thread(target=lambda: clients.s3)  # holds the lock of the clients
    thread.start()
    assert begun.wait(deadline_s())

    assert Child(lambda: clients.s3.meta.region_name).result() == "us-east-1"
    go_on.set()
    thread.join(deadline_s())


@pytest.mark.stack
def test_forked_callers_get_their_own_answers(functions: Functions) -> None:
    with LambdaExecutor("lambda", stack=STACK) as executor:
        assert executor.submit(called.echo, "parent").result(WITHIN_S) == "parent"
        names = ["alice", "bob", "carol"]

        def answer(name: str) -> object:
            return executor.submit(called.echo, name).result(WITHIN_S)

        children = [Child(partial(answer, name)) for name in names]

        assert [child.result() for child in children] == names
