"""What an operator sees: a plan's estimate, a run's status while it runs, and its results and failures."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.text import Text

from sparklet.app import status
from sparklet.app.costs import Prices
from sparklet.app.stack import OpenStack
from sparklet.app.status import RunView
from sparklet.app.watch import poll_s
from sparklet.cli import console
from sparklet.cli.render import Facts
from sparklet.model import NOTHING, Counts, Failure, Run, RunState, ShardRecord, ShardResult, ShardState
from sparklet.runs.checker import check
from tests.unit.cli.conftest import BROKEN, ONE_A_SHARD, RUN, Terminal, ended
from tests.unit.runs.test_results import work
from tests.world import LEASE_S, SCRIPT, SOURCE


def slow_run(terminal: Terminal) -> None:
    """Ten shards: four done in 10, 20, 30 and 40 s, one failed after 5 s, two RUNNING, three waiting."""
    terminal.world.run(10)
    for number in range(7):
        message = terminal.world.receive()
        assert message
        attempt_id, claim = terminal.world.claim(message)
        if number >= 5:
            continue
        terminal.world.clock.advance(5 if number == 4 else 10 * (number + 1))
        if number == 4:
            terminal.world.ledger.attempts.fail(RUN, claim.record.number, attempt_id, BROKEN)
        else:
            terminal.world.ledger.attempts.succeed(RUN, claim.record.number, attempt_id, ShardResult(rows=1))
    terminal.world.clock.advance(15)


# --- the estimate of a plan ---


def test_explain_prints_the_mode_end_and_cost_of_a_plan(terminal: Terminal) -> None:
    terminal.world.put(41)

    told = terminal.types("plan", SCRIPT, *ONE_A_SHARD, "--dry-run", "--explain")

    assert told.code == 0, told.err
    words = " ".join(told.out.split())
    assert "dispatch mode queue: by default" in words
    assert "ends after 12 s, with 41 workers" in words
    assert "cost on AWS" in words and "dispatch < 0.0001 USD, lambda" in words
    assert "a shard 2.0 s; assumed: 2 s, and 0.0 MiB at 5 MB/s" in words
    assert "us-east-1, of 2026-11" in words
    assert not list(terminal.world.ledger.runs.list())


def test_the_plans_document_has_the_same_estimate(terminal: Terminal) -> None:
    terminal.world.put(3)

    found = terminal.types("plan", SCRIPT, *ONE_A_SHARD, "--dry-run", "--explain", "--json").document["estimate"]

    assert found["dispatch_mode"] == "queue"
    assert found["shard_s_origin"].startswith("assumed: 2 s")
    assert found["cost_usd"] == pytest.approx(sum(found["costs_usd"].values()), abs=1e-5)
    assert found["end_s"] > 0 and found["workers"] == 3


def test_a_plan_that_is_no_dry_run_can_be_explained(terminal: Terminal) -> None:
    terminal.world.put(3)
    document = terminal.types("plan", SCRIPT, *ONE_A_SHARD, "--explain", "--json", "--run-id", RUN).document
    assert document["run_id"] == RUN and document["estimate"]["dispatch_mode"] == "queue"
    other = terminal.types("plan", SCRIPT, *ONE_A_SHARD, "--append", "--json", "--run-id", "run-2").document
    assert "estimate" not in other


def test_a_plan_of_local_files_is_explained_without_a_stack(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1\n")
    told = terminal.types("plan", SCRIPT, "-i", str(tmp_path), "--dry-run", "--explain", "--json")
    assert told.document["estimate"]["workers"] == 1 and not terminal.selections


def test_a_plan_warns_of_shards_that_exceed_the_workers_time(terminal: Terminal) -> None:
    terminal.change = lambda env: replace(env, size=replace(env.size, timeout_s=1))
    terminal.world.put(1)

    told = terminal.types("plan", SCRIPT, *ONE_A_SHARD, "--dry-run", "--explain")

    assert "a shard would take 2.0 s, but the workers have 1.0 s" in " ".join(told.err.split())


@pytest.mark.parametrize("words", [("run",), ("plan", "--explain"), ("plan", "--explain", "--dry-run")])
def test_run_and_plan_warn_of_many_tiny_shards(terminal: Terminal, words: tuple[str, ...]) -> None:
    terminal.world.put(200)
    where = ("-i", SOURCE, "-o", "s3://data/out/{run_id}/")

    packed = terminal.types(*words, SCRIPT, *where, "--run-id", "packed")
    alone = terminal.types(*words, SCRIPT, *where, "--run-id", RUN, "--max-objects", "1")

    assert (packed.code, alone.code) == (0, 0), packed.err + alone.err
    assert "--max-objects 1000" in alone.err + alone.out
    assert "--max-objects" not in packed.err + packed.out


# --- where a run stands ---


def test_status_shows_pace_end_cost_slow_shards_and_causes(terminal: Terminal) -> None:
    slow_run(terminal)

    told = terminal.types("status", RUN, "--json")
    document = told.document
    words = " ".join(terminal.types("status", RUN).out.split())

    assert told.code == 3 and document["shards"]["running"] == 2
    slowest = [(each["shard"], each["seconds"]) for each in document["slowest"]]
    assert slowest == [(3, 40.0), (2, 30.0), (1, 20.0), (0, 10.0), (4, 5.0)]
    longest = [(each["shard"], each["seconds"], each["state"]) for each in document["longest_running"]]
    assert longest == [(5, 15.0, "RUNNING"), (6, 15.0, "RUNNING")]
    # 105 s of the ended and 30 of the running, 3,008 MB; 7 attempts
    assert document["costs_usd"]["lambda"] == pytest.approx(135 * 2.9375 * 0.0000166667 + 7 * 2e-7, abs=2e-6)
    # five have ended in 120 s, three of them within the last minute and a half... the pace is that of the last minute
    assert document["average_shards_per_min"] == 2.5 and document["shards_per_min"] == 2.0
    assert document["remaining_s"] == 150.0 and document["estimated_end"]
    assert document["failures"][0]["example_message"] == "column 3 is bad"
    assert document["execution"] is None and document["follow_ups"] == []
    for part in (
        "pace 2 now, 2.5 shards/min on average; about 2 min 30 s left, until",
        "cost so far about 0.0",
        "(on AWS): dispatch",
        "not of cold starts, planner, checker and state machine",
        "slowest shards",
        "5 │ 15 s │ RUNNING │ 1",
        "3 │ 40 s │ SUCCEEDED │ 1",
        "1 shard ValueError: column 3 is bad (shard 4, s3://data/in/00004.csv)",
    ):
        assert part in words, part


def test_status_shows_executions_that_others_started(terminal: Terminal) -> None:
    terminal.machines |= {"run": None}
    terminal.world.run(1)
    terminal.orchestrator.start("run", f"{RUN}-g0", {"run_id": RUN})
    recorded = {"execution": "nightly-7", "machine": "m", "where": "Plan", "error": "PlanError", "cause": "no input"}
    terminal.world.store.put(f"s3://sparklet/runs/{RUN}/executions/nightly-7.json", json.dumps(recorded).encode())
    terminal.world.store.put(f"s3://sparklet/runs/{RUN}/executions/torn.json", b"{")

    document = terminal.types("status", RUN, "--json").document
    words = " ".join(terminal.types("status", RUN).out.split())

    assert document["execution"]["name"] == f"{RUN}-g0" and document["execution"]["state"] == "RUNNING"
    assert document["failed_executions"] == [{**recorded, "recorded": "2023-11-14 22:13:20"}]
    assert f"driven by {RUN}-g0: RUNNING" in words
    assert "failed execution nightly-7 in Plan: PlanError: no input" in words


def test_a_status_reads_the_ledgers_shards_once(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.world.run(3)
    passes: list[ShardState | None] = []
    shards = terminal.world.ledger.shards.list

    def counted(run_id: str, state: ShardState | None = None) -> Iterator[ShardRecord]:
        passes.append(state)
        return shards(run_id, state)

    monkeypatch.setattr(terminal.world.ledger.shards, "list", counted)

    terminal.types("status", RUN)

    assert passes == [None]


@pytest.mark.parametrize(("is_terminal", "looks_s"), [(True, [10, 30]), (False, [])])
def test_watch_shows_details_in_a_terminal_but_not_in_a_pipe(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, is_terminal: bool, looks_s: list[int]
) -> None:
    terminal.world.run(3)
    terminal.work_from_s = terminal.world.clock.now_s() + 50
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # so Rich treats the output as a terminal
    began_s, looks = terminal.world.clock.now_s(), list[float]()

    def look(env: OpenStack, run: Run, prices: Prices) -> RunView:
        looks.append(env.deployment.clock.now_s() - began_s)
        return status.view_run(env, run, prices)

    monkeypatch.setattr(console, "view_run", look)

    assert terminal.types("watch", RUN).code == 0
    assert [round(look_s) for look_s in looks] == looks_s


def test_paths_and_addresses_are_never_wrapped() -> None:
    path, uri, out = "/home/ana/" + "shop/" * 20, "s3://bucket/" + "raw/" * 20, io.StringIO()
    facts = Facts()
    facts.add_row("output", Text(path, no_wrap=True))
    facts.add_row("says", f"{'a word ' * 20} {uri} {'another word ' * 20}")

    console.Terminal(file=out, width=40, force_terminal=True).print(facts)

    lines = out.getvalue().splitlines()
    assert f"output  {path}" in lines and any(line.endswith(uri) for line in lines)
    assert len([line for line in lines if len(line) > 40]) == 2


def test_output_to_a_pipe_is_not_wrapped(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    slow_run(terminal)

    lines = terminal.types("status", RUN).out.splitlines()

    assert any("cost so far" in line and line.endswith("USD") for line in lines)
    assert any(line.startswith("1 shard") and line.endswith("(shard 4, s3://data/in/00004.csv)") for line in lines)


def test_a_large_run_is_polled_less_often() -> None:
    assert poll_s(Counts(pending=10)) == pytest.approx(1.0, abs=0.01)
    assert poll_s(Counts(pending=100_000, succeeded=900_000)) == 11.0
    assert poll_s(Counts(pending=10_000_000)) == 15.0
    assert poll_s(Counts(succeeded=10_000_000)) == 1.0


def test_time_and_cost_include_all_attempts(terminal: Terminal) -> None:
    """Three attempts took 29 s in all, the successful one 0.9 s."""
    terminal.world.run(1)
    took_s = iter((20.0, 8.1, 0.9))

    def work(number: int) -> ShardResult | Failure:
        terminal.world.clock.advance(left := next(took_s))
        return ShardResult(rows=1) if left < 1 else Failure("OSError", "again", retryable=True)

    terminal.do = work
    terminal.types("watch", RUN)

    words = " ".join(terminal.types("status", RUN).out.split())
    assert "the shards worked 29 s in all, 28 s of it in vain" in words
    assert terminal.types("status", RUN, "--json").document["task_s"] == 29
    assert "cost so far about 0.0015 USD" in words


def test_a_lost_worker_is_named_with_the_time_of_its_loss(terminal: Terminal) -> None:
    terminal.world.run(2)
    for _ in range(2):
        message = terminal.world.receive()
        assert message is not None
        terminal.world.claim(message)
    terminal.world.clock.advance(LEASE_S + 1)
    first = next(iter(terminal.world.ledger.shards.expired(RUN, ShardState.RUNNING, terminal.world.clock.now_s())))
    terminal.world.ledger.attempts.expire(first, 3)  # the checker has noticed the first loss, but not the second

    lost = terminal.types("status", RUN, "--json").document["lost_workers"]

    since = f"{datetime.fromtimestamp(first.lease_end_s, UTC):%H:%M:%S} UTC"
    assert [each["shard"] for each in lost] == [0, 1] and all(since in each["since"] for each in lost)
    for command in ("status", "explain"):
        told = terminal.types(command, RUN)
        assert since in " ".join((told.out + told.err).split())


def run_with_open_commit(terminal: Terminal) -> None:
    """A run of one shard that has declared a write; its commit run is RUNNING."""
    world = terminal.world
    world.run(1)
    message = world.receive()
    assert message
    attempt, _ = world.claim(message)
    writes = json.dumps({"shard": 0, "attempt": attempt, "writes": [{}]}).encode()
    world.store.put(world.deployment.run_uri(RUN, f"writes/000000000-{attempt}.json"), writes)
    world.ledger.attempts.renew(RUN, 0, attempt, LEASE_S, ShardResult(rows=1))
    world.ledger.attempts.succeed(RUN, 0, attempt, ShardResult(rows=1))
    world.queue.delete(message.receipt)
    world.check()


def test_a_runs_commit_is_shown_with_its_state(terminal: Terminal) -> None:
    run_with_open_commit(terminal)
    world = terminal.world

    (follower,) = terminal.types("status", RUN, "--json").document["follow_ups"]
    told = terminal.types("status", RUN).out

    assert (follower["what"], follower["run_id"], follower["state"]) == ("commit", f"{RUN}-commit-0", "RUNNING")
    assert f"{RUN}-commit-0 RUNNING" in told
    world.work()
    world.check()
    assert terminal.types("status", RUN, "--json").document["follow_ups"][0]["state"] == "SUCCEEDED"


# --- ledger, manifest and output compared ---


def test_a_run_with_all_its_results_is_verified(terminal: Terminal) -> None:
    ended(terminal, succeeded=2)
    for number in range(2):
        terminal.world.store.put(f"{terminal.world.ledger.runs.get(RUN).shard_output(number)}/part-0.parquet", b"x")

    assert "verified: ledger, manifest and output agree" in terminal.types("status", RUN, "--verify").out
    assert terminal.types("status", RUN, "--verify", "--json").document["differences"] == []
    assert "differences" not in terminal.types("status", RUN, "--json").document


def test_differences_are_shown_with_their_remedy(terminal: Terminal) -> None:
    ended(terminal, succeeded=2)
    terminal.world.store.put(f"{terminal.world.ledger.runs.get(RUN).shard_output(1)}/part-0.parquet", b"x")

    told = terminal.types("status", RUN, "--verify")
    (found,) = terminal.types("status", RUN, "--verify", "--json").document["differences"]

    assert "1 SUCCEEDED shards reported rows, but have no files in" in " ".join((told.out + told.err).split())
    assert "verified" not in told.out
    assert (found["kind"], found["subject"], found["count"]) == ("NO_OUTPUT", RUN, 1)


def test_redelivered_messages_are_counted_apart_from_failures(terminal: Terminal) -> None:
    terminal.world.run(3)
    for number in (0, 0, 0, 2):
        assert terminal.world.ledger.attempts.count_requeue(terminal.world.shards()[number], unrun=True)

    assert "redelivered 4 messages" in " ".join(terminal.types("status", RUN).out.split())
    assert terminal.types("status", RUN, "--json").document["came_back_unrun"] == 4

    never, broken, _ = terminal.world.shards()
    assert terminal.world.ledger.attempts.abandon(never, Failure("NeverStarted", "never started", retryable=False))
    assert terminal.world.ledger.attempts.abandon(broken, BROKEN)
    groups = terminal.types("explain", RUN, "--json").document
    assert {each["error_class"]: each["came_back_unrun"] for each in groups} == {"NeverStarted": 3, "ValueError": 0}
    assert "redelivered 3 messages" in " ".join(terminal.types("explain", RUN).out.split())


# --- answers of scripts ---


def test_results_are_a_table_or_json_lines(terminal: Terminal) -> None:
    terminal.world.run(3)
    work(terminal.world)
    terminal.world.check()

    table, raw = terminal.types("results", RUN), terminal.types("results", RUN, "--json")

    assert (table.code, raw.code) == (0, 0), table.err + raw.err
    assert '{"n": 2}' in table.out
    assert [json.loads(line)["shard"] for line in raw.out.splitlines()] == [0, 1, 2]


def test_results_without_answers_explain_job_answer(terminal: Terminal) -> None:
    terminal.world.run(1)

    told, raw = terminal.types("results", RUN), terminal.types("results", RUN, "--json")

    assert told.code == 0 and "job.answer(" in told.out
    assert raw.out == "" and "job.answer(" in raw.err


REFUSED = Failure("TableError", "the table has no column x", retryable=False)


def test_a_failed_commit_is_explained_with_its_remedy(terminal: Terminal) -> None:
    run_with_open_commit(terminal)
    terminal.world.work(lambda _: REFUSED)
    terminal.world.check()

    (group,) = terminal.types("explain", RUN, "--json").document
    of_commit_run = terminal.types("explain", f"{RUN}-commit-0", "--json").document
    told = " ".join(terminal.types("explain", RUN).out.split())
    (cause,) = terminal.types("report", RUN, "--json").document["causes"]

    assert (group["task"], group["run_id"], group["message"]) == ("commit", f"{RUN}-commit-0", REFUSED.message)
    assert f"sparklet redrive {RUN} repeats the commit alone" in group["remedy"]
    assert group["redrive"] == f"sparklet redrive {RUN} --cause TableError" == of_commit_run[0]["redrive"]
    assert f"commit run {RUN}-commit-0: TableError" in told and "no shard" not in told
    assert cause.items() >= group.items() and cause["files"] == []
    assert f"what to do: sparklet explain {RUN}-commit-0" in terminal.types("status", RUN).out


def test_a_commit_that_fails_again_alike_needs_a_cause_to_repeat(terminal: Terminal) -> None:
    """A user who has repaired the table names the cause."""
    run_with_open_commit(terminal)
    terminal.do = lambda _: REFUSED
    terminal.world.work(terminal.do)
    terminal.world.check()

    of_commit_run = terminal.types("redrive", f"{RUN}-commit-0")
    first = terminal.types("redrive", RUN)
    second = terminal.types("redrive", RUN)
    terminal.do = lambda _: ShardResult()
    repaired = terminal.types("redrive", RUN, "--cause", "TableError")

    assert of_commit_run.code == 1 and f"sparklet redrive {RUN}" in of_commit_run.err
    assert f"{RUN}-commit-0 failed with TableError" in first.out
    assert second.code == 1 and f"sparklet redrive {RUN} --cause TableError" in " ".join(second.err.split())
    assert repaired.code == 0 and terminal.world.ledger.runs.get(RUN).state is RunState.SUCCEEDED


@pytest.mark.parametrize(("what", "fits"), [("check", "a redrive runs it again"), ("schema", "--schema 'id INT")])
def test_other_tasks_of_a_run_are_explained_too(terminal: Terminal, what: str, fits: str) -> None:
    """A run whose schema could not be inferred has planned nothing, so nothing is redriven."""
    world = terminal.world
    world.put(1)
    world.store.put(SCRIPT, b"job.read_csv(spark)\n")
    world.plan(**({"check": SCRIPT} if what == "check" else {"params": {"schema": "infer"}}))
    if what == "check":
        world.work_and_check()
    world.work(lambda _: Failure("KeyError", "'day'", retryable=False))
    check(world.deployment, RUN, planner_silent_s=0.0)

    (group,) = terminal.types("explain", RUN, "--json").document
    told = terminal.types("explain", RUN).out

    assert (group["task"], group["error_class"]) == (what, "KeyError") and fits in group["remedy"]
    assert ("sparklet redrive" in told) == (what == "check")


def test_shards_that_wrote_nothing_are_reported_everywhere(terminal: Terminal) -> None:
    terminal.world.put(3)
    terminal.do = lambda n: ShardResult(warning=NOTHING if n < 2 else "")

    told = terminal.types("run", SCRIPT, *ONE_A_SHARD, "--run-id", RUN)
    shown = terminal.types("status", RUN)
    document = terminal.types("status", RUN, "--shards", "--json").document

    for out in (told.out, shown.out):
        assert (
            "2 shards: nothing was written, as far as Sparklet sees" in " ".join(out.split())
            and "s3://data/out/" in out
        )
    assert document["warnings"] == [{"message": NOTHING, "count": 2}]
    assert terminal.world.json("manifest.json")["run"]["warnings"] == [{"message": NOTHING, "count": 2}]
    assert [each["warning"] for each in document["shard_list"]] == [NOTHING, NOTHING, None]
    assert terminal.types("report", RUN, "--json").document["status"]["warnings"] == document["warnings"]


def test_an_output_that_was_not_written_is_not_shown(terminal: Terminal) -> None:
    terminal.world.put(1)
    terminal.do = lambda _: ShardResult(warning=NOTHING)

    assert "s3://data/out/" not in terminal.types("run", SCRIPT, *ONE_A_SHARD, "--run-id", RUN).out
