"""How a worker does a shard whose inputs must be fetched."""

import gzip
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.model import MIB, Access, InputObject, Position, RunOptions, ShardState
from sparklet.planning.inputs.selection import Found
from sparklet.planning.inputs.slicing import slice_objects
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from tests.stand_ins.memory import MemoryObjectStore
from tests.unit.worker.conftest import Bench, saw


class Script:
    """A script that reads every local input, and records its events and the contents."""

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


def test_the_script_gets_local_files_and_where_they_came_from(bench: Bench) -> None:
    script = Script(bench)
    plain, hidden = bench.put("s3://in/plain.csv", b"abc"), bench.put("s3://in/_hidden.csv", b"xy")
    bench.plan(inputs=[[hidden, plain], [hidden], [plain]])

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


def test_a_shard_with_a_misnamed_input_is_repeated_unpacked(bench: Bench) -> None:
    """Spark has read a misnamed input, perhaps without an error: all inputs are fetched and unpacked, once."""
    bench.runner.has_view = True
    script, bodies = Script(bench), {"a.csv": b"x\n", "b.csv": gzip.compress(b"y\n"), "c.json.gz": gzip.compress(b"{}")}
    items, copies = [bench.put(f"s3://in/{name}", body) for name, body in bodies.items()], list[bytes]()

    def meets(call: ScriptCall, output: Output) -> ScriptResult:
        saw(call, "misnamed" if len(bench.runner.calls) == 1 else "part")
        copies.extend(path.read_bytes() for path in call.work_dir.parent.glob("copies/*"))
        return script(call, output)

    assert bench.attempt(meets, inputs=[items]).acknowledged

    assert bench.record.state is ShardState.SUCCEEDED
    first, second = script.events
    assert first["inputs"] == [item.uri for item in items]
    assert second["origins"] == first["inputs"]
    assert copies == [b"y\n"]


@pytest.mark.parametrize(("too_large", "fails"), [("refuse", True), ("fail", False)])
def test_size_limits_count_the_unpacked_size(bench: Bench, too_large: str, fails: bool) -> None:
    script, item = Script(bench), bench.put("s3://in/a.GZ", gzip.compress(bytes(3 * MIB)))
    bench.attempt(inputs=[[item]], too_large=too_large, max_shard_bytes=2 * MIB)

    assert len(script.events) == (not fails)
    if fails:
        cause, message = bench.failure
        assert cause == "TooLargeError" and "have 3 MiB, and a function takes at most 2 MiB" in message


def replaced(bench: Bench) -> InputObject:
    item = slices(bench.store, "s3://in/big.csv", b"a\n" * 40, 20)[1]
    bench.store.put("s3://in/big.csv", b"b\n" * 40)
    return item


def forbidden(bench: Bench) -> InputObject:
    item = bench.put("s3://in/_secret.csv", b"x")
    bench.store.archive(item.uri)
    return item


def over_lines(bench: Bench) -> InputObject:
    return slices(bench.store, "s3://in/big.csv", b'a,b\n1,"two\nlines"\n' + b"3,4\n" * 20, 30)[0]


@pytest.mark.parametrize(
    ("input_of", "error_class", "message_pattern"),
    [
        (replaced, "ObjectChangedError", r"s3://in/big\.csv \(bytes 20 to 39\) was replaced .* start a new run"),
        (lambda _: InputObject("s3://in/_gone.csv", 5, "e"), "ObjectNotFoundError", r"s3://in/_gone\.csv"),
        (forbidden, "ObjectForbiddenError", r"s3://in/_secret\.csv"),
        (over_lines, "PlanError", "plan without --split csv"),
    ],
    ids=["replaced", "vanished", "forbidden", "over several lines"],
)
def test_an_input_that_cannot_be_fetched_fails_the_shard(
    bench: Bench, input_of: Callable[[Bench], InputObject], error_class: str, message_pattern: str
) -> None:
    assert bench.attempt(inputs=[[input_of(bench)]]).acknowledged

    cause, message = bench.failure
    assert cause == error_class and re.search(message_pattern, message)
    assert bench.runner.calls == []


@pytest.mark.parametrize("name", ["_hidden.csv", "a.GZ", "a*b.csv"])
def test_an_input_replaced_since_the_plan_is_not_fetched(bench: Bench, name: str) -> None:
    """A redrive reads the input that was repaired since the plan."""
    script, item = Script(bench), bench.put(f"s3://in/{name}", gzip.compress(b"old"))
    bench.plan(inputs=[[item]])
    bench.store.put(item.uri, gzip.compress(b"new"))

    assert bench.deliver().acknowledged
    assert bench.failure[0] == "ObjectChangedError" and not script.read

    bench.redrive()
    assert bench.deliver().acknowledged
    assert bench.record.state is ShardState.SUCCEEDED


@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize("is_opened", [True, False])
@pytest.mark.parametrize("what", ["replaced", "deleted", "written again", "untouched"])
def test_an_incremental_shard_fails_if_an_input_was_replaced(
    bench: Bench, incremental: bool, is_opened: bool, what: str
) -> None:
    """At its end the ETags of its inputs are compared, except of inputs that Spark opened: it reads these by ETag."""
    bench.runner.has_view = True
    item, other = bench.put("s3://in/a.csv", b"old"), bench.put("s3://in/b.csv", b"b")

    def reads(call: ScriptCall, output: Output) -> ScriptResult:
        if what == "deleted":
            bench.store.delete_all([item.uri], "s3://in/a")
        elif what != "untouched":
            bench.store.put(item.uri, b"new" if what == "replaced" else b"old")
        if is_opened and incremental:
            saw(call, "opened", "in/a.csv")
        return ScriptResult(0)

    assert bench.attempt(reads, inputs=[[item, other]], incremental=incremental).acknowledged

    if incremental and not is_opened and what == "replaced":
        assert bench.failure[0] == "ObjectChangedError" and item.uri in bench.failure[1]
    else:
        assert bench.record.state is ShardState.SUCCEEDED


def test_a_failed_scripts_cause_names_the_object(bench: Bench) -> None:
    def fail(call: ScriptCall, output: Output) -> ScriptResult:
        (uri,) = bench.runner.event()["inputs"]
        return ScriptResult(1, cause_class="AnalysisException", cause=f"cannot parse {uri} at 'xy'")

    bench.attempt(fail, inputs=[[bench.put("s3://in/_hidden.csv", b"xy")]])
    assert "cannot parse s3://in/_hidden.csv at 'xy'" in bench.failure[1]


# --- access ---

FOREIGN = Access(role_arn="arn:aws:iam::1:role/reader")


def test_inputs_of_another_role_are_fetched_by_the_role(bench: Bench) -> None:
    script, theirs, asked = Script(bench), MemoryObjectStore(), list[Access]()

    def open_inputs(access: Access) -> MemoryObjectStore:
        asked.append(access)
        return theirs

    bench.claims.deployment = replace(bench.claims.deployment, open_inputs=open_inputs)
    item = InputObject("s3://in/a.csv", 3, theirs.put("s3://in/a.csv", b"abc"))
    assert bench.attempt(inputs=[[item]], access=FOREIGN).acknowledged

    assert asked == [FOREIGN]
    assert [list(read.values()) for read in script.read] == [[b"abc"]]


def test_a_worker_that_cannot_assume_the_role_fails_the_shard(bench: Bench) -> None:
    bench.attempt(access=FOREIGN)
    assert bench.failure[0] == "SettingsError"
