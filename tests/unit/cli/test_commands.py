"""What the commands do and say, over the ports in memory."""

import io
import json
import sys
from pathlib import Path

import pytest

from sparklet.cli.transfer import LocalPaths
from sparklet.errors import RunNotFoundError
from sparklet.model import Access, Counts, Failure, RunState, ShardResult
from tests.unit.cli.conftest import RUN, Desk
from tests.world import BUCKET, SCRIPT, SOURCE

BROKEN = Failure("ValueError", "column 3 is bad", retryable=False)
NO_MEMORY = Failure("OutOfMemoryError", "the JVM ran out of memory: Java heap space", retryable=False)


def failed(desk: Desk, *failures: Failure, succeeded: int = 1) -> None:
    """An ended run whose first shards failed so."""
    desk.world.run(len(failures) + succeeded)
    desk.world.work(lambda n: failures[n] if n < len(failures) else ShardResult(rows=1))
    desk.world.check()


# --- run and plan ---


def test_run_plans_watches_and_sums_up(desk: Desk) -> None:
    desk.world.put(3)

    told = desk.types(
        "run", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--max-objects", "1", "--run-id", RUN, "--json"
    )

    assert told.code == 0, told.err
    assert told.document["shards"]["succeeded"] == 3
    assert desk.world.ledger.runs.get(RUN).name == "daily"


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_schedule_that_finds_nothing_new_ends_well(desk: Desk, command: str, dry: tuple[str, ...]) -> None:
    desk.world.put(2)
    every_day = ("-i", SOURCE, "-o", "s3://data/out/", "--incremental", "--name", "daily", "--json")
    assert desk.types("run", SCRIPT, *every_day).code == 0

    told = desk.types(command, SCRIPT, *every_day, *dry)

    assert told.code == 0, told.err
    assert told.document["state"] == "NOTHING_NEW"
    assert "2 done by an earlier run" in told.document["reason"]


def test_run_exits_with_2_on_failed_shards_and_shows_the_remedy(desk: Desk) -> None:
    desk.world.put(2)
    desk.do = lambda n: BROKEN if n else ShardResult()

    told = desk.types("run", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--max-objects", "1", "--run-id", RUN)

    assert told.code == 2
    assert f"sparklet explain {RUN}" in told.out and f"sparklet redrive {RUN}" in told.out


def test_a_local_list_of_addresses_is_planned(desk: Desk, tmp_path: Path) -> None:
    uris = desk.world.put(5)
    listed = tmp_path / "wanted.txt"
    listed.write_text("\n".join(uris[1:3]))

    told = desk.types(
        "plan", SCRIPT, "--list", str(listed), "--list-format", "lines", "-o", "s3://data/out/", "--run-id", RUN
    )

    assert told.code == 0, told.err
    assert [item.uri for shard in desk.world.planned() for item in shard.objects] == uris[1:3]


def test_access_and_the_largest_shard_reach_the_run(desk: Desk) -> None:
    desk.world.put(1)
    desk.types("plan", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", RUN)
    run = desk.world.ledger.runs.get(RUN)
    assert run.options.max_shard_bytes == 3008 * 2**20 // 3 and run.access == Access()

    arguments = ("plan", SCRIPT, "-i", SOURCE, "-o", "s3://data/out-2/", "--max-shard-size", "0", "--run-id", "run-2")
    desk.types(*arguments)
    assert desk.world.ledger.runs.get("run-2").options.max_shard_bytes == 0


def test_a_dry_run_lists_shards_slices_and_reasons_only(desk: Desk) -> None:
    rows = b"".join(b"%05d\n" % n for n in range(40))
    desk.world.store.put(f"{SOURCE}big.txt", rows)
    desk.world.store.put(f"{SOURCE}small.txt", b"1\n")
    desk.world.store.put(f"{SOURCE}empty.txt", b"")
    before = desk.world.keys("s3://data/")

    arguments = ("-i", SOURCE, "--split", "lines", "--shard-size", "100", "--max-objects", "1", "--dry-run")
    told = desk.types("run", SCRIPT, *arguments)
    document = desk.types("plan", SCRIPT, *arguments, "--json").document

    assert told.code == 0, told.err
    assert document["objects"] == document["shards"] == document["slices"] + 1 and document["slices"] >= 2
    assert sum(document["skipped"].values()) == 1
    assert document["largest_object"] == f"{SOURCE}big.txt"
    assert "slices of larger ones" in told.out and "left out" in told.out
    assert desk.world.keys("s3://data/") == before and not list(desk.world.ledger.runs.list())


def test_incremental_is_refused_for_local_folders_at_once(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    told = desk.types("plan", SCRIPT, "-i", str(tmp_path / "in"), "--incremental", "--dry-run")
    assert told.code == 1 and "--since" in told.err and not desk.selections


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("statsu",), "Did you mean 'status'?"),
        (("status", RUN, "--objct", "x"), "Did you mean --object?"),
        (("run", "x.py", "--inptu", "x"), "Did you mean --input?"),
        (("run", "x.py", "-i", "a", "-o", "b", "--oversize", "no"), "'refuse', 'mark'"),
        (("run", "x.py", "-i", "a", "-o", "b", "--split", "xml"), "'auto', 'csv', 'lines', 'parquet'"),
        (("run", "x.py", "-i", "a", "-o", "b", "--since", "soon"), "--since: 'soon'"),
        (("run", "x.py", "-i", "a", "-o", "b", "--max-shard-size", "big"), "'big' is no size"),
        (("run", "x.py", "-o", "b"), "no input was given"),
        (("run", "x.py", "-i", "a"), "--output is missing"),
        (("redrive", RUN, "--shards", "1-"), "--shards '1-'"),
        (("clean",), "--older-than"),
        (("clean", "--older-than", "month"), "no duration"),
        (("commands",), "either a SCRIPT or a run"),
    ],
)
def test_wrong_words_are_refused_before_anything_starts(desk: Desk, words: tuple[str, ...], told: str) -> None:
    answer = desk.types(*words)
    assert answer.code == 1 and told in answer.err
    assert not desk.selections and "Traceback" not in answer.err


