"""Several shards in one invocation: each behaviours for itself, whatever happens to the others."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparklet.errors import DeadlineExceededError, GatewayLostError, LedgerError
from sparklet.job.outcome import EVENT
from sparklet.model import ShardRecord, ShardState
from sparklet.settings import worker_settings
from sparklet.spark import runner
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from tests.unit.worker.conftest import BUCKET, Bench, exits, make_bench, raises, reports

RUN = "run-1"


@dataclass
class Script:
    """A script. ``meets``: by the shard's number, the errors of its attempts in order."""

    meets: dict[int, list[str]] = field(default_factory=dict)
    meanwhile: Callable[[int], None] = lambda number: None
    begun: list[int] = field(default_factory=list)  # shards

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        number = json.loads(call.env[EVENT])["sparklet"]["shard"]
        self.begun.append(number)
        self.meanwhile(number)
        met = self.meets.get(number, [])
        behaviours = {
            "an error": exits(1, "ValueError", f"of shard {number}"),
            "what no retry mends": exits(1, "AnalysisException", f"of shard {number}"),
            "a lost JVM": raises(GatewayLostError(f"under shard {number}")),
            "its deadline": raises(DeadlineExceededError(f"in shard {number}")),
        }
        return behaviours.get(met.pop(0) if met else "", reports({"rows": number}))(call, output)


def records(bench: Bench) -> list[ShardRecord]:
    return list(bench.ledger.shards.list(RUN))


def states(bench: Bench) -> list[str]:
    return [str(record.state) for record in records(bench)]


def planned(bench: Bench, shards: int) -> Script:
    script = Script()
    bench.runner.behaviour = script.run
    bench.plan(RUN, shards)
    return script


def test_a_success_is_recorded_before_the_next_shard_is_claimed(bench: Bench) -> None:
    script = planned(bench, 3)
    seen: list[list[str]] = []
    script.meanwhile = lambda number: seen.append(states(bench))

    bench.deliver_together(bench.queue.receive(10))

    assert seen == [
        ["RUNNING", "PENDING", "PENDING"],
        ["SUCCEEDED", "RUNNING", "PENDING"],
        ["SUCCEEDED", "SUCCEEDED", "RUNNING"],
    ]


def test_shards_not_begun_in_time_use_up_no_attempt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    script = planned(bench, 3)
    script.meanwhile = lambda number: bench.clock.sleep(1.6)
    monkeypatch.setattr(runner, "time", SimpleNamespace(time=bench.clock.now_s))
    monkeypatch.setattr(bench.worker, "do", partial(bench.worker.do, now_s=bench.clock.now_s))
    messages = bench.queue.receive(10)

    outcomes = bench.deliver_together(messages, remaining_s=13)  # 3 s beside the grace

    assert [outcome.acknowledged for outcome in outcomes] == [True, False, False]
    assert [(r.state, r.attempts) for r in records(bench)[1:]] == [(ShardState.PENDING, 0)] * 2
    assert len(bench.queue.receive(10)) == 2


def test_a_success_that_the_ledger_refuses_harms_no_other_shard(bench: Bench) -> None:
    planned(bench, 3)
    succeed = bench.ledger.attempts.succeed

    def refuse(run_id: str, number: int, attempt_id: str, result: Any, *, inherited: bool = False) -> None:
        if number == 0:
            raise LedgerError("gone")
        succeed(run_id, number, attempt_id, result)

    bench.ledger.attempts.succeed = refuse  # type: ignore[method-assign]

    outcomes = bench.deliver_together(bench.queue.receive(10))

    assert [outcome.acknowledged for outcome in outcomes] == [False, True, True]
    assert states(bench) == ["RUNNING", "SUCCEEDED", "SUCCEEDED"]


FATES = st.sampled_from(["an error", "what no retry mends", "a lost JVM", "its deadline", "another's lease", "", ""])


@settings(max_examples=40)
@given(
    st.lists(st.lists(FATES, max_size=4), min_size=1, max_size=12),
    st.lists(st.integers(0, 11), max_size=4),
    st.data(),
)
def test_every_shard_ends_once_whatever_happens_to_its_attempts(
    fates: list[list[str]], doubled: list[int], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        env = {"SPARKLET_BUCKET": BUCKET, "SPARKLET_LEDGER_TABLE": "t", "SPARKLET_SCRATCH": f"{folder}/scratch"}
        bench = make_bench(worker_settings(env))
        script = Script(dict(enumerate(fates)))
        bench.runner.behaviour = script.run
        refs = bench.plan(RUN, len(fates), max_attempts=3)
        bench.queue.send(refs[number % len(refs)].to_body() for number in doubled)
        stolen: Counter[int] = Counter()

        def steal(number: int) -> None:
            """Let another worker claim the shard while the script runs, after its lease expired, and die."""
            if script.meets[number][:1] == ["another's lease"]:
                bench.clock.advance(2000)
                before = bench.ledger.shards.get(RUN, number).attempts
                bench.ledger.attempts.claim(refs[number], f"thief {len(script.begun)}", 60, 3)
                stolen[number] += bench.ledger.shards.get(RUN, number).attempts - before

        script.meanwhile = steal
        for _ in range(200):
            messages = bench.queue.receive(data.draw(st.integers(1, 10)))
            if messages:
                bench.deliver_together(messages)
            bench.clock.advance(400)
            if all(record.state.ended for record in records(bench)):
                break

        begun = Counter(script.begun)
        for number, record in enumerate(records(bench)):
            assert record.state.ended
            assert record.attempts == begun[number] + stolen[number] <= 3
            if record.state is ShardState.SUCCEEDED:
                assert record.rows == number
            elif not stolen[number]:
                assert f"shard {number}" in record.error_message
        assert not list(bench.worker.executor.settings.scratch.glob("task-*"))
