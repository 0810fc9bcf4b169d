"""Several shards in one process: each has an end of its own, whatever becomes of the process."""

import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparklet.errors import DeadlineExceededError, GatewayLostError, LedgerError, ShardNotFoundError
from sparklet.job.turns import ASK, NEXT, TELL, TURN, TURN_MARK, TURNS
from sparklet.model import ShardRecord, ShardState
from sparklet.settings import worker_settings
from sparklet.worker.runner import Output, ScriptCall, ScriptResult
from sparklet.worker.shard_conf import InputSize
from sparklet.worker.turns import Turns
from tests.unit.worker.conftest import BUCKET, Bench, make_bench

TOGETHER = b"# sparklet: batch=together\n"
RUN = "run-1"


def ask(folder: Path) -> Any:
    """What ``Job.each`` does between two jobs; None if there is no further one."""
    with (folder / ASK).open("wb") as asking, (folder / TELL).open("rb") as telling:
        asking.write(NEXT)
        asking.flush()
        return json.loads((folder / TURN).read_text()) if telling.readline() == NEXT else None


@dataclass
class Script:
    """A script that takes turns; what it meets in each attempt at a shard is said by the shard's number."""

    meets: dict[int, list[str]] = field(default_factory=dict)
    meanwhile: Callable[[int], None] = lambda number: None
    begun: list[tuple[int, int]] = field(default_factory=list)  # process and shard
    processes: int = 0

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        self.processes += 1
        process, args, env = self.processes, call.args, dict(call.env)
        while True:
            event = json.loads(args[1])
            number = event["sparklet"]["shard"]
            self.begun.append((process, number))
            self.meanwhile(number)
            output("stdout", b"at %d\n" % number)
            met = self.meets.get(number, [])
            match met.pop(0) if met else "":
                case "an error":
                    return ScriptResult(1, "", "ValueError", f"of shard {number}")
                case "what no retry mends":
                    return ScriptResult(1, "", "AnalysisException", f"of shard {number}")
                case "a lost JVM":
                    raise GatewayLostError(f"under shard {number}")
                case "its deadline":
                    raise DeadlineExceededError(f"in shard {number}")
                case "an early end":
                    self._report(env, number)
                    return ScriptResult(0)
            self._report(env, number)
            turn = ask(Path(env[TURNS])) if TURNS in env else None
            if turn is None:
                return ScriptResult(3 if "an error at the end" in met else 0)
            args, env = turn["args"], {**env, **turn["env"]}
            output("stderr", TURN_MARK)

    def _report(self, env: dict[str, str], number: int) -> None:
        Path(env["SPARKLET_OUTCOME_FILE"]).write_text(json.dumps({"rows": number}))


def states(bench: Bench) -> dict[int, str]:
    return {record.number: str(record.state) for record in records(bench).values()}


def records(bench: Bench) -> dict[int, ShardRecord]:
    found: dict[int, ShardRecord] = {}
    with suppress(ShardNotFoundError):
        while True:
            found[len(found)] = bench.ledger.get_shard(RUN, len(found))
    return found


def together(bench: Bench, shards: int, **meets: list[str]) -> Script:
    script = Script({int(name[1:]): met for name, met in meets.items()})
    bench.runner.behaviour = script.run
    bench.plan(RUN, shards, script=TOGETHER)
    return script


def test_all_shards_of_a_batch_are_done_in_one_process(bench: Bench) -> None:
    script = together(bench, 5)

    outcomes = bench.deliver_together(bench.queue.receive(10))

    assert script.begun == [(1, number) for number in range(5)]
    assert [outcome.answer["state"] for outcome in outcomes] == ["SUCCEEDED"] * 5
    assert [record.rows for record in records(bench).values()] == list(range(5))
    assert not list(bench.worker.settings.scratch.glob("task-*"))


def test_a_success_is_recorded_before_the_next_shard_is_claimed(bench: Bench) -> None:
    script = together(bench, 3)
    seen: list[list[str]] = []
    script.meanwhile = lambda number: seen.append(list(states(bench).values()))

    bench.deliver_together(bench.queue.receive(10))

    assert seen == [
        ["RUNNING", "PENDING", "PENDING"],
        ["SUCCEEDED", "RUNNING", "PENDING"],
        ["SUCCEEDED", "SUCCEEDED", "RUNNING"],
    ]


