"""A shard whose inputs must be fetched, on its way through a worker."""

import gzip
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.inputs.selection import Found
from sparklet.inputs.slicing import slice_objects
from sparklet.model import (
    MIB,
    Access,
    InputObject,
    PartRecord,
    Position,
    Run,
    RunOptions,
    ScriptRef,
    Shard,
    ShardRecord,
    ShardState,
)
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.spark.spark_options import MISNAMED_RULE, SEEN
from tests.stand_ins.memory import MemoryObjectStore
from tests.unit.worker.conftest import BUCKET, SCRIPT, Bench


def plan(
    bench: Bench,
    shards: Sequence[Sequence[InputObject]],
    access: Access = Access(),  # noqa: B008
    **options: Any,
) -> None:
    """Enter a sealed run with these shards and send its messages."""
    digest = hashlib.sha256(SCRIPT).hexdigest()
    script = f"s3://{BUCKET}/runs/run-1/script/{digest}/job.py"
    bench.store.put(script, SCRIPT)
    ref = ScriptRef(script, digest, "s3://mine/job.py")
    chosen = RunOptions(**options)
    run = Run("run-1", ("s3://in/",), "s3://out/x", (ref,), options=chosen, access=access)
    bench.ledger.runs.create(replace(run, created_s=bench.clock.now_s()))
    lines = [Shard(n, tuple(items)).to_line() for n, items in enumerate(shards)]
    bench.store.put(f"s3://{BUCKET}/runs/run-1/plan/part", b"".join(lines))
    records, offset = [], 0
    for line in lines:
        shard = Shard.from_line(line)
        size = (len(shard.objects), shard.size_bytes)
        place = "run-1", shard.number, "part", offset, len(line)
        records.append(ShardRecord(*place, *size, isolate=int(chosen.isolate)))
        offset += len(line)
    count = (len(shards), sum(r.object_count for r in records), sum(r.size_bytes for r in records))
    bench.ledger.runs.add_part("run-1", PartRecord(0, "part", 0, *count, Position()))
    bench.ledger.shards.add(records)
    bench.ledger.runs.seal_plan("run-1", *count)
    bench.queue.send(r.ref.to_body() for r in records)


class Script:
    """Reads every local input, as a script that knows nothing of Sparklet would."""

    def __init__(self, bench: Bench) -> None:
        self.read: list[dict[str, bytes]] = []
        self.events: list[Any] = []
        self._bench = bench
        bench.runner.behaviour = self

    def __call__(self, call: ScriptCall, output: Output) -> ScriptResult:
        event = self._bench.runner.event()
        self.events.append(event)
        self.read.append({uri: Path(uri[7:]).read_bytes() for uri in event["inputs"] if uri.startswith("file://")})
        return ScriptResult(0)


def slices(store: MemoryObjectStore, uri: str, body: bytes, target: int) -> list[InputObject]:
    found = Found(InputObject(uri, len(body), store.put(uri, body)), Position(0, uri))
    return [each.item for each in slice_objects(store, [found], RunOptions(split="auto", target_bytes=target))]


def failed(bench: Bench) -> tuple[str, str]:
    record = bench.ledger.shards.get("run-1", 0)
    assert record.state is ShardState.FAILED
    return record.error_class, record.error_message


def test_the_script_gets_local_files_and_where_they_came_from(bench: Bench) -> None:
    script = Script(bench)
    plain = InputObject("s3://in/plain.csv", 3, bench.store.put("s3://in/plain.csv", b"abc"))
    hidden = InputObject("s3://in/_hidden.csv", 2, bench.store.put("s3://in/_hidden.csv", b"xy"))
    plan(bench, [[hidden, plain], [hidden], [plain]])

    for _ in range(3):
        assert bench.deliver().acknowledged

    both, alone, none = script.events
    assert both["inputs"][1] == "s3://in/plain.csv"
    assert both["origins"] == ["s3://in/_hidden.csv", "s3://in/plain.csv"]
    assert both["input_path"] is None
    assert alone["inputs"] == [alone["input_path"]]
    assert alone["input_path"].endswith("/copies/hidden-00000.csv")
    assert "origins" not in none
    assert [list(read.values()) for read in script.read] == [[b"xy"], [b"xy"], []]
    assert not any(Path(uri[7:]).exists() for uri in script.read[0])


