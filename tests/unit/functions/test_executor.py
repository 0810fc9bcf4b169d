"""How an executor treats answers, errors and deadlines, with a backend in memory and a timer moved by hand."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

import pytest

from sparklet.errors import PayloadError, RemoteTaskError
from sparklet.functions.executor import LambdaExecutor
from tests.stand_ins import called
from tests.stand_ins.function_backend import HandTimer, MemoryBackend


@pytest.fixture
def executor(timer: HandTimer, backend: MemoryBackend) -> Iterator[LambdaExecutor]:
    made = LambdaExecutor(backend)
    yield made
    made.abort()


def ends(executor: LambdaExecutor) -> dict[str, float]:
    return {name: count for name, count in executor.stats().items() if not name.endswith("_s") and count}


# --- each task ends once ---


def test_an_answer_to_an_earlier_try_is_ignored(
    executor: LambdaExecutor, backend: MemoryBackend, timer: HandTimer
) -> None:
    future = executor.submit(called.double, 1)
    first = backend.fail("timeout")
    timer.go()

    first.done(backend.performed(first))

    assert not future.done() and len(backend.under_way) == 1
    backend.answer()
    assert future.result(0) == 2


def test_an_answer_in_another_codec_is_not_read(backend: MemoryBackend, timer: HandTimer, tmp_path: Any) -> None:
    with LambdaExecutor(backend, codec="json") as executor:
        future = executor.submit(called.double, 1)
        begun = backend.take()
        pickled = LambdaExecutor(backend, codec="pickle")
        pickled.submit(called.keep, called.Spy(str(tmp_path / "trace")))
        spying = backend.take().call.content
        begun.done(replace(backend.performed(begun), content=spying))

        assert isinstance(future.exception(0), RemoteTaskError)
    assert not (tmp_path / "trace").exists()
    pickled.abort()


def test_a_lost_answer_ends_at_its_deadline(executor: LambdaExecutor, backend: MemoryBackend, timer: HandTimer) -> None:
    future = executor.submit(called.double, 1)
    begun = backend.under_way[0]
    for _ in backend.sizes:
        timer.go()  # the deadline
        assert backend.given_up[-1].task_id == begun.call.task_id
        if not future.done():
            timer.go()  # the next try's time
    begun.done(backend.performed(begun))

    error = future.exception(0)
    assert isinstance(error, RemoteTaskError) and error.reason == "timeout"
    assert ends(executor) == {"submitted": 1, "tries": 2, "escalated": 1, "retried": 1, "failed": 1}


def test_a_task_ends_even_if_giving_the_call_up_fails(
    executor: LambdaExecutor, backend: MemoryBackend, timer: HandTimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "sizes", (128,))
    monkeypatch.setattr(backend, "give_up", lambda call: 1 / 0)
    future = executor.submit(called.double, 1)
    timer.go()

    assert isinstance(future.exception(0), RemoteTaskError)


def test_an_answered_try_has_no_deadline_any_more(
    executor: LambdaExecutor, backend: MemoryBackend, timer: HandTimer
) -> None:
    future = executor.submit(called.double, 1)
    assert len(timer.due) == 1
    backend.answer()

    assert future.result(0) == 2
    assert not timer.due


def test_an_error_that_counts_as_false_is_raised(executor: LambdaExecutor, backend: MemoryBackend) -> None:
    future = executor.submit(called.raise_empty)
    backend.answer()

    assert isinstance(future.exception(0), called.EmptyError)
    assert ends(executor)["failed"] == 1


# --- tries ---


def test_a_start_that_is_throttled_begins_later(
    executor: LambdaExecutor, backend: MemoryBackend, timer: HandTimer
) -> None:
    backend.refusals = [RemoteTaskError("no", "throttled") for _ in range(3)]
    future = executor.submit(called.double, 1)
    for _ in range(3):
        timer.go()
    backend.answer()

    assert future.result(0) == 2


def test_a_task_that_is_always_throttled_fails_in_the_end(
    executor: LambdaExecutor, backend: MemoryBackend, timer: HandTimer
) -> None:
    future = executor.submit(called.double, 1)
    while not future.done():
        backend.fail("throttled")
        if timer.due:
            timer.go()

    error = future.exception(0)
    assert isinstance(error, RemoteTaskError) and error.reason == "throttled"


def test_a_declared_exception_is_tried_again(timer: HandTimer, backend: MemoryBackend) -> None:
    with LambdaExecutor(backend, retries=2, retry_on=(KeyError,)) as executor:
        future = executor.submit(called.refuse, "x")
        for _ in range(2):
            backend.answer()
            assert not future.done()
            timer.go()
        backend.answer()

        assert isinstance(future.exception(0), KeyError)
        assert [ends(executor)[name] for name in ("tries", "retried", "failed")] == [3, 2, 1]


@pytest.mark.parametrize("codec", ["json", "pickle", "cloudpickle"])
@pytest.mark.parametrize("function", [called.raise_one_way, called.raise_unpicklable])
@pytest.mark.parametrize("declared", [called.AnyError, (KeyError, (called.AnyError,)), KeyError | called.AnyError])
def test_a_declared_exception_that_cannot_be_sent_is_retried(
    timer: HandTimer, codec: Any, function: Any, declared: Any
) -> None:
    backend = MemoryBackend(codec=codec)
    with LambdaExecutor(backend, codec=codec, retries=1, retry_on=declared) as executor:
        future = executor.submit(function)
        backend.answer()
        assert not future.done()
        timer.go()
        backend.answer()

        assert isinstance(future.exception(0), RemoteTaskError)


def test_a_class_that_only_workers_have_is_declared_by_its_base(
    timer: HandTimer, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LambdaExecutor(backend, retries=1, retry_on=called.AnyError) as executor:
        future = executor.submit(called.raise_travelling)
        begun = backend.take()
        answer = backend.performed(begun)
        monkeypatch.delattr(called, "TravellingError")
        begun.done(answer)

        assert not future.done() and timer.due
        executor.abort()


def test_an_undeclared_exception_is_not_retried(timer: HandTimer, backend: MemoryBackend) -> None:
    with LambdaExecutor(backend, retries=2, retry_on=(ValueError,)) as executor:
        future = executor.submit(called.refuse, "x")
        backend.answer()

        assert isinstance(future.exception(0), KeyError)


def test_a_killed_worker_is_tried_again_only_if_asked(timer: HandTimer, backend: MemoryBackend) -> None:
    with LambdaExecutor(backend) as once, LambdaExecutor(backend, retry_on=(RemoteTaskError,)) as again:
        one, other = once.submit(called.double, 1), again.submit(called.double, 1)
        backend.fail("killed")
        backend.fail("killed")
        assert one.done() and not other.done()
        timer.go()
        backend.answer()

        assert other.result(0) == 2


@pytest.mark.parametrize(("codec", "raised"), [("pickle", MemoryError), ("json", RemoteTaskError)])
def test_a_memory_error_is_tried_in_a_larger_size(timer: HandTimer, codec: Any, raised: type[Exception]) -> None:
    backend = MemoryBackend(codec=codec)
    with LambdaExecutor(backend, codec=codec) as executor:
        future = executor.submit(called.run_out)
        assert backend.answer().size == 0
        timer.go()
        assert backend.answer().size == 1

    assert isinstance(future.exception(0), raised)


@pytest.mark.parametrize("reason", ["memory", "timeout"])
def test_the_next_larger_size_is_tried(timer: HandTimer, backend: MemoryBackend, reason: str) -> None:
    backend.sizes = (128, 512, 1024)
    with LambdaExecutor(backend, retries=0) as executor:
        future = executor.submit(called.double, 1)
        sizes = []
        while not future.done():
            sizes.append(backend.under_way[0].size)
            backend.fail(reason)
            if timer.due:
                timer.go()

    assert sizes == [0, 1, 2]
    assert getattr(future.exception(0), "reason", None) == reason


def test_a_task_begins_in_the_smallest_size_that_was_asked_for(timer: HandTimer, backend: MemoryBackend) -> None:
    with LambdaExecutor(backend, memory_mb=200) as executor:
        executor.submit(called.double, 1)
        assert backend.answer().size == 1
    with LambdaExecutor(MemoryBackend(), sizes=(999,)) as executor:
        assert isinstance(executor.submit(called.double, 1).exception(0), PayloadError)


# --- slots, order, many ---


def test_no_more_than_slots_are_under_way(timer: HandTimer) -> None:
    backend = MemoryBackend(slots=10)
    with LambdaExecutor(backend, max_workers=3) as executor:
        futures = [executor.submit(called.double, number) for number in range(20)]
        while backend.under_way:
            assert len(backend.under_way) <= 3
            backend.answer()

    assert [future.result(0) for future in futures] == [2 * number for number in range(20)]


def test_a_backend_that_answers_at_once_causes_no_recursion(timer: HandTimer) -> None:
    with LambdaExecutor(MemoryBackend(slots=1, at_once=True)) as executor:
        assert list(executor.map(called.double, range(5000))) == [2 * number for number in range(5000)]


def test_a_backend_that_refuses_every_call_causes_no_recursion(timer: HandTimer, backend: MemoryBackend) -> None:
    with LambdaExecutor(backend) as executor:
        futures = [executor.submit(called.double, 0) for _ in range(3000)]
        backend.refusals = [OSError("no") for _ in range(3000)]
        backend.answer()
        backend.answer()

        assert all(future.done() for future in futures)


# --- the standard library's interface ---


def noting(numbers: Iterable[int], taken: list[int]) -> Iterator[int]:
    for number in numbers:
        taken.append(number)
        yield number


def test_map_without_a_buffer_takes_all_items_at_once(executor: LambdaExecutor, backend: MemoryBackend) -> None:
    taken: list[int] = []
    results = executor.map(called.double, noting(range(5), taken))

    assert taken == [0, 1, 2, 3, 4]
    while backend.under_way:
        backend.answer()
    assert list(results) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(("chunksize", "buffersize"), [(1, 1), (1, 3), (2, 2)])
def test_map_with_a_buffer_is_lazy(timer: HandTimer, chunksize: int, buffersize: int) -> None:
    taken: list[int] = []
    numbers = noting(range(20), taken)
    with LambdaExecutor(MemoryBackend(slots=1, at_once=True)) as executor:
        results = executor.map(called.double, numbers, chunksize=chunksize, buffersize=buffersize)
        assert len(taken) == chunksize * buffersize

        found = []
        for result in results:
            found.append(result)
            chunks = -(-len(found) // chunksize)
            assert len(taken) == min(20, chunksize * (buffersize + chunks))
    assert found == [2 * number for number in range(20)]


@pytest.mark.parametrize("wrong", [{"chunksize": 0}, {"buffersize": 0}, {"buffersize": -1}])
def test_map_refuses_sizes_below_one(executor: LambdaExecutor, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        executor.map(called.double, [1], **wrong)


def test_map_stops_at_its_timeout_and_cancels(executor: LambdaExecutor, backend: MemoryBackend) -> None:
    executor.submit(called.double, 1)
    executor.submit(called.double, 1)  # both slots
    results = executor.map(called.double, range(3), timeout=0)
    with pytest.raises(TimeoutError):
        next(results)
    while backend.under_way:
        backend.answer()

    assert ends(executor)["cancelled"] == 3
    assert ends(executor)["tries"] == 2


def test_asyncio_can_wait_for_a_future(executor: LambdaExecutor, backend: MemoryBackend) -> None:
    async def both() -> list[int]:
        one = asyncio.wrap_future(executor.submit(called.double, 1))
        other = asyncio.get_running_loop().run_in_executor(executor, called.double, 2)
        for _ in range(2):
            threading.Thread(target=backend.answer, args=[backend.under_way[-1]]).start()
            await asyncio.sleep(0)
            while len(backend.under_way) == 2:
                await asyncio.sleep(0.001)
        return list(await asyncio.gather(one, other))

    assert asyncio.run(both()) == [2, 4]


def test_an_unpicklable_argument_counts_as_failed(executor: LambdaExecutor) -> None:
    assert isinstance(executor.submit(called.keep, called.lock()).exception(0), PayloadError)
    assert ends(executor) == {"submitted": 1, "failed": 1}


@pytest.mark.parametrize("value", [None, 1, "text", [1, [2]], {"name": [1.5, True]}])
def test_json_calls_take_and_give_json(timer: HandTimer, value: object) -> None:
    with LambdaExecutor(MemoryBackend(codec="json", at_once=True), codec="json") as executor:
        assert executor.submit(called.keep, value, value, named=value).result(0) == value
        assert list(executor.map(called.keep, [value], [value])) == [value]


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, b"bytes", float("nan"), [(1,)]])
def test_json_calls_refuse_values_that_json_would_change(timer: HandTimer, value: object) -> None:
    with LambdaExecutor(MemoryBackend(codec="json", at_once=True), codec="json") as executor:
        assert isinstance(executor.submit(called.keep, value).exception(0), PayloadError)


# --- the executor's end ---


def test_a_shutdown_waits_for_a_next_try(timer: HandTimer, backend: MemoryBackend) -> None:
    executor = LambdaExecutor(backend)
    future = executor.submit(called.double, 1)
    backend.fail("memory")
    executor.shutdown(wait=False)

    too_early = backend.closed
    timer.go()
    backend.answer()
    executor.shutdown()
    assert future.result(0) == 2
    assert not too_early and backend.closed


def test_a_cancelling_shutdown_cancels_only_waiting_tasks(timer: HandTimer, backend: MemoryBackend) -> None:
    executor = LambdaExecutor(backend)
    futures = [executor.submit(called.double, number) for number in range(4)]
    backend.fail("memory")
    timer.go()  # the first waits for a slot again: it was begun, so it cannot be cancelled
    executor.shutdown(wait=False, cancel_futures=True)
    while backend.under_way:
        backend.answer()

    assert [future.cancelled() for future in futures] == [False, False, False, True]
    assert [future.result(0) for future in futures[:3]] == [0, 2, 4]
    assert ends(executor)["cancelled"] == 1
    assert backend.closed


def test_ctrl_c_ends_every_task(timer: HandTimer, backend: MemoryBackend) -> None:
    executor = LambdaExecutor(backend, retry_on=(RemoteTaskError,))
    futures = [executor.submit(called.double, number) for number in range(4)]
    backend.fail("killed")  # it waits for its next try
    with pytest.raises(KeyboardInterrupt), executor:
        raise KeyboardInterrupt

    assert all(future.done() for future in futures)
    assert isinstance(futures[0].exception(0), RemoteTaskError)
    with pytest.raises(CancelledError):
        futures[3].result(0)
    assert backend.closed


def test_an_error_in_the_block_waits_for_all(timer: HandTimer, backend: MemoryBackend) -> None:
    executor = LambdaExecutor(backend)
    future = executor.submit(called.double, 1)
    threading.Thread(target=backend.answer).start()
    with pytest.raises(LookupError), executor:
        raise LookupError

    assert future.result(0) == 2


def test_a_collected_executor_closes_its_backend(timer: HandTimer, backend: MemoryBackend) -> None:
    executor = LambdaExecutor(backend)
    future = executor.submit(called.double, 1)
    gone = weakref.ref(executor)
    del executor
    gc.collect()
    too_early = backend.closed  # its task is under way
    backend.answer()
    gc.collect()

    assert future.result(0) == 2
    assert gone() is None and not too_early and backend.closed and timer.stopped


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError):
        LambdaExecutor("nowhere")


def test_no_executor_has_less_than_one_worker() -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        LambdaExecutor("threads", max_workers=0)
