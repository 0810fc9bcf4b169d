"""Runs that state machines drive: an execution is started once, reported if it fails, started again, stopped."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparklet.app.stack import StackSelection
from sparklet.app.state_machines import MachineWatch
from sparklet.cli.console import Screen
from sparklet.model import Counts, Dispatch, ExecutionState, RunState, ShardResult
from tests.stand_ins.memory import Machine
from tests.unit.cli.conftest import BROKEN, ONE_A_SHARD, RUN, CommandResult, Terminal
from tests.unit.planning.test_packed_input import FIRST, CountingStore
from tests.world import SCRIPT


@pytest.fixture
def driven(terminal: Terminal) -> Terminal:
    """A terminal whose stack has a state machine that does its work at once."""
    terminal.machines |= {"run": terminal.drives}
    return terminal


def run(terminal: Terminal, *words: str, run_id: str = RUN) -> CommandResult:
    return terminal.types("run", SCRIPT, *ONE_A_SHARD, "--run-id", run_id, *words)


def refuses(given: Any) -> None:
    raise RuntimeError("the planner is not there")


def begun(terminal: Terminal, mode: str, machine: Machine | None, shards: int = 3) -> str:
    """Begin a run that this machine drives. Return the execution."""
    terminal.machines["run"] = machine
    terminal.world.dispatch = Dispatch.MAP if mode == "map" else Dispatch.QUEUE
    terminal.world.run(shards)
    return terminal.orchestrator.start("run", f"{RUN}-g0", {"run_id": RUN})


# --- run ---


@pytest.mark.parametrize(("mode", "dispatch"), [("loop", Dispatch.QUEUE), ("map", Dispatch.MAP)])
def test_a_run_with_loop_or_map_starts_an_execution(driven: Terminal, mode: str, dispatch: Dispatch) -> None:
    driven.world.put(50)

    told = run(driven, "--dispatch-mode", mode, "--json")

    assert told.code == 0, told.err
    assert told.document["shards"]["succeeded"] == 50 and driven.world.bodies() == []
    (execution,) = driven.orchestrator.executions.values()
    assert (execution.execution, execution.input) == (f"run:{RUN}-g0", {"run_id": RUN})
    assert driven.world.ledger.runs.get(RUN).dispatch is dispatch


def test_inline_takes_40_shards_and_refuses_more_before_any_work(driven: Terminal) -> None:
    driven.world.put(40)
    assert run(driven, "--dispatch-mode", "inline", "--json").document["shards"]["succeeded"] == 40
    driven.world.put(41)
    before = driven.world.keys("s3://sparklet/")

    told = run(driven, "--dispatch-mode", "inline", run_id="run-2")

    assert told.code == 1 and "41 shards are more than the 40" in told.err and "use map or loop" in told.err
    assert driven.world.keys("s3://sparklet/") == before
    assert [each.run_id for each in driven.world.ledger.runs.list()] == [RUN]


def test_a_run_lists_its_input_once(driven: Terminal) -> None:
    driven.world.store = CountingStore(driven.world.clock)
    driven.world.store.put(SCRIPT, b"")
    driven.world.put(60)

    told = run(driven, "--json")

    assert told.code == 0, told.err
    assert told.document["shards"]["succeeded"] == 60
    assert driven.world.store.listed == 60 + FIRST


def test_a_stack_without_a_machine_refuses_map_before_any_upload(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("1\n")
    before = terminal.world.keys("s3://sparklet/")

    told = terminal.types("run", SCRIPT, "-i", str(tmp_path / "in"), "-o", "s3://data/out/", "--dispatch-mode", "map")

    assert told.code == 1 and "has no state machine" in told.err and "--dispatch-mode queue" in told.err
    assert terminal.world.keys("s3://sparklet/") == before


def test_starting_a_run_twice_is_one_run_and_one_execution(driven: Terminal) -> None:
    driven.world.put(2)
    driven.machines["run"] = None  # the execution only waits
    assert driven.types("plan", SCRIPT, *ONE_A_SHARD, "--run-id", RUN).code == 0
    begun = driven.orchestrator.start("run", f"{RUN}-g0", {"run_id": RUN})

    told = run(driven, "--dispatch-mode", "loop")
    again = run(driven, "--dispatch-mode", "loop")

    assert told.code == 0, told.err
    assert f"run {RUN} is there already, driven by {RUN}-g0; nothing is started twice" in told.out
    assert "is there already and has ended; nothing is started" in again.out and again.code == 0
    assert list(driven.orchestrator.executions) == [begun]


def test_one_idempotency_key_is_one_run(driven: Terminal) -> None:
    driven.world.put(2)
    words = ("run", SCRIPT, *ONE_A_SHARD, "--idempotency-key", "2026-11-20")

    first = driven.types(*words, "--json").document["run_id"]
    driven.world.clock.advance(10)
    second = driven.types(*words)

    assert first.startswith("daily-") and f"run {first} exists already, SUCCEEDED; this is the same run" in second.out
    assert [each.run_id for each in driven.world.ledger.runs.list()] == [first]


def test_check_and_next_scripts_reach_the_run_and_are_shown(driven: Terminal) -> None:
    driven.world.put(1)

    told = run(driven, "--check", SCRIPT, "--next", SCRIPT, "--next-output", "s3://data/2/")
    shown = driven.types("status", RUN, "--json").document

    assert told.code == 0, told.err
    found = driven.world.ledger.runs.get(RUN)
    assert found.check and found.next and found.next.output_uri == "s3://data/2/"
    started = [(each["what"], each["run_id"]) for each in shown["follow_ups"]]
    assert started == [("check", f"{RUN}-check-0"), ("next", f"{RUN}-next-0")]
    assert shown["follow_ups"][0]["state"] == "SUCCEEDED"


# --- executions that fail ---


@pytest.mark.parametrize("mode", ["loop", "map"])
def test_watch_reports_an_aborted_execution_and_the_remedy(terminal: Terminal, mode: str) -> None:
    begun(terminal, mode, refuses)
    terminal.work_from_s = terminal.world.clock.now_s() + 40  # watch looks three times before the end

    told = terminal.types("watch", RUN)

    words = " ".join(told.err.split())
    assert f"{RUN}-g0 has FAILED while {RUN} is open (RuntimeError: the planner is not there)" in words
    assert "nothing need be done" in words and words.count("has FAILED") == 1


def test_watch_reports_an_execution_started_by_someone_else(terminal: Terminal) -> None:
    terminal.world.run(2)
    recorded = {"execution": "arn:x:nightly-7", "where": "Check", "error": "LedgerError", "cause": "no answer"}
    terminal.world.store.put(f"s3://sparklet/runs/{RUN}/executions/nightly-7.json", json.dumps(recorded).encode())
    terminal.work_from_s = terminal.world.clock.now_s() + 40

    words = " ".join(terminal.types("watch", RUN).err.split())

    assert f"nightly-7 has FAILED in Check while {RUN} is open (LedgerError: no answer)" in words
    assert words.count("nightly-7") == 1


def test_an_older_executions_failure_is_not_reported(terminal: Terminal) -> None:
    terminal.machines |= {"run": None}
    terminal.world.run(1)
    recorded = json.dumps({"execution": "nightly-7", "where": "Check", "error": "E", "cause": "c"}).encode()
    terminal.world.store.put(f"s3://sparklet/runs/{RUN}/executions/nightly-7.json", recorded)
    terminal.world.clock.advance(60)
    terminal.orchestrator.start("run", f"{RUN}-g0", {"run_id": RUN})

    with terminal.environment(StackSelection(), Screen()) as env:
        assert MachineWatch(env).reports(terminal.world.ledger.runs.get(RUN)) == []


def test_an_execution_that_failed_with_its_run_is_not_reported(terminal: Terminal) -> None:
    """The machine sees the run's end between two looks of ``watch``, and fails as its run did."""
    terminal.machines |= {"run": refuses}
    terminal.world.run(1)
    terminal.world.work(lambda n: BROKEN)
    stale = terminal.world.ledger.runs.get(RUN)
    terminal.world.check()
    terminal.orchestrator.start("run", f"{RUN}-g0", {"run_id": RUN})

    with terminal.environment(StackSelection(), Screen()) as env:
        assert not stale.state.ended and MachineWatch(env).reports(stale) == []


