"""Readers find exactly the winning attempt's files in the output, whichever attempts are killed, late or doubled."""

import json
from collections.abc import Callable, Iterable
from itertools import islice

import pytest

from sparklet.errors import GatewayLostError, ObjectForbiddenError, ObjectStoreError
from sparklet.ledger.rules import LEASE_S
from sparklet.model import NOTHING, ClaimStatus, RunKind, ShardResult, ShardState
from sparklet.model.schemas import Schema
from sparklet.ports import ObjectInfo
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.spark.spark_options import SCHEMAS, UNCOMMITTED
from tests.stand_ins.memory import MemoryObjectStore
from tests.unit.worker.conftest import Bench, exits, raises, reports
from tests.world import KilledError

PUBLISHED = "s3://out/x/"


def published(bench: Bench) -> dict[str, bytes]:
    folder = bench.ledger.runs.get("run-1").shard_output(0)
    return {info.uri.removeprefix(f"{folder}/"): bench.store.get(info.uri) for info in bench.store.list(PUBLISHED)}


def staged(bench: Bench) -> list[str]:
    return [info.uri for info in bench.store.list("s3://bucket/staged/")]


def test_an_attempts_output_is_published_and_no_longer_staged(bench: Bench) -> None:
    markers = "year=2026_$folder$", "year=2026/"  # folder markers of EMRFS and of S3A
    script = bench.writes(
        "year=2026/part-0.parquet", "_SUCCESS", "_spark_metadata/0", "_temporary/0/part-1.parquet", *markers
    )

    assert bench.attempt(script).error is None

    assert published(bench) == {"year=2026/part-0.parquet": b"rows"}
    assert [uri for uri in staged(bench) if "_temporary" not in uri and not uri.endswith(("/", "$"))] == []


def test_the_response_does_not_wait_for_the_deletion_of_staging(bench: Bench) -> None:
    later: list[Callable[[], None]] = []
    bench.claims.beside = later.append

    bench.attempt(bench.writes("part-0"))

    assert bench.record.state is ShardState.SUCCEEDED
    assert len(staged(bench)) == 1
    [delete] = later
    delete()
    assert staged(bench) == []


def test_reported_outputs_have_published_addresses(bench: Bench) -> None:
    def work(call: ScriptCall, output: Output) -> ScriptResult:
        outcome = {"rows": 3, "outputs": [bench.runner.event()["output_path"], "s3://else/table"]}
        return bench.writes("part-0", then=reports(outcome))(call, output)

    bench.attempt(work)

    folder = bench.ledger.runs.get("run-1").shard_output(0)
    assert (bench.record.rows, bench.record.outputs) == (3, (folder, "s3://else/table"))


def test_files_of_uncommitted_jobs_are_not_published(bench: Bench) -> None:
    def work(call: ScriptCall, output: Output) -> ScriptResult:
        (call.work_dir.parent / UNCOMMITTED).mkdir()
        (call.work_dir.parent / UNCOMMITTED / "5ba1").touch()
        return bench.writes("part-0-5ba1.parquet", "day=1/part-1-5ba1.parquet", "part-0-77.parquet")(call, output)

    assert bench.attempt(work).error is None

    assert published(bench) == {"part-0-77.parquet": b"rows"}
    assert staged(bench) == []


def test_a_file_instead_of_the_output_folder_fails_the_shard(bench: Bench) -> None:
    """Only a folder's files are published, so such a file would be lost without a word."""

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        for end in ("", "-other"):
            bench.store.put(bench.runner.event()["output_path"] + end, b"rows")
        return bench.writes("part-0")(call, output)

    bench.attempt(work)

    assert (bench.record.state, bench.record.error_class) == (ShardState.FAILED, "PlanError")
    assert "a file in the place of its output" in bench.record.error_message
    assert published(bench) == {} and [uri.rpartition("-")[2] for uri in staged(bench)] == ["other"]


