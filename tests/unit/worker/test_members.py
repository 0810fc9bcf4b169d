"""The files of an archive are inputs of their own, named ``ARCHIVE#FILE``: a bad file fails alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparklet.app.documents import object_document, object_state, object_status
from sparklet.errors import ObjectStoreError
from sparklet.job.outcome import OUTCOME_FILE
from sparklet.model import InputObject, RunState, Shard, ShardRecord, ShardState
from sparklet.planning.output_claims import finished_objects
from sparklet.planning.plan_files import planned_shard
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import check
from sparklet.runs.redrive import redrive
from sparklet.runs.summary import results
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from tests.archives import tarred, zipped
from tests.unit.worker.conftest import Bench
from tests.unit.worker.test_by_input import published, spark_writes
from tests.unit.worker.test_unpacking import broken_zip

A, MANY = "s3://in/a.zip", {f"{n}.csv": b"good" for n in range(12)}
ONE_BAD = zipped({**MANY, "7.csv": b"bad"})


class Reader:
    """A script that fails if a file has the word "bad", and names the file if ``names``; else it writes one file."""

    def __init__(self, bench: Bench, *, names: bool = True) -> None:
        self.bench, self.names = bench, names
        self.read: list[list[bytes]] = []
        bench.runner.behaviour = self

    def __call__(self, call: ScriptCall, output: Output) -> ScriptResult:
        event = self.bench.runner.event()
        bodies = {uri: self._body(uri) for uri in event["inputs"]}
        self.read.append([*bodies.values()])
        if bad := [uri for uri, body in bodies.items() if b"bad" in body]:
            return ScriptResult(1, "", "BadRecord", f"malformed: {bad[0]}", files=(*bad[: int(self.names)],))
        self.bench.store.put(f"{event['output_path']}/part-0", b"".join(bodies.values()))
        Path(call.env[OUTCOME_FILE]).write_text(json.dumps({"rows": len(bodies)}))
        return ScriptResult(0)

    def _body(self, uri: str) -> bytes:
        return Path(uri[7:]).read_bytes() if uri.startswith("file://") else self.bench.store.get(uri)


def run_of(bench: Bench, *items: InputObject, isolate: bool = True, **options: Any) -> Deployment:
    """Do a run of one shard with these inputs to its end. Return its deployment."""
    bench.plan(inputs=[items], isolate=isolate, **options)
    return run_to_end(bench)[0]


def run_to_end(bench: Bench) -> tuple[Deployment, RunState]:
    deployment = bench.claims.deployment
    for _ in range(30):
        if (state := check(deployment, "run-1").run.state).ended:
            return deployment, state
        while messages := bench.queue.receive(1):
            bench.deliver(messages[0])
        bench.clock.advance(600)
    raise AssertionError("the run does not end")


def shards(deployment: Deployment) -> dict[str, ShardRecord]:
    """The shards that were not split, by the names of their inputs."""
    records = [record for record in deployment.ledger.shards.list("run-1") if record.state is not ShardState.SPLIT]
    return {" ".join(item.uri for item in planned_shard(deployment, record).objects): record for record in records}


def failed(deployment: Deployment) -> dict[str, str]:
    return {name: each.error_message for name, each in shards(deployment).items() if each.state is ShardState.FAILED}


def test_a_plans_line_keeps_the_file_of_an_archive() -> None:
    """A shard is the same after it was written to a line of the plan and read from it."""
    shard = Shard(
        7, (InputObject(f"{A}#x.csv", 3, "e", "v", partition=("1",), member="x.csv"), InputObject("s3://b", 1))
    )

    assert Shard.from_line(shard.to_line()) == shard
    assert [item.object_uri for item in shard.objects] == [A, "s3://b"]


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_bad_file_of_an_archive_fails_alone_and_is_named(bench: Bench, names: bool, pack: Any) -> None:
    Reader(bench, names=names)
    packed = pack({**MANY, "7.csv": b"bad"})
    at = run_of(bench, bench.put(A, packed), bench.put("s3://in/b.csv", b"good"))

    assert failed(at) == {f"{A}#7.csv": f"malformed: {A}#7.csv (exit code 1)"}
    done = [name for name, each in shards(at).items() if each.state is ShardState.SUCCEEDED]
    read = sorted(f"{A}#{name}" for name in MANY if name != "7.csv")
    assert sorted(" ".join(done).split()) == [*read, "s3://in/b.csv"]
    assert sum(each.rows or 0 for each in shards(at).values()) == 12
    states = {name: object_state(object_status(at, "run-1", f"{A}#{name}")) for name in MANY}
    assert states == {name: "FAILED" if name == "7.csv" else "SUCCEEDED" for name in MANY}
    assert object_status(at, "run-1", f"{A}#x.csv").shards == ()
    told = object_document(object_status(at, "run-1", A))
    assert told["state"] == "FAILED"
    assert sorted(name for each in told["shards"] for name in each["members"]) == sorted(MANY)


def test_if_every_file_fails_the_script_is_at_fault(bench: Bench) -> None:
    Reader(bench, names=False)
    at = run_of(bench, bench.put(A, zipped(dict.fromkeys(MANY, b"bad"))))

    assert failed(at).keys() == {A}
    assert failed(at)[A].startswith("the script is at fault, not an input: ")
    assert len(bench.runner.calls) == 3 + 3


def test_a_failed_store_of_an_archives_file_list_is_repeated(bench: Bench) -> None:
    Reader(bench)
    put_well, refused = bench.store.put, list[str]()

    def put_badly(uri: str, *given: Any, **more: Any) -> str:
        if uri.endswith(".members") and not refused:
            refused.append(uri)
            raise ObjectStoreError("slow down")
        return put_well(uri, *given, **more)

    bench.store.put = put_badly  # type: ignore[method-assign]

    at = run_of(bench, bench.put(A, ONE_BAD), max_attempts=1)

    assert refused and failed(at).keys() == {f"{A}#7.csv"}


def test_a_file_of_a_succeeded_archive_has_the_archives_state(bench: Bench) -> None:
    Reader(bench)
    at = run_of(bench, bench.put(A, zipped(MANY)))

    assert shards(at).keys() == {A}
    [found] = object_status(at, "run-1", f"{A}#3.csv").shards
    assert found.record and found.record.state is ShardState.SUCCEEDED
    assert object_status(at, "run-1", "s3://in/b.zip#3.csv").shards == ()


@pytest.mark.parametrize("isolate", [True, False])
def test_a_file_that_cannot_be_unpacked_is_named(bench: Bench, isolate: bool) -> None:
    Reader(bench)
    at = run_of(bench, bench.put(A, broken_zip()), isolate=isolate)

    [(name, told)] = failed(at).items()
    assert name == (f"{A}#a.csv" if isolate else A)
    assert told.startswith(f"{A}#a.csv: it cannot be unpacked: ")


def test_a_file_of_a_replaced_archive_is_not_read(bench: Bench) -> None:
    """GIVEN an archive that is replaced after its shard was split, THEN no file of the new archive is mixed in."""
    reader = Reader(bench)
    bench.attempt(inputs=[[bench.put(A, ONE_BAD)]], isolate=True, max_attempts=1)
    bench.store.put(A, zipped(dict.fromkeys(MANY, b"new")))

    at, _ = run_to_end(bench)

    assert len(reader.read) == 1
    assert all("was replaced after it was planned" in told for told in failed(at).values())


def test_a_redrive_of_a_repaired_file_completes_its_archive(bench: Bench) -> None:
    reader = Reader(bench)
    item, other = bench.put(A, ONE_BAD), bench.put("s3://in/b.zip", zipped(MANY))
    at = run_of(bench, item, other)
    name = bench.ledger.runs.get("run-1").name

    def are_done() -> list[bool]:
        return [finished_objects(at, name).has(each.uri, "", each.etag) for each in (item, other)]

    assert are_done() == [False, True]
    reader.read.clear()
    bench.store.put(A, zipped({**MANY, "7.csv": b"right"}))
    redrive(at, "run-1")

    assert run_to_end(bench)[1] is RunState.SUCCEEDED
    assert reader.read == [[b"right"]]
    assert are_done() == [True, True]


def test_each_file_has_its_result_in_its_archives_output(bench: Bench) -> None:
    """The place of the output does not depend on whether the archive was split."""
    item = bench.put(A, zipped({"1.csv": b"x", "2.csv": b"y", "3.csv": b"z"}))
    script = spark_writes(bench, {0: ("in/a.zip#1.csv", 5), 1: ("in/a.zip#2.csv", 7)})

    assert bench.attempt(script, inputs=[[item]], output_per="input").error is None

    assert set(published(bench)) == {"a/1.parquet", "a/2.parquet"}
    told = [json.loads(line) for line in results(bench.claims.deployment, bench.ledger.runs.get("run-1"))]
    assert [(each["input"], each["outputs"], each["rows"]) for each in told] == [
        (f"{A}#1.csv", ["s3://out/x/a/1.parquet"], 5),
        (f"{A}#2.csv", ["s3://out/x/a/2.parquet"], 7),
        (f"{A}#3.csv", [], 0),
    ]


def test_an_archives_file_may_not_have_an_objects_output_name(bench: Bench) -> None:
    items = [bench.put(A, zipped({"1.csv": b"x", "2.csv": b"x"})), bench.put("s3://in/a/2.csv", b"y")]
    script = spark_writes(bench, {0: ("in/a.zip#2.csv", 5), 1: ("in/a/2.csv", 7)})

    bench.attempt(script, inputs=[items], output_per="input")

    error_class, message = bench.failure
    assert error_class == "PlanError" and "would both be a/2.parquet" in message


def test_a_job_that_mixes_an_archives_files_is_done_one_by_one(bench: Bench) -> None:
    bench.plan(inputs=[[bench.put(A, zipped({"1.csv": b"x", "2.csv": b"y"}))]], output_per="input")
    bench.runner.behaviour = spark_writes(bench, {0: ("", 5)})

    at, state = run_to_end(bench)

    assert state is RunState.SUCCEEDED
    assert shards(at).keys() == {f"{A}#1.csv", f"{A}#2.csv"}
    assert len(bench.runner.calls) == 3