def test_a_script_that_dies_in_the_third_of_five_fails_that_one_alone(bench: Bench) -> None:
    script = together(bench, 5, n2=["what no retry mends"])

    bench.deliver_together(bench.queue.receive(10))

    assert list(states(bench).values()) == ["SUCCEEDED", "SUCCEEDED", "FAILED", "SUCCEEDED", "SUCCEEDED"]
    assert script.begun == [(1, 0), (1, 1), (1, 2), (2, 3), (2, 4)]
    failed = records(bench)[2]
    assert (failed.error_class, "of shard 2" in failed.error_message) == ("AnalysisException", True)
    assert [record.attempts for record in records(bench).values()] == [1] * 5


def test_what_was_not_begun_for_want_of_time_goes_back_at_once_with_its_attempt(bench: Bench) -> None:
    script = together(bench, 3)
    script.meanwhile = lambda number: time.sleep(1.6)
    messages = bench.queue.receive(10)

    outcomes = bench.deliver_together(messages, remaining_s=13)  # 3 s beside the grace

    assert [outcome.acknowledged for outcome in outcomes] == [True, False, False]
    assert [(r.state, r.attempts) for r in records(bench).values()][1:] == [(ShardState.PENDING, 0)] * 2
    assert len(bench.queue.receive(10)) == 2


def test_a_shard_that_is_named_twice_is_done_once(bench: Bench) -> None:
    script = together(bench, 2)
    bench.queue.send(record.ref.to_body() for record in records(bench).values())

    outcomes = bench.deliver_together(bench.queue.receive(10))

    assert [number for _, number in script.begun] == [0, 1]
    assert all(outcome.acknowledged for outcome in outcomes)


def test_a_script_that_leaves_early_has_done_its_shard_and_the_rest_gets_another(bench: Bench) -> None:
    script = together(bench, 3, n0=["an early end"])

    bench.deliver_together(bench.queue.receive(10))

    assert script.begun == [(1, 0), (2, 1), (2, 2)]
    assert set(states(bench).values()) == {"SUCCEEDED"}


def test_what_fails_at_the_end_is_the_failure_of_the_last_one(bench: Bench) -> None:
    together(bench, 2, n1=["", "an error at the end"])

    outcomes = bench.deliver_together(bench.queue.receive(10))

    assert [outcome.acknowledged for outcome in outcomes] == [True, False]