# --- explain and redrive ---


def test_explain_groups_causes_and_prints_the_command(desk: Desk) -> None:
    failed(desk, BROKEN, BROKEN, NO_MEMORY)

    told = desk.types("explain", RUN)
    many, few = desk.types("explain", RUN, "--json").document

    assert told.code == 0, told.err
    assert "2 shards: ValueError" in told.out and "1 shard: OutOfMemoryError" in told.out
    assert (many["count"], many["shards"], many["example_object"]) == (2, "0-1", f"{SOURCE}00000.csv")
    assert many["redrive"] == f"sparklet redrive {RUN} --cause ValueError"
    assert few["redrive"] == f"sparklet redrive {RUN} --cause OutOfMemoryError --memory 6016"


def test_the_commands_that_explain_prints_can_be_run(desk: Desk) -> None:
    failed(desk, BROKEN, NO_MEMORY, BROKEN)
    told = desk.types("explain", RUN, "--json").document[0]["redrive"].split()

    answer = desk.types(*told[1:], "--json")

    assert answer.code == 2, answer.err  # one shard has failed as before
    assert answer.document["shards"] == {"total": 4, "pending": 0, "running": 0, "succeeded": 3, "failed": 1}


def test_explain_reports_a_run_without_failures(desk: Desk) -> None:
    failed(desk)
    assert "no shard of run-1 has failed" in desk.types("explain", RUN).out


def test_redrive_of_shards_with_one_cause_and_only_saying_so(desk: Desk) -> None:
    failed(desk, BROKEN, NO_MEMORY, BROKEN)

    told = desk.types("redrive", RUN, "--cause", "COLUMN 3", "--shards", "1,2", "--dry-run", "--json")

    assert told.document == {"dry_run": True, "run_id": RUN, "redriven": [2]}
    assert desk.world.ledger.runs.get(RUN).generation == 0
    assert "there are: OutOfMemoryError, ValueError" in desk.types("redrive", RUN, "--cause", "Nothing").err


def test_memory_is_raised_on_the_local_stack_unless_in_use(desk: Desk) -> None:
    failed(desk, NO_MEMORY)

    told = desk.types("redrive", RUN, "--memory", "6016", "--timeout", "1800")

    assert (desk.selections[-1].memory_mb, desk.selections[-1].timeout_s) == (6016, 1800)
    assert told.code == 1 and "sparklet stop" in told.err and "--memory 6016" in told.err
    assert desk.world.ledger.runs.get(RUN).generation == 0