def test_an_aborted_machine_resumes_in_the_same_generation(terminal: Terminal) -> None:
    begun(terminal, "map", refuses)
    terminal.machines["run"] = terminal.drives

    told = terminal.types("redrive", RUN, "--json")

    assert told.code == 0, told.err
    assert told.document["shards"]["succeeded"] == 3
    assert list(terminal.orchestrator.executions) == [f"run:{RUN}-g0", f"run:{RUN}-g0-2"]
    assert terminal.world.ledger.runs.get(RUN).generation == 0


@pytest.mark.parametrize(("mode", "has_machine"), [("loop", True), ("map", True), ("queue", False)])
def test_redrive_starts_the_machine_that_drove_the_run(driven: Terminal, mode: str, has_machine: bool) -> None:
    driven.world.put(3)
    driven.do = lambda n: BROKEN if n == 1 else ShardResult()
    assert run(driven, "--dispatch-mode", mode).code == 2
    driven.do = lambda n: ShardResult()

    told = driven.types("redrive", RUN)

    assert told.code == 0, told.err
    assert f"run {RUN}: 1 shard sent again, generation 1" in told.out
    executions = [f"run:{RUN}-g0", f"run:{RUN}-g1"]
    assert list(driven.orchestrator.executions) == (executions if has_machine else [])
    assert driven.world.ledger.shards.count(RUN) == Counts(succeeded=3)
    assert (len(driven.world.bodies()) == 0) and driven.world.ledger.runs.get(RUN).state is RunState.SUCCEEDED


def test_a_map_run_is_not_redriven_without_its_machine(terminal: Terminal) -> None:
    terminal.machines |= {"run": terminal.drives}
    terminal.world.put(2)
    terminal.do = lambda n: BROKEN
    run(terminal, "--dispatch-mode", "map")
    del terminal.machines["run"]

    told = terminal.types("redrive", RUN)

    assert told.code == 1 and "has no state machine" in told.err
    assert terminal.world.ledger.runs.get(RUN).generation == 0


@pytest.mark.parametrize("mode", ["loop", "map"])
def test_cancel_stops_the_execution_that_drives_the_run(terminal: Terminal, mode: str) -> None:
    execution = begun(terminal, mode, None)

    told = terminal.types("cancel", RUN)

    assert told.code == 0 and "3 shards given up" in told.out and f"{RUN}-g0 was stopped" in told.out
    stopped = terminal.orchestrator.status(execution)
    assert (stopped.state, stopped.cause) == (ExecutionState.ABORTED, f"the run {RUN} was cancelled")
    assert terminal.types("watch", RUN).code == 3
    assert "has ABORTED" not in terminal.types("watch", RUN).err
