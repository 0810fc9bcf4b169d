"""Shards with one output for each input: the names of published files, results by input, and redos."""

import json
import re
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparklet.errors import ObjectStoreError
from sparklet.events import Outcome
from sparklet.ledger.rules import LEASE_GRACE_S, LEASE_S
from sparklet.model import APART, NAMES, InputObject, Run, RunOptions, RunState, ShardState, Slice, SliceKind
from sparklet.planning.output_claims import delete_replaced
from sparklet.planning.outputs import owners
from sparklet.ports import ObjectInfo
from sparklet.runs.checker import check
from sparklet.runs.manifest import write_manifests
from sparklet.runs.summary import RESULTS, results
from sparklet.settings import WorkerSettings, worker_settings
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.spark.spark_options import ORIGINS
from sparklet.worker.origins import outputs_by_input
from tests.unit.worker.conftest import Behaviour, Bench, make_bench, reports
from tests.world import Fault, KilledError

OUTPUT = "s3://out/x/"
JOB = "5ba1f2aa-0000-4000-8000-{:012d}"


def spark_writes(
    bench: Bench, tasks: dict[int, tuple[str, int]], *more: str, below: str = "", body: bytes = b"rows"
) -> Callable[..., ScriptResult]:
    """A Spark job: each task writes a file and records its origin and rows; the files of ``more`` have no origin."""

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        folder, job = bench.runner.event()["output_path"], JOB.format(len(bench.runner.calls))
        for task in tasks:
            bench.store.put(f"{folder}/{below}part-{task:05d}-{job}.c000.snappy.parquet", body)
        for name in more:
            bench.store.put(f"{folder}/{name}", b"more")
        words = [word for task, (key, count) in tasks.items() for word in (str(task), key, str(count))]
        if words and call.files_apart:
            (call.work_dir.parent / ORIGINS / job).write_text("\0".join(words))
        return ScriptResult(0)

    return work


def published(bench: Bench) -> dict[str, bytes]:
    """The files that readers find in the output; they must agree with the lists of names beside them."""
    files = {info.uri.removeprefix(OUTPUT): bench.store.get(info.uri) for info in bench.store.list(OUTPUT)}
    shown = {name: body for name, body in files.items() if not name.startswith(NAMES)}
    listed = {
        name: size for path, body in files.items() if path not in shown for name, size in json.loads(body).items()
    }
    assert {name: len(body) for name, body in shown.items()} == listed
    return shown


def attempt(bench: Bench, script: Behaviour, objects: int = 3, **options: Any) -> Outcome:
    return bench.attempt(script, objects=objects, output_per="input", **options)


def failure(bench: Bench) -> str:
    assert published(bench) == {}
    return ": ".join(bench.failure)


THREE = {0: ("in/0.csv", 5), 1: ("in/0-1.csv", 7), 2: ("in/0.csv", 2)}
PUBLISHED = {"0-00001.parquet": b"rows", "0-00002.parquet": b"rows", "0-1.parquet": b"rows"}


def test_files_have_the_names_of_their_inputs(bench: Bench) -> None:
    assert attempt(bench, spark_writes(bench, THREE)).error is None

    assert published(bench) == PUBLISHED
    assert list(bench.store.list("s3://bucket/staged/")) == []
    assert bench.store.head(f"{OUTPUT}0-1.parquet").owner.startswith(bench.ledger.runs.get("run-1").owner_prefix(0))


def test_files_in_subfolders_keep_the_names_that_spark_gave_them(bench: Bench) -> None:
    assert attempt(bench, spark_writes(bench, {0: ("in/0.csv", 5)}, below="k=1/"), objects=1).error is None

    assert list(published(bench)) == [f"0/k=1/part-00000-{JOB.format(1)}.c000.snappy.parquet"]