def test_a_shard_with_a_misnamed_input_is_done_again_looking(bench: Bench) -> None:
    """Spark has met one, and the script may have taken no notice; all inputs are looked at, once."""
    script, bodies = Script(bench), {"a.csv": b"x\n", "b.csv": gzip.compress(b"y\n"), "c.json.gz": gzip.compress(b"{}")}
    items = [InputObject(f"s3://in/{name}", 9, bench.store.put(f"s3://in/{name}", bodies[name])) for name in bodies]

    def meets(call: ScriptCall, output: Output) -> ScriptResult:
        (call.work_dir.parent / SEEN / MISNAMED_RULE).touch()
        return script(call, output)

    bench.runner.behaviour = meets
    plan(bench, [items])

    assert bench.deliver().acknowledged

    assert bench.ledger.shards.get("run-1", 0).state is ShardState.SUCCEEDED
    first, second = script.events
    assert first["inputs"] == [item.uri for item in items]
    assert second["origins"] == first["inputs"]
    assert list(script.read[1].values()) == [b"y\n"]


@pytest.mark.parametrize(("too_large", "fails"), [("refuse", True), ("fail", False)])
def test_limits_count_what_archives_hold(bench: Bench, too_large: str, fails: bool) -> None:
    script, body = Script(bench), gzip.compress(bytes(3 * MIB))
    plan(bench, [[InputObject("s3://in/a.GZ", len(body), bench.store.put("s3://in/a.GZ", body))]])
    run = bench.ledger.runs.get("run-1")
    options = replace(run.options, too_large=too_large, max_shard_bytes=2 * MIB)
    bench.worker.shards._runs["run-1"] = replace(run, options=options)  # type: ignore[union-attr]

    bench.deliver()

    assert len(script.events) == (not fails)
    assert not fails or failed(bench)[0] == "TooLargeError"
    assert not fails or "have 3 MiB unpacked, and a function takes 2 MiB" in failed(bench)[1]


def replaced(bench: Bench) -> InputObject:
    item = slices(bench.store, "s3://in/big.csv", b"a\n" * 40, 20)[1]
    bench.store.put("s3://in/big.csv", b"b\n" * 40)
    return item


def forbidden(bench: Bench) -> InputObject:
    item = InputObject("s3://in/_secret.csv", 1, bench.store.put("s3://in/_secret.csv", b"x"))
    bench.store.archive(item.uri)
    return item


def over_lines(bench: Bench) -> InputObject:
    return slices(bench.store, "s3://in/big.csv", b'a,b\n1,"two\nlines"\n' + b"3,4\n" * 20, 30)[0]


@pytest.mark.parametrize(
    ("input_of", "error_class", "told"),
    [
        (replaced, "ObjectChangedError", "s3://in/big.csv"),
        (lambda _: InputObject("s3://in/_gone.csv", 5, "e"), "ObjectNotFoundError", "s3://in/_gone.csv"),
        (forbidden, "ObjectForbiddenError", "s3://in/_secret.csv"),
        (over_lines, "PlanError", "plan without --split csv"),
    ],
    ids=["replaced", "vanished", "forbidden", "over several lines"],
)
def test_what_cannot_be_fetched_ends_the_shard_with_its_cause(
    bench: Bench, input_of: Callable[[Bench], InputObject], error_class: str, told: str
) -> None:
    plan(bench, [[input_of(bench)]])

    assert bench.deliver().acknowledged

    cause, message = failed(bench)
    assert cause == error_class and told in message
    assert bench.runner.calls == []


def test_a_failed_scripts_cause_names_the_object(bench: Bench) -> None:
    plan(bench, [[InputObject("s3://in/_hidden.csv", 2, bench.store.put("s3://in/_hidden.csv", b"xy"))]])

    def fail(call: ScriptCall, output: Output) -> ScriptResult:
        (uri,) = bench.runner.event()["inputs"]
        return ScriptResult(1, cause_class="AnalysisException", cause=f"cannot parse {uri} at 'xy'")

    bench.runner.behaviour = fail
    bench.deliver()
    assert "cannot parse s3://in/_hidden.csv at 'xy'" in failed(bench)[1]


# --- access ---

FOREIGN = Access(role_arn="arn:aws:iam::1:role/reader")


def test_inputs_of_another_access_are_fetched_with_it(bench: Bench) -> None:
    script, theirs, asked = Script(bench), MemoryObjectStore(), list[Access]()
    assert bench.worker.shards is not None

    def open_inputs(access: Access) -> MemoryObjectStore:
        asked.append(access)
        return theirs

    bench.worker.shards.at = replace(bench.worker.shards.at, open_inputs=open_inputs)
    plan(bench, [[InputObject("s3://in/a.csv", 3, theirs.put("s3://in/a.csv", b"abc"))]], FOREIGN)

    assert bench.deliver().acknowledged

    assert asked == [FOREIGN]
    assert [list(read.values()) for read in script.read] == [[b"abc"]]


def test_a_worker_without_the_other_access_reports_it(bench: Bench) -> None:
    plan(bench, [[InputObject("s3://in/a.csv", 3, "e")]], FOREIGN)
    bench.deliver()
    assert failed(bench)[0] == "SettingsError"