def test_a_deployed_stack_is_unchanged_and_the_command_is_shown(desk: Desk) -> None:
    failed(desk, NO_MEMORY)
    desk.change = desk.deployed

    told = desk.types("redrive", RUN, "--memory", "6016", "--stack", "prod")

    assert told.code == 1
    command = " ".join(told.err.split())
    assert "aws cloudformation update-stack --stack-name prod --use-previous-template" in command
    assert "ParameterKey=FunctionMemoryMB,ParameterValue=6016" in command
    assert "ParameterKey=ImageUri,UsePreviousValue=true" in command
    assert "must be one of 60, 120" in desk.types("redrive", RUN, "--timeout", "61").err
    assert desk.types("explain", RUN, "--json").document[0]["redrive"].endswith("--memory 6016 --stack prod")


# --- cancel ---


def test_cancel_gives_up_what_waits_and_watch_ends_with_3(desk: Desk) -> None:
    desk.world.run(3)

    dry = desk.types("cancel", RUN, "--dry-run", "--json").document
    assert dry["given_up"] == 3 and desk.world.ledger.runs.get(RUN).cancelled_s is None
    told = desk.types("cancel", RUN)

    assert told.code == 0 and "3 shards given up" in told.out
    assert "being cancelled" in desk.types("status", RUN).out
    assert desk.types("watch", RUN).code == 3
    assert desk.world.ledger.runs.get(RUN).state is RunState.CANCELLED
    assert "ended already" not in desk.types("cancel", RUN).err
    assert desk.types("redrive", RUN).code == 0
    assert desk.world.ledger.shards.count(RUN) == Counts(succeeded=3)


def test_a_run_that_has_ended_is_not_cancelled(desk: Desk) -> None:
    failed(desk)
    for words in (("cancel", RUN), ("cancel", RUN, "--dry-run")):
        told = desk.types(*words)
        assert told.code == 1 and "has ended already" in told.err


# --- clean ---


