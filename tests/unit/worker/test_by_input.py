"""Where the files of a shard are published that has an output for each input, and what is told of each."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sparklet.events import Outcome
from sparklet.ledger.rules import LEASE_GRACE_S, LEASE_S
from sparklet.model import APART, RunState, ShardState
from sparklet.runs.checker import check
from sparklet.runs.manifest import RESULTS, results, write_manifests
from sparklet.settings import WorkerSettings
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.spark.spark_options import ORIGINS
from tests.unit.worker.conftest import Behaviour, Bench, make_bench, reports
from tests.world import Fault, KilledError

OUTPUT = "s3://out/x/"
JOB = "5ba1f2aa-0000-4000-8000-{:012d}"


def spark_writes(bench: Bench, tasks: dict[int, tuple[str, int]], *more: str) -> Callable[..., ScriptResult]:
    """A job of Spark: each task with its origin and its rows writes a file, and so does something else."""

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        assert call.per_input
        folder, job = bench.runner.event()["output_path"], JOB.format(len(bench.runner.calls))
        for task in tasks:
            bench.store.put(f"{folder}/k=1/part-{task:05d}-{job}.c000.parquet", b"rows")
        for name in more:
            bench.store.put(f"{folder}/{name}", b"more")
        words = [word for task, (key, count) in tasks.items() for word in (str(task), key, str(count))]
        if words:
            (call.work_dir.parent / ORIGINS / job).write_text("\0".join(words))
        return ScriptResult(0)

    return work


def published(bench: Bench) -> list[tuple[str, bytes]]:
    """What lies in the output, by names without identity and job."""
    identity = bench.ledger.runs.get("run-1").identity
    found = [(info.uri.removeprefix(OUTPUT), bench.store.get(info.uri)) for info in bench.store.list(OUTPUT)]
    job = JOB.format(0)[:-12] + r"\d{12}"
    return [(re.sub(job, "JOB", name.replace(identity, "RUN")), body) for name, body in sorted(found)]


def attempt(bench: Bench, script: Behaviour, objects: int = 3, **options: Any) -> Outcome:
    return bench.attempt(script, objects=objects, output_per="input", **options)


def failure(bench: Bench) -> str:
    assert published(bench) == []
    return ": ".join(bench.failure)


THREE = {0: ("in/0.csv", 5), 1: ("in/0-1.csv", 7), 2: ("in/0.csv", 2)}
PUBLISHED = [
    ("0-1/k=1/part-RUN_000000-00001-JOB.c000.parquet", b"rows"),
    ("0-2/_empty-RUN_000000", b""),
    ("0/k=1/part-RUN_000000-00000-JOB.c000.parquet", b"rows"),
    ("0/k=1/part-RUN_000000-00002-JOB.c000.parquet", b"rows"),
]


def test_files_are_published_in_the_folder_of_their_input(bench: Bench) -> None:
    assert attempt(bench, spark_writes(bench, THREE)).error is None

    assert published(bench) == PUBLISHED
    assert list(bench.store.list("s3://bucket/staged/")) == []


def test_results_and_manifest_tell_what_became_of_each_input(bench: Bench) -> None:
    attempt(bench, spark_writes(bench, THREE))
    run, at = bench.ledger.runs.get("run-1"), bench.claims.at

    write_manifests(at, run, run.state)

    def of(name: str, rows: int, files: int) -> dict[str, Any]:
        counts = {"rows": rows, "bytes": 4 * files, "files": files}
        return {"shard": 0, "input": f"s3://in/{name}.csv", "output": f"s3://out/x/{name}", **counts}

    told = [of("0", 7, 2), of("0-1", 7, 1), of("0-2", 0, 0)]
    assert [json.loads(line) for line in results(at, run)] == told
    assert [json.loads(line) for line in bench.store.get(f"s3://bucket/runs/run-1/{RESULTS}").splitlines()] == told
    manifest = json.loads(bench.store.get("s3://bucket/runs/run-1/manifest.json"))
    assert manifest["Results"]["Answers"] == 3


MIXED = [
    ({0: ("in/0.csv", 5), 1: ("", 7)}, (), "in one task; line 3 has groupBy()"),
    ({0: ("in/0.csv", 5)}, ("report.html",), "nobody can tell of which input report.html is"),
    ({}, ("part-00000-9d1c.parquet",), "nobody can tell of which input part-00000-9d1c.parquet is"),
]
MIXING = b"import x\nx(','.join(os.path.join(x)))\nx.rows.groupBy('k')\n"


@pytest.mark.parametrize(("tasks", "more", "why"), MIXED)
def test_what_nobody_can_tell_apart_is_refused_if_asked(
    bench: Bench, tasks: dict[int, tuple[str, int]], more: tuple[str, ...], why: str
) -> None:
    attempt(bench, spark_writes(bench, tasks, *more), source=MIXING, strict=True)

    told = failure(bench)
    assert told.startswith("MixedInputsError: ") and why in told and len(bench.runner.calls) == 1


@pytest.mark.parametrize("objects", [3, 95])  # at once, and in steps, since a transaction is limited
@pytest.mark.parametrize(("tasks", "more", "why"), MIXED[:2])
def test_what_nobody_can_tell_apart_is_done_one_by_one(
    bench: Bench, tasks: dict[int, tuple[str, int]], more: tuple[str, ...], why: str, objects: int
) -> None:
    at = bench.claims.at

    attempt(bench, spark_writes(bench, tasks, *more), objects, source=MIXING)
    waits = bench.record
    assert (waits.state, waits.split, waits.error_class) == (ShardState.PENDING, APART, "MixedInputsError")
    assert why in waits.error_message and f"its {objects} inputs are done one by one" in waits.error_message
    for _ in range(3):
        check(at, "run-1")
    while messages := bench.queue.receive(1):
        assert bench.deliver(messages[0]).error is None

    assert check(at, "run-1").run.state is RunState.SUCCEEDED
    assert len(bench.runner.calls) == 1 + objects  # what is left after a step is not tried
    assert {name.partition("/")[0] for name, _ in published(bench)} == {
        f"0-{place}" if place else "0" for place in range(objects)
    }


def test_what_has_committed_at_once_is_not_done_again(bench: Bench) -> None:
    attempt(bench, reports({"rows": 1, "direct": True}, spark_writes(bench, MIXED[0][0])), source=MIXING)

    assert "MixedInputsError" in failure(bench)


def test_all_that_a_shard_of_one_input_writes_is_of_that(bench: Bench) -> None:
    assert attempt(bench, spark_writes(bench, {0: ("", 7)}, "report.html"), objects=1).error is None

    assert published(bench) == [
        ("0/k=1/part-RUN_000000-00000-JOB.c000.parquet", b"rows"),
        ("0/part-RUN_000000-report.html", b"more"),
    ]


def one_by_one(copy_all: Callable[[Any], None], fault: Fault) -> Callable[[Any], None]:
    """Copies after each of which the worker may be killed."""

    def copy(pairs: Any) -> None:
        for pair in pairs:
            copy_all([pair])
            if fault.step():
                raise KilledError("copy")

    return copy


@pytest.mark.parametrize("after_effect", [False, True])
def test_a_worker_killed_anywhere_leaves_each_output_whole(
    settings: WorkerSettings, tmp_path: Path, after_effect: bool
) -> None:
    """Whoever comes next runs the script again, or knows from the winner which file is of which input."""
    for at_call in count(1):
        bench = make_bench(replace(settings, scratch=tmp_path / str(at_call)))
        bench.plan(objects=3, output_per="input")
        bench.runner.behaviour = spark_writes(bench, THREE)
        [message], fault, shards = bench.queue.receive(1), Fault(at_call, after_effect), bench.claims
        whole, shards.at = shards.at, fault.deployment(shards.at)
        bench.store.copy_all = one_by_one(bench.store.copy_all, fault)  # type: ignore[method-assign,assignment]
        with suppress(KilledError):
            bench.deliver(message)
        if fault.calls < at_call:
            break
        shards.at = whole
        while not bench.record.state.ended:
            bench.clock.advance(LEASE_S + LEASE_GRACE_S + 600)
            bench.deliver(message)
        assert published(bench) == PUBLISHED, (at_call, after_effect)
    assert at_call > 12


def test_an_incremental_run_replaces_what_its_name_wrote(bench: Bench) -> None:
    for number, name in enumerate(("daily", "other", "daily")):
        bench.clock.advance(60)
        script = spark_writes(bench, {0: ("in/0.csv", 5), 1: ("in/0-1.csv", 7)})
        assert attempt(bench, script, 2, run_id=f"run-{number}", incremental=True, name=name).error is None

    owners = {info.uri.rpartition("/")[2].split("_")[0] for info in bench.store.list(OUTPUT)}
    assert owners == {"part-run-1", "part-run-2"}
