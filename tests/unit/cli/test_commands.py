"""What the commands do and print, over ports in memory."""

import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sparklet.errors import RunNotFoundError
from sparklet.model import APART, ClaimStatus, Counts, Failure, RunState, ShardRecord, ShardResult
from sparklet.model.redaction import HIDDEN
from sparklet.runs.redrive import Again, redrive
from tests.stand_ins.memory import MemoryEngine
from tests.unit.cli.conftest import BROKEN, ONE_A_SHARD, RUN, Terminal, ended
from tests.world import BUCKET, LEASE_S, SCRIPT, SOURCE, World

NO_MEMORY = Failure("OutOfMemoryError", "the JVM ran out of memory: Java heap space", retryable=False)


def meanwhile(
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    failure_of: Callable[[ShardRecord], Failure | None],
    split: str = "",
) -> None:
    """Each time that a command waits, let a worker do one shard; a failed shard is released."""
    world = terminal.world

    def work_on_one() -> None:
        if not (message := world.receive()):
            return
        attempt_id, claim = world.claim(message)
        world.queue.delete(message.receipt)
        number = claim.record.number
        if not (failure := failure_of(claim.record)):
            world.ledger.attempts.succeed(RUN, number, attempt_id, ShardResult())
            return
        world.ledger.attempts.release(RUN, number, attempt_id, failure, split=split)
        if not split:
            world.queue.send([claim.record.ref.to_body()])

    monkeypatch.setattr(terminal, "meanwhile", work_on_one)


# --- run and plan ---


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_an_incremental_run_without_new_input_exits_with_0(
    terminal: Terminal, command: str, dry: tuple[str, ...]
) -> None:
    terminal.world.put(2)
    every_day = ("-i", SOURCE, "-o", "s3://data/out/", "--incremental", "--name", "daily", "--json")
    assert terminal.types("run", SCRIPT, *every_day).code == 0

    told = terminal.types(command, SCRIPT, *every_day, *dry)

    assert told.code == 0, told.err
    assert told.document["state"] == "NOTHING_NEW"
    assert "2 done by an earlier run" in told.document["reason"]


@pytest.mark.parametrize("failing", [(1,), (0, 1)])
def test_a_failed_run_exits_with_2_and_prints_the_remedy(terminal: Terminal, failing: tuple[int, ...]) -> None:
    """The output is printed only if at least one shard succeeded."""
    terminal.world.put(2)
    terminal.do = lambda n: BROKEN if n in failing else ShardResult()

    told = terminal.types("run", SCRIPT, *ONE_A_SHARD, "--run-id", RUN)

    assert told.code == 2
    assert f"sparklet explain {RUN}" in told.out and "redrive" not in told.out  # a redrive might fail again
    assert ("s3://data/out" in told.out) == (failing == (1,))


def test_a_failed_run_prints_that_nothing_was_committed(terminal: Terminal) -> None:
    """Two of three shards wrote 10 rows, and the run failed before any commit: the table does not exist."""
    terminal.world.put(3)
    terminal.do = lambda n: BROKEN if n == 2 else ShardResult(rows=5)

    table = ("--table", "delta:s3://data/lake/t", "--max-objects", "1", "--run-id", RUN)
    told = terminal.types("run", SCRIPT, "-i", SOURCE, *table)

    assert told.code == 2, told.err
    words = " ".join(told.out.split())
    assert "rows 10 of succeeded shards; nothing was committed" in words
    assert "table delta:s3://data/lake/t: nothing was committed" in words
    assert terminal.types("status", RUN, "--json").document["uncommitted"] == "nothing was committed"