def test_no_file_of_a_failed_attempt_is_published(bench: Bench) -> None:
    bench.attempt(bench.writes("part-0", body=b"half", then=raises(GatewayLostError("the JVM went away"))))
    assert published(bench) == {} and staged(bench) == []

    bench.runner.behaviour = bench.writes("part-0", body=b"whole")
    bench.clock.advance(600)
    assert bench.deliver().error is None
    assert published(bench) == {"part-0": b"whole"}


def test_an_attempt_that_resumes_late_changes_no_published_file(bench: Bench) -> None:
    """GIVEN a frozen attempt, WHEN another has published, THEN later files of the first are not published."""
    (ref,) = bench.plan()
    bench.queue.send([ref.to_body()])

    def frozen(call: ScriptCall, output: Output) -> ScriptResult:
        late = bench.runner.event()["output_path"]
        bench.let_the_lease_end()
        bench.runner.behaviour = bench.writes("part-0", body=b"of the second")
        assert bench.deliver().error is None
        bench.store.put(f"{late}/part-0", b"of the first")
        bench.store.put(f"{late}/part-1", b"of the first")
        return ScriptResult(0)

    bench.runner.behaviour = frozen

    assert bench.deliver().error is not None

    assert published(bench) == {"part-0": b"of the second"}


@pytest.mark.parametrize("copies", range(4))
def test_a_worker_killed_while_it_publishes_loses_nothing(
    bench: Bench, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next attempt publishes the files that the killed attempt has staged, and runs no script."""
    (ref,) = bench.plan()
    bench.runner.behaviour = bench.writes("part-0", "part-1", "part-2")

    def dies(pairs: Iterable[tuple[ObjectInfo, str]]) -> None:
        MemoryObjectStore.copy_all(bench.store, islice(pairs, copies))
        raise KilledError

    if copies < 3:
        monkeypatch.setattr(bench.store, "copy_all", dies)
    else:  # all files are published, but the ledger has no success
        monkeypatch.setattr(bench.ledger.attempts, "succeed", raises(KilledError()))
    with pytest.raises(KilledError):
        bench.deliver()
    monkeypatch.undo()
    assert str(bench.record.state) == "RUNNING"

    bench.let_the_lease_end()
    bench.queue.send([ref.to_body()])
    assert bench.deliver().error is None

    assert published(bench) == {"part-0": b"rows", "part-1": b"rows", "part-2": b"rows"}
    assert len(bench.runner.calls) == 1 and staged(bench) == []
    assert bench.record.state is ShardState.SUCCEEDED


def test_a_late_publisher_copies_no_further_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another attempt has the shard by then, and its published files may have been replaced since."""
    (ref,) = bench.plan()
    bench.runner.behaviour = bench.writes("part-0", "part-1")

    def freezes(pairs: Iterable[tuple[ObjectInfo, str]]) -> None:
        for pair in pairs:
            bench.let_the_lease_end()
            assert bench.ledger.attempts.claim(ref, "another", LEASE_S, 3).status is ClaimStatus.GRANTED
            MemoryObjectStore.copy_all(bench.store, [pair])

    monkeypatch.setattr(bench.store, "copy_all", freezes)

    assert bench.deliver().error is not None
    assert published(bench) == {"part-0": b"rows"}


def test_a_failed_publication_is_retried_without_the_script(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.plan()
    bench.runner.behaviour = bench.writes("part-0")

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "copy_all", raises(ObjectStoreError("503 Slow Down")))
        assert bench.deliver().error is not None
    bench.clock.advance(600)
    assert bench.deliver().error is None

    assert published(bench) == {"part-0": b"rows"} and len(bench.runner.calls) == 1


def test_an_unwritable_output_fails_and_a_redrive_publishes_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.plan()
    bench.runner.behaviour = bench.writes("part-0")

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "copy_all", raises(ObjectForbiddenError("s3://out/x may not be accessed")))
        bench.deliver()
    assert bench.failure[0] == "ObjectForbiddenError"

    bench.redrive()
    assert bench.deliver().error is None

    assert published(bench) == {"part-0": b"rows"} and len(bench.runner.calls) == 1