def test_an_output_of_a_slice_has_its_shards_number() -> None:
    item = InputObject("s3://in/0.csv", 5, slice=Slice(SliceKind.LINES, 0, 5))
    run = Run("run-1", ("s3://in/",), OUTPUT, (), options=RunOptions(output_per="input"))
    names = [f"/part-{n:05d}-{JOB.format(1)}.c000.csv" for n in range(2)]
    files = {name: ObjectInfo(name, 1, "", 0.0) for name in names}

    assert list(outputs_by_input(run, 7, dict(list(files.items())[:1]), [item], {})[0].values()) == ["0-000007.csv"]
    assert list(outputs_by_input(run, 7, files, [item], {})[0].values()) == ["0-000007-00001.csv", "0-000007-00002.csv"]


def test_strict_refuses_two_files_for_one_input(bench: Bench) -> None:
    attempt(bench, spark_writes(bench, THREE), strict=True)

    assert "s3://in/0.csv has 2 outputs" in failure(bench)


@pytest.mark.parametrize("owner", ["", "run-1_{}_000007-b"])  # without an owner, and of another shard
def test_a_file_that_others_wrote_since_the_plan_is_not_replaced(bench: Bench, owner: str) -> None:
    script = spark_writes(bench, {0: ("in/0.csv", 5)})

    def taken(call: ScriptCall, output: Output) -> ScriptResult:
        created_ms = int(bench.ledger.runs.get("run-1").created_s * 1000)
        bench.store.put("s3://x/theirs", b"theirs")
        bench.store.copy_all(
            [(bench.store.head("s3://x/theirs"), f"{OUTPUT}0.parquet")], owner.format(f"{created_ms:x}")
        )
        return script(call, output)

    attempt(bench, taken, objects=1, max_attempts=1)

    assert bench.record.state is ShardState.FAILED
    assert "0.parquet is there already" in bench.record.error_message
    assert bench.store.get(f"{OUTPUT}0.parquet") == b"theirs"


def test_results_list_the_outputs_and_rows_of_each_input(bench: Bench) -> None:
    attempt(bench, spark_writes(bench, THREE))
    run, at = bench.ledger.runs.get("run-1"), bench.claims.deployment

    write_manifests(at, run, run.state)

    def of(name: str, rows: int, *outputs: str) -> dict[str, Any]:
        files = [f"{OUTPUT}{output}.parquet" for output in outputs]
        return {"shard": 0, "input": f"s3://in/{name}.csv", "outputs": files, "rows": rows, "bytes": 4 * len(files)}

    told = [of("0", 7, "0-00001", "0-00002"), of("0-1", 7, "0-1"), of("0-2", 0)]
    assert [json.loads(line) for line in results(at, run)] == told
    assert [json.loads(line) for line in bench.store.get(f"s3://bucket/runs/run-1/{RESULTS}").splitlines()] == told
    manifest = json.loads(bench.store.get("s3://bucket/runs/run-1/manifest.json"))
    assert manifest["Results"]["Answers"] == 3


MIXED = [
    ({0: ("in/0.csv", 5), 1: ("", 7)}, (), "in one task; line 3 has groupBy()"),
    ({0: ("in/0.csv", 5)}, ("report.html",), "the input from which report.html was made is unknown"),
    ({}, ("part-00000-9d1c.parquet",), "the input from which part-00000-9d1c.parquet was made is unknown"),
]
MIXING = b"import x\nx(','.join(os.path.join(x)))\nx.rows.groupBy('k')\n"


@pytest.mark.parametrize(("tasks", "more", "why"), MIXED)
def test_strict_refuses_files_whose_input_is_unknown(
    bench: Bench, tasks: dict[int, tuple[str, int]], more: tuple[str, ...], why: str
) -> None:
    attempt(bench, spark_writes(bench, tasks, *more), source=MIXING, strict=True)

    told = failure(bench)
    assert told.startswith("MixedInputsError: ") and why in told and len(bench.runner.calls) == 1