def test_a_local_runs_failures_name_local_files(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("1\n")

    def fails(_: int) -> Failure:
        [uri] = (info.uri for info in terminal.world.store.list("s3://sparklet/") if info.uri.endswith("/a.csv"))
        return Failure("IOException", f"{uri.replace('s3', 's3a', 1)}: not a gzip file", retryable=False)

    terminal.do = fails
    told = terminal.types("run", SCRIPT, "-i", str(tmp_path / "in"), "-o", "s3://data/out/", "--run-id", RUN)

    assert f"IOException: {tmp_path}/in/a.csv: not a gzip file" in told.out
    assert f"{tmp_path}/in/a.csv: not a gzip file" in terminal.types("explain", RUN).out


def test_a_redrive_copies_repaired_local_files_again(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "in" / name).write_text("bad\n")
    terminal.do = lambda _: BROKEN
    where = ("-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"))
    assert terminal.types("run", SCRIPT, *where, "--max-objects", "1", "--run-id", RUN).code == 2
    (tmp_path / "in" / "b.csv").write_text("good\n")

    told = terminal.types("redrive", RUN, "--shards", "0,1")

    store = terminal.world.store
    copies = {uri.rpartition("/")[2]: store.get(uri) for uri in terminal.world.keys("s3://sparklet/") if ".csv" in uri}
    assert copies == {"a.csv": b"bad\n", "b.csv": b"good\n"}
    assert "copying 1 repaired file to the bucket" in told.out


