"""An executor over a backend that answers, loses, doubles, delays and throttles in any order: each task ends, once."""

from concurrent.futures import Future
from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sparklet.errors import PayloadError, RemoteTaskError
from sparklet.functions import executor as module
from sparklet.functions.executor import LambdaExecutor
from tests.stand_ins import called
from tests.stand_ins.function_backend import HandTimer, MemoryBackend, Try

ANY = st.integers(0, 1000)


class AnyOrder(RuleBasedStateMachine):
    @initialize(slots=st.integers(1, 4), retries=st.integers(0, 2))
    def begin(self, slots: int, retries: int) -> None:
        self.timer = HandTimer()
        self.backend = MemoryBackend(slots=slots)
        with patch.object(module, "Timer", lambda: self.timer):
            self.executor = LambdaExecutor(self.backend, retries=retries, retry_on=(KeyError, RemoteTaskError))
        self.slots = slots
        self.futures: list[tuple[Future[Any], object]] = []
        self.told: list[Future[Any]] = []
        self.ended: list[Try] = []
        self.lost: list[Try] = []
        self.closing = False

    def submit(self, expected: object, function: Any, *args: Any) -> None:
        try:
            future = self.executor.submit(function, *args)
        except RuntimeError:
            assert self.closing
            return
        assert not self.closing
        future.add_done_callback(self.told.append)
        self.futures.append((future, expected))

    @rule(number=ANY)
    def a_task(self, number: int) -> None:
        self.submit(2 * number, called.double, number)

    @rule()
    def a_task_that_raises(self) -> None:
        self.submit(KeyError, called.refuse, "x")

    @rule()
    def a_task_that_cannot_be_sent(self) -> None:
        self.submit(PayloadError, called.keep, called.lock())

    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        if self.futures:
            self.futures[which % len(self.futures)][0].cancel()

    def one(self, which: int) -> Try:
        return self.backend.under_way[which % len(self.backend.under_way)]

    @precondition(lambda self: self.backend.under_way)
    @rule(which=ANY)
    def answer(self, which: int) -> None:
        self.ended.append(self.backend.answer(self.one(which)))

    @precondition(lambda self: self.backend.under_way)
    @rule(which=ANY, reason=st.sampled_from(["killed", "memory", "timeout", "throttled", ""]))
    def fail(self, which: int, reason: str) -> None:
        self.ended.append(self.backend.fail(reason, self.one(which)))

    @precondition(lambda self: self.backend.under_way)
    @rule(which=ANY)
    def lose(self, which: int) -> None:
        """No answer comes, unless its deadline is over: then it may."""
        self.lost.append(self.one(which))

    @precondition(lambda self: self.ended)
    @rule(which=ANY, well=st.booleans())
    def double(self, which: int, well: bool) -> None:
        again = self.ended[which % len(self.ended)]
        again.done(self.backend.performed(again) if well else RemoteTaskError("late", "killed"))

    @precondition(lambda self: any(each not in self.backend.under_way for each in self.lost))
    @rule(which=ANY)
    def answer_late(self, which: int) -> None:
        late = [each for each in self.lost if each not in self.backend.under_way]
        again = late[which % len(late)]
        again.done(self.backend.performed(again))

    @precondition(lambda self: len(self.backend.under_way) > 1)
    @rule(which=ANY)
    def answer_with_anothers(self, which: int) -> None:
        one = self.one(which)
        other = self.one(which + 1)
        self.backend.take(one).done(self.backend.performed(other))
        self.ended.append(one)

    @rule(how=st.sampled_from(["throttled", "killed", "timeout", None]), times=st.integers(1, 3))
    def refuse_the_next(self, how: str | None, times: int) -> None:
        raised = RemoteTaskError("no", how) if how else OSError("no")
        self.backend.refusals += [raised] * times

    @precondition(lambda self: self.timer.due)
    @rule(which=ANY)
    def time_comes(self, which: int) -> None:
        in_order = sorted(
            self.timer.due, key=lambda entry: entry[1]
        )  # as they were made: a busy machine changes their times
        self.timer.go(self.timer.due.index(in_order[which % len(in_order)]))

    @precondition(lambda self: self.futures)
    @rule(cancel=st.booleans())
    def shut_down(self, cancel: bool) -> None:
        self.closing = True
        self.executor.shutdown(wait=False, cancel_futures=cancel)

    @invariant()
    def slots_are_never_exceeded(self) -> None:
        if hasattr(self, "backend"):
            assert self.backend.most <= self.slots

    @invariant()
    def counts_add_up(self) -> None:
        if hasattr(self, "executor"):
            stats = self.executor.stats()
            over = sum(stats.get(name, 0) for name in ("succeeded", "failed", "cancelled"))
            open_ = sum(not future.done() for future, _ in self.futures)
            waiting_cancelled = sum(future._state == "CANCELLED" for future, _ in self.futures)
            assert stats.get("submitted", 0) == len(self.futures) == over + open_ + waiting_cancelled

    def teardown(self) -> None:
        if not hasattr(self, "executor"):
            return
        while self.timer.due:  # deadlines, and times of next tries: nothing else answers any more
            self.timer.go()
        self.executor.shutdown()  # returns, since all have ended
        assert self.backend.closed

        assert all(future.done() for future, _ in self.futures)
        assert sorted(map(id, self.told)) == sorted(id(future) for future, _ in self.futures)
        stats = self.executor.stats()
        states = [self.state(future, expected) for future, expected in self.futures]
        for name in ("succeeded", "failed", "cancelled"):
            assert stats.get(name, 0) == states.count(name)

    @staticmethod
    def state(future: "Future[Any]", expected: object) -> str:
        if future.cancelled():
            return "cancelled"
        error = future.exception(0)
        if error is None:
            assert future.result(0) == expected
            return "succeeded"
        assert type(error) is expected or isinstance(error, RemoteTaskError)
        return "failed"


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
