"""The order within one event: a FIFO group waits behind its failure, everything else goes on."""

import io
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from sparklet.errors import ScriptFailedError
from sparklet.events import Outcome, Source, Task, answer, parse_event
from sparklet.worker.batch import do_batch
from sparklet.worker.log import Log
from tests.unit.events.samples import sqs

FAILED = ScriptFailedError("s3://b/x.py", 1)


def runner(failing: set[str], done: list[str]) -> Callable[[Task], Outcome]:
    def run(task: Task) -> Outcome:
        done.append(task.record_ids[0])
        failed = task.record_ids[0] in failing
        return Outcome(task, FAILED if failed else None, acknowledged=not failed)

    return run


def test_after_a_failure_the_rest_of_its_group_comes_back_in_order_and_others_go_on() -> None:
    event = {"Records": [sqs(i, "{}", i[0]) for i in ("x1", "y1", "x2", "y2", "x3", "z1")]}
    done: list[str] = []
    sink = io.BytesIO()

    outcomes = do_batch(parse_event(event), runner({"x2"}, done), Log(sink))

    assert done == ["x1", "y1", "x2", "y2", "z1"]
    assert answer(event, outcomes) == {"batchItemFailures": [{"itemIdentifier": "x2"}, {"itemIdentifier": "x3"}]}
    assert outcomes[4].error is FAILED
    assert b'"record": "x3"' in sink.getvalue()


def test_a_failure_that_is_acknowledged_holds_nobody_up() -> None:
    tasks = parse_event({"Records": [sqs("a", "{}", "g"), sqs("b", "{}", "g")]})

    outcomes = do_batch(tasks, lambda task: Outcome(task, FAILED), Log(io.BytesIO()))

    assert [outcome.acknowledged for outcome in outcomes] == [True, True]


def test_a_message_that_cannot_be_read_holds_its_group_up_too() -> None:
    bad = {**sqs("a", "", "g"), "body": None}
    tasks = parse_event({"Records": [bad, sqs("b", "{}", "g")]})

    outcomes = do_batch(
        tasks, lambda task: Outcome(task, task.problem, acknowledged=task.problem is None), Log(io.BytesIO())
    )

    assert [outcome.acknowledged for outcome in outcomes] == [False, False]


@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.booleans()), max_size=12),
)
def test_no_message_is_done_after_a_failed_one_of_its_group_and_none_is_left_out(batch: list[tuple[str, bool]]) -> None:
    tasks = [Task(Source.SQS, {}, (str(n),), group=group) for n, (group, _) in enumerate(batch)]
    failing = {str(n) for n, (_, fails) in enumerate(batch) if fails}
    done: list[str] = []

    outcomes = do_batch(tasks, runner(failing, done), Log(io.BytesIO()))

    assert [outcome.task for outcome in outcomes] == tasks
    for n, (group, _) in enumerate(batch):
        ahead = {str(m) for m in range(n) if batch[m][0] == group} if group else set()
        assert (str(n) in done) == (not ahead & failing)
        assert outcomes[n].acknowledged == (str(n) in done and str(n) not in failing)