def test_a_failing_attempt_is_reported_once_with_its_cause(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN two shards whose first attempts fail alike, WHEN the run is watched, THEN the cause is printed once."""
    terminal.world.put(2)
    failing = [0, 1]

    def fail_first_attempt(record: ShardRecord) -> Failure | None:
        if record.number not in failing:
            return None
        failing.remove(record.number)
        return Failure("ConnectTimeoutException", f"no answer from host {record.number}")

    meanwhile(terminal, monkeypatch, fail_first_attempt)

    told = terminal.types("run", SCRIPT, *ONE_A_SHARD, "--run-id", RUN)

    assert told.code == 0, told.err
    assert told.err.count("ConnectTimeoutException") == 1
    assert "attempt 1 of shard 0 has failed, another attempt follows" in " ".join(told.err.split())


def test_the_cause_of_a_split_is_reported_once(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.world.put(3)
    mixes = Failure("MixedInputsError", "line 3 has groupBy()", retryable=False)
    meanwhile(terminal, monkeypatch, lambda record: mixes if record.object_count > 1 else None, split=APART)

    told = terminal.types("run", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--output-per", "input", "--run-id", RUN)

    assert told.code == 0, told.err
    assert told.err.count("MixedInputsError: line 3 has groupBy()") == 1


def test_the_shard_limit_follows_from_the_stacks_memory(terminal: Terminal) -> None:
    terminal.world.put(1)
    terminal.types("plan", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", RUN)
    assert terminal.world.ledger.runs.get(RUN).options.max_shard_bytes == 3008 * 2**20 // 3


def test_a_local_list_of_addresses_is_planned(terminal: Terminal, tmp_path: Path) -> None:
    uris = terminal.world.put(5)
    listed = tmp_path / "wanted.txt"
    listed.write_text("\n".join(uris[1:3]))

    told = terminal.types(
        "plan", SCRIPT, "--list", str(listed), "--list-format", "lines", "-o", "s3://data/out/", "--run-id", RUN
    )

    assert told.code == 0, told.err
    assert "s3://data/out/ is in the local stack's own S3; for AWS name a deployed stack: --stack NAME" in told.out
    assert [item.uri for shard in terminal.world.planned() for item in shard.objects] == uris[1:3]


def test_a_dry_run_prints_counts_and_changes_nothing(terminal: Terminal) -> None:
    rows = b"".join(b"%05d\n" % n for n in range(40))
    terminal.world.store.put(f"{SOURCE}big.txt", rows)
    terminal.world.store.put(f"{SOURCE}small.txt", b"1\n")
    terminal.world.store.put(f"{SOURCE}empty.txt", b"")
    before = terminal.world.keys("s3://data/")

    arguments = ("-i", SOURCE, "--split", "lines", "--shard-size", "100", "--max-objects", "1", "--dry-run")
    told = terminal.types("run", SCRIPT, *arguments)
    document = terminal.types("plan", SCRIPT, *arguments, "--json").document

    assert told.code == 0, told.err
    assert document["objects"] == document["shards"] == document["slices"] + 1 and document["slices"] >= 2
    assert sum(document["skipped"].values()) == 1
    assert document["largest_object"] == f"{SOURCE}big.txt"
    assert "slices of larger ones" in told.out and "left out" in told.out
    assert terminal.world.keys("s3://data/") == before and not list(terminal.world.ledger.runs.list())


def test_incremental_is_refused_for_local_folders_at_once(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    told = terminal.types("plan", SCRIPT, "-i", str(tmp_path / "in"), "--incremental", "--dry-run")
    assert told.code == 1 and "--since" in told.err and not terminal.selections


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("statsu", "Did you mean 'status'?"),
        ("status run-1 --objct x", "Did you mean --object?"),
        ("run x.py --inptu x", "Did you mean --input?"),
        ("run x.py -i x --packages org.x:y:1", "No such option: --packages. Write --conf spark.jars.packages=…"),
        ("run x.py -i x --driver-memory 4g", "has all of its function's memory and cores: --memory MB"),
        ("run x.py -i a -o b --archived no", "'refuse', 'skip'"),
        ("run x.py -i a -o b --dispatch-mode bus", "'queue', 'loop', 'map', 'inline'"),
        ("run x.py -i a", "--output is missing"),
        (
            "run x.py in out",
            "--output is missing: name where the run writes (or --table); 'in', 'out' went to the script",
        ),
        ("run x.py in -o out", "no input was given: name folders"),
        ("run x.py -o out -- --password hunter2", f"'--password', '{HIDDEN}' went to the script"),
        ("clean", "--older-than"),
        ("clean --older-than month", "not a duration"),
        ("run jobb.py -i in -o out", "jobb.py is not there"),
        ("run broken.py -i in -o out", "broken.py cannot be compiled, line 1"),
        ("run job.jar -i in -o out", "job.jar must be a .py file"),
        ("run job.py -i inn -o out", "inn is not there"),
        ("run job.py -i empty -o out", "empty holds no file"),
        ("run job.py -i in -o out --exclude *.csv", "in holds no file"),
        ("run job.py -i in -o used", "used is not empty"),
        ("run job.py -i in -o job.py", "job.py: Not a directory"),
        ("run job.py -i in -o job.py/deeper/out", "job.py: Not a directory"),
        (f"run job.py -i in -o {'x' * 300}", "File name too long"),
        ("run job.py -i in -o /proc/out", "out cannot be written (/proc: "),
        ("run job.py -i in -o out --check chek.py", "chek.py is not there"),
        ("run job.py -i in -o out --next nxt.py", "nxt.py is not there"),
        ("run job.py -i in -o out --py-files lib.py", "py-file lib.py is not there"),
        ("run job.py -i in -o out --param-file table=t.csv", "there is no such file"),
        ("run job.py -i in -o out --table icebrg:db.t", "names no table"),
        ("run job.py -i in -o out --table iceberg:flights", "does not name an Iceberg table"),
        ("run job.py -i in -o out --next-shards 1", "--next"),
        ("run job.py -i in -o out --next job.py --next-shards 2", "must be 1"),
        ("plan jobb.py -i in -o out", "jobb.py is not there"),
        ("invoke jobb.py --event job.py", "is not JSON"),
        ("invoke jobb.py --event event.json", "jobb.py is not there"),
    ],
)
def test_mistakes_are_reported_before_a_stack_is_opened(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, told: str
) -> None:
    for name, text in (("job.py", "pass"), ("broken.py", "pas s"), ("in/a.csv", "1"), ("used/x", "1")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "empty").mkdir()
    (tmp_path / "event.json").write_text("{}")
    monkeypatch.chdir(tmp_path)

    answer = terminal.types(*words.split())

    assert answer.code == 1 and told in " ".join(answer.err.split()), answer.err
    assert not terminal.selections and not (tmp_path / "out").exists() and "Traceback" not in answer.err


# --- explain and redrive ---


def test_explain_groups_causes_and_prints_a_command_that_runs(terminal: Terminal) -> None:
    ended(terminal, BROKEN, BROKEN, NO_MEMORY)

    told = terminal.types("explain", RUN)
    many, few = terminal.types("explain", RUN, "--json").document

    assert told.code == 0, told.err
    assert "2 shards: ValueError" in told.out and "1 shard: OutOfMemoryError" in told.out
    assert (many["count"], many["shards"], many["example_object"]) == (2, "0-1", f"{SOURCE}00000.csv")
    assert many["redrive"] == f"sparklet redrive {RUN} --cause ValueError"
    assert few["redrive"] == f"sparklet redrive {RUN} --cause OutOfMemoryError --memory 6016"
    answer = terminal.types(*many["redrive"].split()[1:], "--json")
    assert answer.code == 2, answer.err  # one shard is still FAILED
    assert answer.document["shards"] == {"total": 4, "pending": 0, "running": 0, "succeeded": 3, "failed": 1}


def test_explain_reports_a_run_without_failures(terminal: Terminal) -> None:
    ended(terminal)
    assert "no shard of run-1 has failed" in terminal.types("explain", RUN).out


def test_a_dry_run_shows_the_shards_that_a_redrive_would_do(terminal: Terminal) -> None:
    ended(terminal, BROKEN, NO_MEMORY, BROKEN)

    told = terminal.types("redrive", RUN, "--cause", "COLUMN 3", "--shards", "1,2", "--dry-run", "--json")

    assert (told.document["redriven"], told.document["succeeded"], told.document["files"]) == ([2], 0, 1)
    assert "3 shards of run-1 would be redriven: 0-2\n" in terminal.types("redrive", RUN, "--dry-run").out
    assert terminal.world.ledger.runs.get(RUN).generation == 0
    assert "causes are: OutOfMemoryError, ValueError" in terminal.types("redrive", RUN, "--cause", "Nothing").err


def test_memory_of_a_local_stack_in_use_is_not_changed(terminal: Terminal) -> None:
    ended(terminal, NO_MEMORY)

    told = terminal.types("redrive", RUN, "--memory", "6016", "--timeout", "1800")

    assert (terminal.selections[-1].memory_mb, terminal.selections[-1].timeout_s) == (6016, 1800)
    assert told.code == 1 and "sparklet stop" in told.err and "--memory 6016" in told.err
    assert terminal.world.ledger.runs.get(RUN).generation == 0


def test_more_memory_on_a_deployed_stack_prints_the_aws_command(terminal: Terminal) -> None:
    ended(terminal, NO_MEMORY)
    terminal.change = terminal.deployed

    told = terminal.types("redrive", RUN, "--memory", "6016", "--stack", "prod")

    assert told.code == 1
    command = " ".join(told.err.split())
    assert "aws cloudformation update-stack --stack-name prod --use-previous-template" in command
    assert "ParameterKey=FunctionMemoryMB,ParameterValue=6016" in command
    assert "ParameterKey=ImageUri,UsePreviousValue=true" in command
    assert "must be one of 60, 120" in terminal.types("redrive", RUN, "--timeout", "61").err
    assert terminal.types("explain", RUN, "--json").document[0]["redrive"].endswith("--memory 6016 --stack prod")


class LargeFunction(MemoryEngine):
    """The engine lambda-large: a started worker does its shard at once."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def start(self, token: str, command: Sequence[str]) -> str:
        ref = self.world.shards()[int(command[4])].ref
        claim = self.world.ledger.attempts.claim(ref, token, LEASE_S, 3, engine="lambda-large")
        assert claim.status is ClaimStatus.GRANTED
        self.world.ledger.attempts.succeed(RUN, ref.shard, token, ShardResult(rows=1))
        return super().start(token, command)


def test_more_memory_on_a_deployed_stack_uses_lambda_large(terminal: Terminal) -> None:
    ended(terminal, NO_MEMORY)
    terminal.world.engines = {"lambda-large": LargeFunction(terminal.world)}
    terminal.change = terminal.deployed

    less = terminal.types("redrive", RUN, "--memory", "1769", "--stack", "prod")
    longer = terminal.types("redrive", RUN, "--memory", "6016", "--timeout", "3600", "--stack", "prod")
    other_engine = terminal.types("redrive", RUN, "--memory", "6016", "--engine", "emr", "--stack", "prod")
    told = terminal.types("redrive", RUN, "--memory", "6016", "--stack", "prod")

    assert (less.code, longer.code, other_engine.code) == (1, 1, 1)
    assert "ParameterValue=1769" in less.err and "--timeout 3600 must be one of" in longer.err
    assert told.code == 0, told.err
    assert [record.engine for record in terminal.world.shards()] == ["lambda-large", ""]


def test_explain_proposes_an_engine_if_lambda_large_is_too_small(terminal: Terminal) -> None:
    ended(terminal, NO_MEMORY)
    terminal.world.engines = {"lambda-large": MemoryEngine(), "fargate": MemoryEngine()}
    terminal.change = terminal.deployed
    redrive(terminal.world.deployment, RUN, how=Again("lambda-large"))
    ref = terminal.world.shards()[0].ref
    claim = terminal.world.ledger.attempts.claim(ref, "there", LEASE_S, 3, engine="lambda-large")
    terminal.world.ledger.attempts.fail(RUN, 0, claim.record.attempt_id, NO_MEMORY)

    told = terminal.types("explain", RUN, "--json").document[0]["redrive"]

    assert "--engine fargate" in told and "--memory" not in told


# --- cancel ---


def test_cancel_gives_up_waiting_shards_and_watch_exits_with_3(terminal: Terminal) -> None:
    terminal.world.run(3)

    dry = terminal.types("cancel", RUN, "--dry-run", "--json").document
    assert dry["given_up"] == 3 and terminal.world.ledger.runs.get(RUN).cancelled_s is None
    told = terminal.types("cancel", RUN)

    assert told.code == 0 and "3 shards given up" in told.out
    assert "being cancelled" in terminal.types("status", RUN).out
    assert terminal.types("watch", RUN).code == 3
    assert terminal.world.ledger.runs.get(RUN).state is RunState.CANCELLED
    assert "ended already" not in terminal.types("cancel", RUN).err
    assert terminal.types("redrive", RUN).code == 0
    assert terminal.world.ledger.shards.count(RUN) == Counts(succeeded=3)


def test_a_run_that_has_ended_is_not_cancelled(terminal: Terminal) -> None:
    ended(terminal)
    for words in (("cancel", RUN), ("cancel", RUN, "--dry-run")):
        told = terminal.types(*words)
        assert told.code == 1 and "has ended already" in told.err


# --- clean ---


def test_clean_asks_deletes_and_reports(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(terminal)
    assert f"{RUN}: SUCCEEDED" in terminal.types("clean", "--keep", "0", "--dry-run").out
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    refused = terminal.types("clean", "--run", RUN)
    assert refused.code == 1 and "nothing was deleted" in refused.out
    assert terminal.world.ledger.runs.get(RUN).state is RunState.SUCCEEDED

    told = terminal.types("clean", "--run", RUN, "--yes")

    assert told.code == 0 and "1 run deleted" in told.out
    with pytest.raises(RunNotFoundError):
        terminal.world.ledger.runs.get(RUN)
    assert terminal.types("clean", "--older-than", "1d", "--yes").code == 0


def test_clean_warns_when_incremental_runs_would_lose_history(terminal: Terminal) -> None:
    terminal.world.put(1)
    terminal.types("plan", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", RUN, "--incremental")
    terminal.world.work()
    terminal.world.check()
    assert "of the name daily will process again" in terminal.types("clean", "--run", RUN, "--dry-run").err


def test_objects_that_could_not_be_cut_are_listed(terminal: Terminal) -> None:
    terminal.world.store.put(f"{SOURCE}one-line.txt", b"x" * 500)
    told = terminal.types(
        "plan", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--split", "lines", "--shard-size", "100", "--run-id", RUN
    )
    assert told.code == 0 and "could not be sliced" in told.err and "one line" in told.err


def test_clean_without_a_terminal_names_the_option(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(terminal)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    told = terminal.types("clean", "--run", RUN)
    assert told.code == 1 and "--yes" in told.err
    assert terminal.world.ledger.runs.get(RUN).state is RunState.SUCCEEDED


def test_clean_warns_if_the_local_output_is_not_complete(terminal: Terminal, tmp_path: Path) -> None:
    copy = f"s3://{BUCKET}/output/{RUN}/"
    terminal.world.put(1)
    terminal.types("plan", SCRIPT, "-i", SOURCE, "-o", str(tmp_path / "out"), "--run-id", RUN)
    terminal.world.work()
    terminal.world.check()
    published = terminal.world.ledger.runs.get(RUN).shard_output(0)
    out = tmp_path / "out" / published.rpartition("/")[2]
    terminal.world.store.put(f"{published}/part-0", b"rows")
    assert terminal.world.ledger.runs.get(RUN).local_output == f"file://{tmp_path}/out/"

    assert "is not complete" in terminal.types("clean", "--run", RUN, "--dry-run").err
    out.mkdir(parents=True)
    (out / "part-0").write_bytes(b"rows")
    told = terminal.types("clean", "--run", RUN, "--yes")

    assert told.code == 0 and "is not complete" not in told.err
    assert terminal.world.keys(copy) == [] and (out / "part-0").read_bytes() == b"rows"
    assert not (terminal.state / "local-paths" / f"{RUN}.json").exists()


def test_a_local_iceberg_table_gets_a_catalog(terminal: Terminal, tmp_path: Path) -> None:
    terminal.world.put(1)
    out, words = tmp_path / "out", ("plan", SCRIPT, "-i", SOURCE, "--table", "iceberg:db.t", "--run-id", RUN)

    assert terminal.types(*words, "-o", str(out)).code == 0

    run = terminal.world.ledger.runs.get(RUN)
    assert run.table == "iceberg:db.t" and out.is_dir()
    assert run.env == {
        "PYICEBERG_CATALOG__ICEBERG__TYPE": "sql",
        "PYICEBERG_CATALOG__ICEBERG__URI": f"sqlite:///{out}/catalog.sqlite",
        "PYICEBERG_CATALOG__ICEBERG__WAREHOUSE": f"file://{out}/warehouse",
    }
    assert terminal.types(*words, "-o", str(out)).code == 0  # the request is the same, and so is the run


@pytest.mark.parametrize(
    ("mine", "env"),
    [
        (("--env", "PYICEBERG_CATALOG__ICEBERG__TYPE=rest"), {"PYICEBERG_CATALOG__ICEBERG__TYPE": "rest"}),
        (("--param", "warehouse=glue:s3://b/w"), {}),
        (("--param", "warehouse=arn:aws:s3tables:eu-west-1:111122223333:bucket/lake"), {}),
    ],
)
def test_a_catalog_that_the_user_names_is_kept(
    terminal: Terminal, tmp_path: Path, mine: tuple[str, ...], env: dict[str, str]
) -> None:
    terminal.world.put(1)
    words = ("plan", SCRIPT, "-i", SOURCE, "--table", "iceberg:db.t", "--run-id", RUN, *mine)

    assert terminal.types(*words, "-o", str(tmp_path / "out")).code == 0

    assert terminal.world.ledger.runs.get(RUN).env == env


def test_local_tables_get_absolute_paths(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.world.put(1)
    monkeypatch.chdir(tmp_path)
    for run_id, table in ((RUN, "delta:t"), ("run-2", "parquet:my out")):
        told = terminal.types("plan", SCRIPT, "-i", SOURCE, "--table", table, "--run-id", run_id)
        assert told.code == 0, told.err

    assert terminal.world.ledger.runs.get(RUN).table == f"delta:file://{tmp_path}/t"
    assert terminal.world.ledger.runs.get(RUN).local_output == ""
    assert terminal.world.ledger.runs.get("run-2").local_output == f"file://{tmp_path}/my out/"


# --- status of an object, logs, commands ---


def test_the_status_of_a_sliced_object_is_shown_slice_by_slice(terminal: Terminal) -> None:
    uri = f"{SOURCE}big.txt"
    terminal.world.store.put(uri, b"".join(b"%05d\n" % n for n in range(40)))
    options = ("--split", "lines", "--shard-size", "100", "--max-objects", "1")
    terminal.types("plan", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", RUN, *options)
    terminal.world.work(lambda n: ShardResult() if n else BROKEN)

    told = terminal.types("status", RUN, "--object", uri)
    document = terminal.types("status", RUN, "--object", uri, "--json").document

    assert document["state"] == "FAILED" and len(document["shards"]) >= 2
    assert document["shards"][0]["slices"][0][:2] == ["lines", 0]
    assert f"lies in {len(document['shards'])} shards" in told.out and "bytes 0 to" in told.out


def test_an_objects_output_is_shown_with_its_local_path(terminal: Terminal) -> None:
    terminal.world.put(1)

    def work(number: int) -> ShardResult:
        run = terminal.world.ledger.runs.get(RUN)
        return ShardResult(rows=1, outputs=(f"{run.output_uri}{run.shard_prefix}{number:06d}",))

    terminal.do = work
    terminal.types("run", SCRIPT, "-i", SOURCE, "-o", "out", "--run-id", RUN)

    told = terminal.types("status", RUN, "--object", f"{SOURCE}00000.csv")

    assert f" {Path.cwd()}/out/shard={RUN}_" in told.out and "s3://" not in told.out


def test_a_skipped_object_is_shown_with_its_reason(terminal: Terminal) -> None:
    terminal.world.put(1)
    terminal.world.store.put(f"{SOURCE}nothing.csv", b"")
    terminal.types("plan", SCRIPT, "-i", SOURCE, "-o", "s3://data/out/", "--run-id", RUN)

    told = terminal.types("status", RUN, "--object", f"{SOURCE}nothing.csv")
    document = terminal.types("status", RUN, "--object", f"{SOURCE}nothing.csv", "--json").document
    never = terminal.types("status", RUN, "--object", f"{SOURCE}never.csv")

    assert told.code == 0 and "was left out" in told.out and "empty" in told.out
    assert (document["state"], document["left_out"], document["shards"]) == ("LEFT_OUT", ["empty"], [])
    assert never.code == 1 and "in no shard" in never.err


def test_logs_are_followed_until_the_run_ends(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    run = terminal.world.run(1)
    claimed, _ = terminal.world.claim_ref(terminal.world.shards()[0].ref)

    def end() -> None:
        line = {"time": "2026-11-20T11:22:33.444Z", "level": "INFO", "message": "late", "run": RUN, "shard": 0}
        terminal.logs.lines.append(json.dumps({**line, "attempt": claimed}))
        terminal.world.ledger.runs.finish(RUN, run.generation, RunState.FAILED)

    monkeypatch.setattr(terminal, "meanwhile", end)

    assert "late" in terminal.types("logs", RUN, "--follow").out


def test_logs_show_one_shard_readable_or_raw(terminal: Terminal) -> None:
    ended(terminal, BROKEN)
    attempt = terminal.world.shards()[0].attempt_id

    def own(message: str, shard: int = 0, attempt: str = attempt) -> str:
        time = "2026-11-20T11:22:33.444Z"
        line = {"time": time, "level": "INFO", "message": message, "run": RUN, "shard": shard, "attempt": attempt}
        return json.dumps(line)

    terminal.logs.lines = [own("claim answered"), "hello from the script", own("claim answered", 1, "other")]

    told = terminal.types("logs", RUN, "0")
    raw = [json.loads(line) for line in terminal.types("logs", RUN, "--json", "--follow").out.splitlines()]

    assert told.out.splitlines()[0] == f"── shard 0, attempt {attempt} (worker-1.log)"
    assert told.out.splitlines()[1:] == ["11:22:33.444 INFO    claim answered", "hello from the script"]
    assert [line["line"] for line in raw] == terminal.logs.lines
    assert terminal.types("logs", RUN, "7").code == 1
    assert "nothing was written" in terminal.types("logs", RUN, "0", "--attempt", "zzz").err