def test_clean_asks_deletes_and_reports(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    failed(desk)
    assert f"{RUN}: SUCCEEDED" in desk.types("clean", "--keep", "0", "--dry-run").out
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    refused = desk.types("clean", "--run", RUN)
    assert refused.code == 1 and "nothing was deleted" in refused.out
    assert desk.world.ledger.runs.get(RUN).state is RunState.SUCCEEDED

    told = desk.types("clean", "--run", RUN, "--yes")

    assert told.code == 0 and "1 run deleted" in told.out
    with pytest.raises(RunNotFoundError):
        desk.world.ledger.runs.get(RUN)
    assert desk.types("clean", "--older-than", "1d", "--yes").code == 0


def test_clean_warns_when_incremental_runs_would_lose_history(desk: Desk) -> None:
    desk.world.put(1)
    desk.types("plan", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", RUN, "--incremental")
    desk.world.work()
    desk.world.check()
    assert "of the name daily will process again" in desk.types("clean", "--run", RUN, "--dry-run").err


def test_objects_that_could_not_be_cut_are_listed(desk: Desk) -> None:
    desk.world.store.put(f"{SOURCE}one-line.txt", b"x" * 500)
    told = desk.types(
        "plan", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--split", "lines", "--shard-size", "100", "--run-id", RUN
    )
    assert told.code == 0 and "could not be sliced" in told.err and "one line" in told.err


def test_clean_without_a_terminal_names_the_option(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    failed(desk)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    told = desk.types("clean", "--run", RUN)
    assert told.code == 1 and "--yes" in told.err
    assert desk.world.ledger.runs.get(RUN).state is RunState.SUCCEEDED


def test_the_buckets_copy_is_deleted_only_once_complete_locally(desk: Desk, tmp_path: Path) -> None:
    copy = f"s3://{BUCKET}/output/{RUN}/"
    desk.world.put(1)
    desk.types("plan", SCRIPT, "-i", SOURCE, "-o", str(tmp_path / "out"), "--run-id", RUN)
    desk.world.work()
    desk.world.check()
    published = desk.world.ledger.runs.get(RUN).shard_output(0)
    out = tmp_path / "out" / published.rpartition("/")[2]
    desk.world.store.put(f"{published}/part-0", b"rows")
    paths = LocalPaths.load(desk.state / "local-paths", RUN)
    assert paths.output == str(tmp_path / "out")

    assert "is not complete" in desk.types("clean", "--run", RUN, "--dry-run").err
    out.mkdir(parents=True)
    (out / "part-0").write_bytes(b"rows")
    told = desk.types("clean", "--run", RUN, "--yes")

    assert told.code == 0 and "is not complete" not in told.err
    assert desk.world.keys(copy) == [] and (out / "part-0").read_bytes() == b"rows"
    assert not (desk.state / "local-paths" / f"{RUN}.json").exists()


# --- status of an object, logs, commands ---


def test_the_status_of_a_sliced_object_is_shown_slice_by_slice(desk: Desk) -> None:
    uri = f"{SOURCE}big.txt"
    desk.world.store.put(uri, b"".join(b"%05d\n" % n for n in range(40)))
    options = ("--split", "lines", "--shard-size", "100", "--max-objects", "1")
    desk.types("plan", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", RUN, *options)
    desk.world.work(lambda n: ShardResult() if n else BROKEN)

    told = desk.types("status", RUN, "--object", uri)
    document = desk.types("status", RUN, "--object", uri, "--json").document

    assert document["state"] == "FAILED" and len(document["shards"]) >= 2
    assert document["shards"][0]["slices"][0][:2] == ["lines", 0]
    assert f"lies in {len(document['shards'])} shards" in told.out and "bytes 0 to" in told.out


def test_a_skipped_object_is_shown_with_its_reason(desk: Desk) -> None:
    desk.world.put(1)
    desk.world.store.put(f"{SOURCE}nothing.csv", b"")
    desk.types("plan", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", RUN)

    told = desk.types("status", RUN, "--object", f"{SOURCE}nothing.csv")
    document = desk.types("status", RUN, "--object", f"{SOURCE}nothing.csv", "--json").document
    never = desk.types("status", RUN, "--object", f"{SOURCE}never.csv")

    assert told.code == 0 and "was left out" in told.out and "empty" in told.out
    assert (document["state"], document["left_out"], document["shards"]) == ("LEFT_OUT", ["empty"], [])
    assert never.code == 1 and "in no shard" in never.err


def test_logs_show_one_shard_readable_or_raw(desk: Desk) -> None:
    failed(desk, BROKEN)
    attempt = desk.world.shards()[0].attempt_id

    def own(message: str, shard: int = 0, attempt: str = attempt) -> str:
        time = "2026-11-20T11:22:33.444Z"
        line = {"time": time, "level": "INFO", "message": message, "run": RUN, "shard": shard, "attempt": attempt}
        return json.dumps(line)

    desk.logs.lines = [own("claim answered"), "hello from the script", own("claim answered", 1, "other")]

    told = desk.types("logs", RUN, "0")
    raw = [json.loads(line) for line in desk.types("logs", RUN, "--json", "--follow").out.splitlines()]

    assert told.out.splitlines()[0] == f"── shard 0, attempt {attempt} (worker-1.log)"
    assert told.out.splitlines()[1:] == ["11:22:33.444 INFO    claim answered", "hello from the script"]
    assert [line["line"] for line in raw] == desk.logs.lines
    assert desk.types("logs", RUN, "7").code == 1
    assert "nothing was written" in desk.types("logs", RUN, "0", "--attempt", "zzz").err


def test_commands_for_other_engines_cover_scripts_and_shards(desk: Desk) -> None:
    failed(desk, BROKEN)

    script = desk.types("commands", "job.py", "-i", "s3://b/in/", "-o", "s3://b/out/", "--engine", "emr-serverless")
    whole = desk.types("commands", "--run", RUN, "--json").document
    shard = desk.types("commands", "--run", RUN, "--cause", "ValueError", "--engine", "spark-submit")

    assert script.code == 0 and "aws emr-serverless start-job-run" in script.out
    assert set(whole) == {"spark-submit", "emr", "emr-serverless", "glue"}
    assert f"{SOURCE}00000.csv" in shard.out and f"{SOURCE}00001.csv" not in shard.out


def test_a_failed_shard_can_be_sent_to_fargate(desk: Desk) -> None:
    failed(desk, BROKEN)

    task = desk.types("commands", "--run", RUN, "--engine", "fargate")
    every = desk.types("commands", "--run", RUN, "--cause", "ValueError", "--json").document
    alone = desk.types("commands", "job.py", "--engine", "fargate")

    assert "aws ecs run-task" in task.out and f'"--run", "{RUN}", "--shard", "0", "--redrive"' in task.out
    assert set(every) == {"spark-submit", "emr", "emr-serverless", "glue", "fargate"}
    assert alone.code == 1 and "name the run" in alone.err