@pytest.mark.parametrize("objects", [3, 95])  # split at once, and in steps, since a transaction is limited
@pytest.mark.parametrize(("tasks", "more", "why"), MIXED[:2])
def test_inputs_that_a_task_mixes_are_done_one_by_one(
    bench: Bench, tasks: dict[int, tuple[str, int]], more: tuple[str, ...], why: str, objects: int
) -> None:
    deployment = bench.claims.deployment

    attempt(bench, spark_writes(bench, tasks, *more), objects, source=MIXING)
    waits = bench.record
    assert (waits.state, waits.split, waits.error_class) == (ShardState.PENDING, APART, "MixedInputsError")
    assert why in waits.error_message and f"its {objects} inputs are done one by one" in waits.error_message
    for _ in range(3):
        check(deployment, "run-1")
    while messages := bench.queue.receive(1):
        assert bench.deliver(messages[0]).error is None

    assert check(deployment, "run-1").run.state is RunState.SUCCEEDED
    assert len(bench.runner.calls) == 1 + objects  # what is left after a step is not tried
    named = {re.sub(r"(-\d{5}|-report)?\..*", "", name) for name in published(bench)}
    assert named == {f"0-{place}" if place else "0" for place in range(objects)}


def test_a_redo_that_mixes_inputs_is_not_split(bench: Bench) -> None:
    attempt(bench, spark_writes(bench, THREE), max_attempts=1)
    bench.redrive()
    bench.runner.behaviour = spark_writes(bench, MIXED[0][0])

    bench.deliver()

    assert (bench.record.error_class, bench.record.split) == ("MixedInputsError", "")
    assert published(bench) == PUBLISHED


def test_a_shard_that_committed_directly_is_not_split(bench: Bench) -> None:
    attempt(bench, reports({"rows": 1, "direct": True}, spark_writes(bench, MIXED[0][0])), source=MIXING)

    assert "MixedInputsError" in failure(bench)


def test_all_files_of_a_shard_with_one_input_belong_to_the_input(bench: Bench) -> None:
    assert attempt(bench, spark_writes(bench, {0: ("", 7)}, "report.html"), objects=1).error is None

    assert published(bench) == {"0.html": b"more", "0.parquet": b"rows"}


def one_by_one(copy_all: Callable[..., None], fault: Fault) -> Callable[..., None]:
    """``copy_all`` that copies file by file; after each file the fault may kill the worker."""

    def copy(pairs: Any, **owner: Any) -> None:
        for pair in pairs:
            copy_all([pair], **owner)
            if fault.step():
                raise KilledError("copy")

    return copy


def deliver_with_fault(bench: Bench, fault: Fault) -> tuple[Fault, Callable[[], None]]:
    """Deliver a message to a worker with a fault. Return the fault, and a function that redelivers to the end."""
    [message], shards = bench.queue.receive(1), bench.claims
    whole, shards.deployment = shards.deployment, fault.deployment(shards.deployment)
    bench.store.copy_all = one_by_one(bench.store.copy_all, fault)  # type: ignore[method-assign]
    with suppress(KilledError):
        bench.deliver(message)

    def others_go_on() -> None:
        shards.deployment = whole
        while not bench.record.state.ended:
            bench.clock.advance(LEASE_S + LEASE_GRACE_S + 600)
            bench.deliver(message)

    return fault, others_go_on


@pytest.mark.parametrize("after_effect", [False, True])
def test_a_worker_killed_anywhere_leaves_each_output_whole(
    settings: WorkerSettings, tmp_path: Path, after_effect: bool
) -> None:
    """The next attempt runs the script again, or reads from the winner's record which file belongs to which input."""
    for at_call in count(1):
        bench = make_bench(replace(settings, scratch=tmp_path / str(at_call)))
        bench.plan(objects=3, output_per="input")
        bench.runner.behaviour = spark_writes(bench, THREE)
        fault, others_go_on = deliver_with_fault(bench, Fault(at_call, after_effect))
        if fault.calls < at_call:
            break
        others_go_on()
        assert published(bench) == PUBLISHED, (at_call, after_effect)
    assert at_call > 12