def test_what_fails_after_the_last_turn_changes_nothing_that_was_recorded(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    together(bench, 2, n1=["", "an error at the end"])
    bench.queue.send([records(bench)[0].ref.to_body()])  # so nobody knew that shard 1 is the last

    with caplog.at_level(logging.WARNING):
        bench.deliver_together(bench.queue.receive(10))

    assert set(states(bench).values()) == {"SUCCEEDED"}
    assert "exited with 3 after its last turn" in caplog.text


def test_scripts_that_do_not_say_so_and_other_runs_have_processes_of_their_own(bench: Bench) -> None:
    script = together(bench, 2)
    bench.plan("run-2", 2, script=TOGETHER)
    bench.plan("run-3", 2)

    bench.deliver_together(bench.queue.receive(10))

    assert [process for process, _ in script.begun] == [1, 1, 2, 2, 3, 4]


def test_the_process_is_gone_when_the_batch_is(bench: Bench) -> None:
    script = together(bench, 4)
    messages = bench.queue.receive(10)

    bench.deliver_together(messages[:2])
    bench.deliver_together(messages[2:])

    assert [process for process, _ in script.begun] == [1, 1, 2, 2]


def test_lines_of_the_script_bear_the_shard_whose_turn_it_is(bench: Bench) -> None:
    together(bench, 3)

    bench.deliver_together(bench.queue.receive(10))

    lines = [line for line in bench.lines.getvalue().splitlines() if line.startswith(b"at ")]
    assert lines == [b"at 0", b"at 1", b"at 2"]
    assert TURN_MARK.strip() not in bench.lines.getvalue()


def test_a_ledger_that_does_not_take_the_first_success_harms_no_other(bench: Bench) -> None:
    together(bench, 3)
    succeed = bench.ledger.succeed

    def refuse(run_id: str, number: int, attempt_id: str, result: Any) -> None:
        if number == 0:
            raise LedgerError("gone")
        succeed(run_id, number, attempt_id, result)

    bench.ledger.succeed = refuse  # type: ignore[method-assign]

    outcomes = bench.deliver_together(bench.queue.receive(10))

    assert [outcome.acknowledged for outcome in outcomes] == [False, True, True]
    assert list(states(bench).values()) == ["RUNNING", "SUCCEEDED", "SUCCEEDED"]


def test_a_deadline_is_the_turns_own_and_time_between_turns_is_not_the_scripts(tmp_path: Path) -> None:
    ends: list[float] = []

    def run(call: ScriptCall, output: Output) -> ScriptResult:
        ends.append(call.end_s())
        while ask(Path(call.env[TURNS])):
            ends.append(call.end_s())
        return ScriptResult(0)

    script = tmp_path / "job.py"
    script.write_bytes(TOGETHER)
    turns = Turns(_Runner(run), end_s=time.time() + 900)
    calls = [ScriptCall(script, ("--event", "{}"), tmp_path / f"task-{n}", 2e9 + n, {}, turns="x") for n in range(3)]
    now_s = time.time()
    calls = [replace(call, deadline_s=now_s + 100 * n) for n, call in enumerate(calls, start=1)]
    for behind, call in zip((2, 1, 0), calls, strict=True):
        turns.behind = behind
        assert turns.run(call, lambda *_: None).exit_code == 0

    assert ends == [pytest.approx(now_s + 100 * n) for n in (1, 2, 3)]


def test_a_process_made_for_a_small_input_is_not_given_a_large_one(tmp_path: Path) -> None:
    processes: list[int] = []

    def run(call: ScriptCall, output: Output) -> ScriptResult:
        processes.append(call.input_size.weighed_bytes)
        while ask(Path(call.env[TURNS])):
            pass
        return ScriptResult(0)

    script = tmp_path / "job.py"
    script.write_bytes(TOGETHER)
    turns = Turns(_Runner(run), behind=9)
    for number, size_bytes in enumerate([1, 10_000_000, 400_000_000, 300_000_000]):
        size = InputSize(1, size_bytes, size_bytes)
        call = ScriptCall(script, ("--event", "{}"), tmp_path / f"task-{number}", 2e9, {}, (), size, "x")
        turns.run(call, lambda *_: None)
    turns.end()

    assert processes == [1, 400_000_000]


@dataclass
class _Runner:
    run: Callable[[ScriptCall, Output], ScriptResult]

    def start(self) -> None: ...

    def close(self) -> None: ...


FATES = st.sampled_from(
    ["an error", "what no retry mends", "a lost JVM", "its deadline", "an early end", "another's lease", "", ""]
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(FATES, max_size=4), min_size=1, max_size=12),
    st.lists(st.integers(0, 11), max_size=4),
    st.data(),
)
def test_whatever_dies_every_shard_has_one_end_and_its_attempts_are_those_that_were_begun(
    fates: list[list[str]], doubled: list[int], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        env = {"SPARKLET_BUCKET": BUCKET, "SPARKLET_LEDGER_TABLE": "t", "SPARKLET_SCRATCH": f"{folder}/scratch"}
        bench = make_bench(worker_settings(env))
        script = Script(dict(enumerate(fates)))
        bench.runner.behaviour = script.run
        refs = bench.plan(RUN, len(fates), max_attempts=3, script=TOGETHER)
        bench.queue.send(refs[number % len(refs)].to_body() for number in doubled)
        stolen: Counter[int] = Counter()

        def steal(number: int) -> None:
            """A lease that lapsed while the script ran: another worker has the shard, and dies with it."""
            if script.meets[number][:1] == ["another's lease"]:
                bench.clock.advance(2000)
                before = bench.ledger.get_shard(RUN, number).attempts
                bench.ledger.claim(refs[number], f"thief {len(script.begun)}", 60, 3)
                stolen[number] += bench.ledger.get_shard(RUN, number).attempts - before

        script.meanwhile = steal
        for _ in range(200):
            messages = bench.queue.receive(data.draw(st.integers(1, 10)))
            if messages:
                bench.deliver_together(messages)
            bench.clock.advance(400)
            if all(record.state.ended for record in records(bench).values()):
                break

        begun = Counter(number for _, number in script.begun)
        for number, record in records(bench).items():
            assert record.state.ended
            assert record.attempts == begun[number] + stolen[number] <= 3
            if record.state is ShardState.SUCCEEDED:
                assert record.rows == number
            elif not stolen[number]:
                assert f"shard {number}" in record.error_message
        assert not list(bench.worker.settings.scratch.glob("task-*"))