def test_a_redo_with_half_published_output_has_no_output(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the redo has won, the earlier output counts; a redrive publishes the rest of the redo's output."""
    bench.attempt(bench.writes("part-0", body=b"old"), max_attempts=1)
    bench.redrive()
    bench.runner.behaviour = exits(1)
    bench.deliver()
    assert (bench.record.state, bench.record.has_output) == (ShardState.FAILED, True)
    assert published(bench) == {"part-0": b"old"}
    bench.redrive()
    bench.runner.behaviour = bench.writes("part-1", body=b"new")

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "copy_all", raises(ObjectForbiddenError("s3://out/x may not be accessed")))
        bench.deliver()

    assert (bench.record.state, bench.record.has_output) == (ShardState.FAILED, False)
    bench.redrive()
    assert bench.deliver().error is None
    assert published(bench) == {"part-1": b"new"} and len(bench.runner.calls) == 3


@pytest.mark.parametrize("names", [["report.csv"], ["a.csv", "b.csv"]])
def test_a_redo_replaces_a_single_file_without_a_gap(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    """Several files are deleted before the copy: old and new files together might have a row twice."""
    bench.attempt(bench.writes(*names, body=b"old"))
    bench.redrive()
    bench.runner.behaviour = bench.writes(*names, body=b"new")
    copy_all, before = bench.store.copy_all, dict[str, bytes]()

    def copy(pairs: Iterable[tuple[ObjectInfo, str]]) -> None:
        before.update(published(bench))
        copy_all(pairs)

    monkeypatch.setattr(bench.store, "copy_all", copy)
    assert bench.deliver().error is None

    assert before == ({"report.csv": b"old"} if len(names) == 1 else {})
    assert published(bench) == dict.fromkeys(names, b"new")


def test_a_redo_that_writes_nothing_wins_before_it_deletes(bench: Bench) -> None:
    """A late deletion before the win could delete files that another attempt has published since."""
    bench.attempt(bench.writes("part-0"))
    bench.redrive()
    bench.runner.behaviour = bench.writes()

    assert bench.deliver().error is None

    assert published(bench) == {} and bench.record.winner == bench.record.attempt_id


def test_lost_staged_output_of_a_winner_fails_the_shard(bench: Bench) -> None:
    (ref,) = bench.plan()
    bench.queue.receive(1)
    bench.ledger.attempts.claim(ref, "lost", LEASE_S, 3)
    bench.ledger.attempts.renew("run-1", 0, "lost", LEASE_S, ShardResult(rows=1))
    bench.let_the_lease_end()
    bench.queue.send([ref.to_body()])

    bench.deliver()

    assert "is gone" in bench.failure[1]
    assert bench.runner.calls == []


def test_a_late_publisher_whose_staging_is_gone_fails_no_shard(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a winner frozen while it copies, WHEN another has published and deleted the staging, THEN it stops."""
    (ref,) = bench.plan()
    bench.runner.behaviour = bench.writes("part-0", "part-1")

    def freezes(pairs: Iterable[tuple[ObjectInfo, str]]) -> None:
        monkeypatch.undo()
        bench.let_the_lease_end()
        bench.queue.send([ref.to_body()])
        assert bench.deliver().error is None
        bench.store.copy_all(pairs)

    monkeypatch.setattr(bench.store, "copy_all", freezes)

    assert bench.deliver().error is not None

    assert published(bench) == {"part-0": b"rows", "part-1": b"rows"}
    assert bench.record.state is ShardState.SUCCEEDED


def test_a_script_that_failed_in_a_suspect_jvm_is_run_again(bench: Bench) -> None:
    suspect = exits(1, "NullPointerException", suspect=True)
    tries = iter([bench.writes("try-1", then=suspect), bench.writes("try-2")])

    assert bench.attempt(lambda call, output: next(tries)(call, output)).error is None

    record = bench.record
    assert (record.state, record.attempts, record.error_message) == (ShardState.SUCCEEDED, 1, "")
    assert published(bench) == {"try-2": b"rows"}


def test_a_suspect_jvm_without_time_to_repeat_blames_no_input(bench: Bench) -> None:
    def work(call: ScriptCall, output: Output) -> ScriptResult:
        call.deadline.guard_s = 0
        return exits(1, "NullPointerException", "x is null", files=("s3://in/0.csv",), suspect=True)(call, output)

    bench.attempt(work, max_attempts=1, isolate=True, objects=2)

    cause, message = bench.failure
    assert (cause, bench.record.split) == ("SparkRuntimeError", "") and "too little time was left" in message


@pytest.mark.parametrize(
    ("kind", "names", "is_nothing"),
    [(RunKind.SHARDS, (), True), (RunKind.SHARDS, ("x.csv",), False), (RunKind.CHECK, (), False)],
)
def test_a_shard_without_output_warns_unless_it_is_a_check(
    bench: Bench, kind: RunKind, names: tuple[str, ...], is_nothing: bool
) -> None:
    """Files that pandas or another library has written count as output, too."""
    bench.runner.has_view = True
    (ref,) = bench.plan(kind=kind)
    bench.queue.send([ref.to_body()])
    bench.runner.behaviour = bench.writes(*names)

    bench.deliver()

    record = bench.ledger.shards.get("run-1", 0)
    assert (record.state, record.warning == NOTHING) == (ShardState.SUCCEEDED, is_nothing)
    assert (b"nothing was written" in bench.lines.getvalue()) is is_nothing


def test_schemas_of_published_files_are_recorded_with_the_shard(bench: Bench) -> None:
    """A worker stores each schema once; the shard's record names the schema, with one file as an example."""
    bench.plan(shards=2)
    put, stored = bench.store.put, list[str]()
    bench.store.put = lambda uri, *body, **how: stored.append(uri) or put(uri, *body, **how)  # type: ignore[func-returns-value,method-assign,redundant-expr]
    columns = '{"type":"struct","fields":[{"name":"id","type":"long","nullable":true,"metadata":{}}]}'

    def work(call: ScriptCall, output: Output) -> ScriptResult:
        (call.work_dir.parent / SCHEMAS).mkdir()
        told = f"parquet\n{columns}\n{bench.runner.event()['output_path']}"
        (call.work_dir.parent / SCHEMAS / "5ba1").write_text(told)
        return bench.writes("day=1/part-0-5ba1.parquet")(call, output)

    bench.runner.behaviour = work
    for _ in range(2):
        assert bench.deliver().error is None

    schema = Schema("", "parquet", {"id": "bigint"}, ["day"])
    kept = {schema.name: "day=1/part-0-5ba1.parquet"}
    assert [record.schemas for record in bench.ledger.shards.list("run-1")] == [kept, kept]
    file = f"s3://bucket/runs/run-1/{schema.file}"
    assert stored.count(file) == 1 and json.loads(bench.store.get(file)) == [*schema]


@pytest.mark.parametrize("name", ["00000-6ae7b4a4-8a0b-4c5e-9d3a-1f2e3d4c5b6a", "v1"])
def test_an_iceberg_table_below_the_output_is_refused(bench: Bench, name: str) -> None:
    """Its metadata would name addresses of the attempt's staging folder."""
    outcome = bench.attempt(bench.writes("lake/t/data/part-0.parquet", f"lake/t/metadata/{name}.metadata.json"))

    assert outcome.error is not None and "--table iceberg:NAME" in str(outcome.error)
    assert bench.record.state is ShardState.FAILED and published(bench) == {}


def test_a_metadata_file_of_another_format_is_published(bench: Bench) -> None:
    assert bench.attempt(bench.writes("metadata/days.metadata.json")).error is None
    assert [*published(bench)] == ["metadata/days.metadata.json"]