def test_an_incremental_run_replaces_files_of_earlier_runs(bench: Bench) -> None:
    """The second run writes one file less; the file of an input whose name begins with the same text stays."""
    several = {0: ("in/0.csv", 5), 1: ("in/0.csv", 5), 2: ("in/0-1.csv", 7)}
    for number, tasks in enumerate((several, {0: ("in/0.csv", 5)})):
        bench.clock.advance(60)
        names = {"run_id": f"run-{number + 1}", "incremental": True, "name": "daily"}
        assert attempt(bench, spark_writes(bench, tasks), 2 - number, **names).error is None

    files = [info.uri.removeprefix(OUTPUT) for info in bench.store.list(OUTPUT)]
    assert [name for name in files if not name.startswith(NAMES)] == ["0-1.parquet", "0.parquet"]
    assert bench.store.head(f"{OUTPUT}0.parquet").owner.startswith("run-2_")


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("output_per", ["", "input"])
@pytest.mark.parametrize("tasks", [{0: ("in/0.csv", 5), 1: ("in/0-1.csv", 7)}, {}, THREE])
def test_a_redo_killed_anywhere_shows_no_row_twice(
    settings: WorkerSettings, tmp_path: Path, output_per: str, tasks: dict[int, tuple[str, int]], after_effect: bool
) -> None:
    """Until the new output is complete, each input has its old files, or none for a moment."""
    for at_call in count(1):
        bench = make_bench(replace(settings, scratch=tmp_path / str(at_call)))
        bench.attempt(spark_writes(bench, THREE, body=b"old"), objects=3, output_per=output_per)
        before = shown(bench)
        bench.redrive()
        bench.runner.behaviour = spark_writes(bench, tasks, body=b"new one")
        fault, others_go_on = deliver_with_fault(bench, Fault(at_call, after_effect))
        met, of_inputs = shown(bench), defaultdict[str, set[bytes]](set)
        for name, body in met.items():
            of_inputs[re.sub(r"(-0000\d)?\..*", "", name)].add(body)
        assert all(len(bodies) == 1 for bodies in of_inputs.values()), met
        assert met == before or output_per or len(set(met.values())) < 2
        if fault.calls < at_call:
            break
        others_go_on()
        assert [*shown(bench).values()] == [b"new one"] * len(tasks)
        names = PUBLISHED if tasks is THREE else ("0.parquet", "0-1.parquet") if tasks else ()
        assert not output_per or published(bench) == dict.fromkeys(names, b"new one")
        assert bench.record.state is ShardState.SUCCEEDED
    assert at_call > 12


def test_a_redo_keeps_files_that_a_user_has_replaced(bench: Bench) -> None:
    attempt(bench, spark_writes(bench, THREE))
    bench.store.put(f"{OUTPUT}0-00001.parquet", b"mine")
    bench.redrive()
    bench.runner.behaviour = spark_writes(bench, {1: ("in/0-1.csv", 7)})

    assert bench.deliver().error is None

    assert shown(bench) == {"0-00001.parquet": b"mine", "0-1.parquet": b"rows"}


@pytest.mark.parametrize("output_per", ["", "input"])
def test_a_late_copy_of_an_old_attempt_replaces_no_redone_output(bench: Bench, output_per: str) -> None:
    """After a redrive has published, an old attempt copies its staged files, as a frozen worker that resumes would."""
    copies_again, copy_all = list[Callable[[], None]](), bench.store.copy_all

    def copy(pairs: Any, **owner: Any) -> None:
        copies = list(pairs)
        copies_again.append(lambda: copy_all(copies, **owner))
        copy_all(copies, **owner)

    bench.store.copy_all = copy  # type: ignore[method-assign,assignment]
    bench.claims.beside = lambda discard: None  # staged files are not deleted
    bench.attempt(spark_writes(bench, THREE, body=b"old"), objects=3, output_per=output_per)
    bench.redrive()
    bench.runner.behaviour = spark_writes(bench, {0: ("in/0.csv", 5)}, body=b"new one")
    assert bench.deliver().error is None
    assert [*shown(bench).values()] == [b"new one"]

    with pytest.raises(ObjectStoreError):
        copies_again[0]()

    assert [*shown(bench).values()] == [b"new one"]


