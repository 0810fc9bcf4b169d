"""The order within one event: behind a failure the rest of its FIFO group returns, all other messages are done."""

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.errors import ScriptFailedError
from sparklet.events import Outcome, Source, Task, answer, parse_event
from sparklet.log import Log
from sparklet.spark.runner import Deadline
from sparklet.worker.worker import MIN_SHARE_S
from tests.unit.events.samples import sqs
from tests.unit.worker.conftest import do_batch

FAILED = ScriptFailedError("s3://b/x.py", 1)


def runner(failing: set[str], done: list[str]) -> Callable[[Task, Deadline], Outcome]:
    def run(task: Task, share: Deadline) -> Outcome:
        done.append(task.record_ids[0])
        failed = task.record_ids[0] in failing
        return Outcome(task, FAILED if failed else None, acknowledged=not failed)

    return run


def test_behind_a_failure_the_rest_of_its_fifo_group_returns() -> None:
    """This holds for a message that cannot be read, too."""
    event = {"Records": [sqs(i, "{}", i[0]) for i in ("x1", "y1", "x2", "y2", "x3", "z1", "w1", "w2")]}
    event["Records"][6]["body"] = None
    done: list[str] = []
    sink = io.BytesIO()

    outcomes = do_batch(parse_event(event), runner({"x2", "w1"}, done), log=Log(sink))

    assert done == ["x1", "y1", "x2", "y2", "z1", "w1"]
    returned = [{"itemIdentifier": each} for each in ("x2", "x3", "w1", "w2")]
    assert answer(event, outcomes) == {"batchItemFailures": returned}
    assert outcomes[4].error is FAILED
    assert b'"record": "x3"' in sink.getvalue()


def test_an_acknowledged_failure_does_not_return_its_group() -> None:
    event = {"Records": [sqs("a", "{}", "g"), sqs("b", "{}", "g")]}

    outcomes = do_batch(parse_event(event), lambda task, *_: Outcome(task, FAILED))

    assert [outcome.acknowledged for outcome in outcomes] == [True, True]
    assert answer(event, outcomes) == {"batchItemFailures": []}


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.booleans()), max_size=12))
def test_no_message_of_a_group_is_done_after_a_failed_one(batch: list[tuple[str, bool]]) -> None:
    tasks = [Task(Source.SQS, {}, (str(n),), group=group) for n, (group, _) in enumerate(batch)]
    failing = {str(n) for n, (_, fails) in enumerate(batch) if fails}
    done: list[str] = []

    outcomes = do_batch(tasks, runner(failing, done))

    assert [outcome.task for outcome in outcomes] == tasks
    for n, (group, _) in enumerate(batch):
        ahead = {str(m) for m in range(n) if batch[m][0] == group} if group else set()
        assert (str(n) in done) == (not ahead & failing)
        assert outcomes[n].acknowledged == (str(n) in done and str(n) not in failing)


def shares_of_batch(needs_s: list[float], whole_s: float, receives: list[int]) -> tuple[list[float], list[bool]]:
    """Do a batch on a clock of its own. Return the seconds that each record had, and whether each record was begun."""
    clock = [1000.0]
    had: list[float] = []
    begun: list[bool] = []

    def run(task: Task, share: Deadline) -> Outcome:
        number = int(task.record_ids[0])
        had.append(share.remaining_s(clock[0]))
        begun.append(had[-1] > 0)
        clock[0] += min(needs_s[number], had[-1])
        return Outcome(task)

    tasks = [Task(Source.SQS, {}, (str(n),), receive_count=count) for n, count in enumerate(receives)]
    do_batch(tasks, run, Deadline.within(whole_s, now_s=1000.0), now_s=lambda: clock[0])
    return had, begun


def test_each_record_gets_an_equal_share_of_the_remaining_time() -> None:
    had, begun = shares_of_batch([1, 600, 10, 600], 400, [1, 1, 1, 1])

    assert had == [100, 133, pytest.approx(133), pytest.approx(256)]
    assert all(begun)


def test_records_without_enough_time_return_untouched() -> None:
    _, begun = shares_of_batch([19, 19, 19, 19], 50, [1, 1, 1, 1])

    assert begun == [True, True, False, False]


def test_a_redelivered_record_gets_more_time_until_it_suffices() -> None:
    """GIVEN ten records that each need a fifth of the invocation, THEN all are done after a few deliveries."""
    open_records = dict.fromkeys(range(10), 1)
    attempts = dict.fromkeys(open_records, 0)
    for _ in range(8):
        numbers = list(open_records)
        had, begun = shares_of_batch([60.0] * len(numbers), 300, list(open_records.values()))
        for number, has_s, was_begun in zip(numbers, had, begun, strict=True):
            attempts[number] += was_begun
            open_records[number] += 1
            if has_s >= 60:
                del open_records[number]

    assert not open_records
    assert max(attempts.values()) <= 3


@given(st.lists(st.tuples(st.floats(0, 2000), st.integers(1, 6)), min_size=1, max_size=10), st.floats(1, 900))
def test_no_record_uses_up_the_time_of_those_behind_it(records: list[tuple[float, int]], whole_s: float) -> None:
    """``records``: the seconds that each needs, and how often it was delivered."""
    shares_s, started = shares_of_batch([need_s for need_s, _ in records], whole_s, [count for _, count in records])

    assert started[0]
    least_s = min(MIN_SHARE_S, whole_s / 2)
    assert all(share == 0 or share >= least_s - 1e-6 for share in shares_s)  # a share is useful or zero
    spent_s = sum(min(need_s, share_s) for (need_s, _), share_s in zip(records, shares_s, strict=True))
    assert spent_s <= whole_s + 1e-6
    # Records that were delivered once get at least equal parts.
    if all(count == 1 for _, count in records) and whole_s / len(records) >= MIN_SHARE_S:
        assert all(share >= whole_s / len(records) - 1e-6 for share in shares_s)
    assert shares_of_batch([1], whole_s, [1])[0] == [pytest.approx(whole_s)]