def shown(bench: Bench) -> dict[str, bytes]:
    return {
        name: bench.store.get(info.uri)
        for info in bench.store.list(OUTPUT)
        if not (name := info.uri.removeprefix(OUTPUT)).startswith(NAMES)
    }


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_attempt_that_resumes_late_harms_no_later_run(data: st.DataObject, tmp_path_factory: Any) -> None:
    """Runs replace each other and shards are redone; attempts stop before any copy, and resume at any later time.

    Their staged files may remain.
    """
    env = {"SPARKLET_BUCKET": "bucket", "SPARKLET_LEDGER_TABLE": "t"}
    bench = make_bench(worker_settings({**env, "SPARKLET_SCRATCH": str(tmp_path_factory.mktemp("bench") / "scratch")}))
    sleepers, copy_all, put_whole = list[Callable[[], object]](), bench.store.copy_all, bench.store.put

    def put(uri: str, body: bytes, *more: Any) -> str:
        if NAMES in uri and data.draw(st.integers(0, 3)) == 0:
            sleepers.append(lambda: put_whole(uri, body))
            raise KilledError("put")
        return put_whole(uri, body, *more)

    def copy(pairs: Any, **owner: Any) -> None:
        for number, pair in enumerate(iterator := iter(pairs)):
            if data.draw(st.integers(0, 3)) == 0:
                rest = [pair, *iterator]
                sleepers.append(partial(copy_all, rest, **owner))
                raise KilledError("copy")
            copy_all([pair], **owner)
            assert number < 9

    delete_all = bench.store.delete_all

    def delete(uris: Any, within: str) -> None:
        is_discard = re.fullmatch("s3://bucket/staged/run-[0-9]/[^/]+", within)
        if not (
            is_discard and data.draw(st.booleans())
        ):  # else the worker was killed after its last write to the ledger
            delete_all(uris, within)

    bench.store.copy_all, bench.store.put = copy, put  # type: ignore[method-assign,assignment]
    bench.store.delete_all = delete  # type: ignore[method-assign]
    bench.when_entered = lambda run: delete_replaced(
        bench.claims.deployment, replace(run, output_uri=OUTPUT), bench.clock.now_s()
    )
    kind = data.draw(st.sampled_from(["overwrite", "incremental"]))
    for number in range(1, data.draw(st.integers(2, 4)) + 1):
        bench.clock.advance(60)
        run_id = f"run-{number}"
        options = {"incremental": True} if kind == "incremental" else {"existing": "overwrite"}
        bench.plan(run_id=run_id, objects=3, output_per="input", max_attempts=4, name="daily", **options)
        redo_repeatedly(bench, run_id, sleepers, data)


def redo_repeatedly(bench: Bench, run_id: str, sleepers: list[Callable[[], object]], data: st.DataObject) -> None:
    """Do and redo the shard of a run; each time the output must be the output of the last script."""
    for generation in range(data.draw(st.integers(1, 3))):
        tasks = dict(list(THREE.items())[: data.draw(st.integers(1, 3))])
        body = b"rows" * (generation + 1)
        bench.runner.behaviour = spark_writes(bench, tasks, body=body)
        if generation:
            bench.redrive(run_id)
        [message] = bench.queue.receive(1)
        while not (state := bench.ledger.shards.get(run_id, 0).state).ended:
            with suppress(KilledError):
                bench.deliver(message)
            bench.clock.advance(LEASE_S + LEASE_GRACE_S + 600)
            resume_some(sleepers, data)
        check(bench.claims.deployment, run_id)
        if state is not ShardState.SUCCEEDED:
            break  # a redrive would publish the output of the winner
        names = [{"0.parquet"}, {"0.parquet", "0-1.parquet"}, set(PUBLISHED)][len(tasks) - 1]
        resume_some(sleepers, data)
        assert shown(bench) == dict.fromkeys(names, body)
        published = owners(bench.store, OUTPUT)
        assert {by["run_id"] for name in names if (by := published.of(name, len(body)))} == {run_id}
        assert {bench.store.head(OUTPUT + name).owner.partition("_")[0] for name in names} == {run_id}


def resume_some(sleepers: list[Callable[[], object]], data: st.DataObject) -> None:
    """Resume some of the sleeping attempts: they are refused, or copy files that are copied already."""
    for sleeper in [each for each in sleepers if data.draw(st.booleans())]:
        sleepers.remove(sleeper)
        with suppress(ObjectStoreError):
            sleeper()
