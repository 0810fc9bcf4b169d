"""The machine without a planner: its real ASL over each reader that the stand-in has, and what is left when some fail.

The stand-in ignores ItemBatcher and ResultWriter and reads no S3 Inventory, so here an item is a batch, and results
are the map's own output; both other forms are tried in tests/unit/fanout and tests/unit/worker.
"""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.functional.orchestration.conftest import Stack

pytestmark = pytest.mark.stack

NAMES = ("a.csv", "b c+d.csv", "e.csv")  # 1, 2 and 3 lines


@dataclass
class Objects:
    """The stack, and what requests name."""

    stack: Stack
    script: str
    uris: list[str]
    sources: dict[str, str]

    def ended(self, name: str, **request: Any) -> Any:
        """How an execution has ended whose output folder has that name."""
        output = f"s3://{self.stack.bucket}/output/objects/{name}/"
        request = {"script": self.script, "output": output, "max_concurrency": 1, **request}
        return self.stack.ended(self.stack.start(self.stack.outputs["ObjectsMachineArn"], request))

    def written(self, name: str) -> list[str]:
        return self.stack.keys(f"output/objects/{name}/batch=")

    def summary(self, run_id: str) -> Any:
        return self.stack.get(f"s3://{self.stack.bucket}/runs/{run_id}/summary.json")


@pytest.fixture(scope="module")
def objects(stack: Stack) -> Objects:
    uris = [stack.put(f"input/good/{name}", b"x\n" * (n + 1)) for n, name in enumerate(NAMES)]
    stack.put("input/good/empty.csv", b"")
    stack.put("input/mixed/bad.csv", b"bad\n")
    stack.put("input/mixed/good.csv", b"1\n2\n")
    csv = "number,uri\n" + "".join(f"{n},{uri}\n" for n, uri in enumerate(uris))
    sources = {
        "csv": stack.put("input/lists/today.csv", csv.encode()),
        "json": stack.put("input/lists/today.json", uris),
        "jsonl": stack.put("input/lists/today.jsonl", "".join(f'{{"uri": "{u}"}}\n' for u in uris).encode()),
        "s3-list": f"s3://{stack.bucket}/input/good/",
        "mixed": f"s3://{stack.bucket}/input/mixed/",
    }
    return Objects(stack, stack.put("scripts/job.py", b"print('not run: the worker counts')\n"), uris, sources)


@pytest.mark.parametrize("reader", ["s3-list", "csv", "json", "jsonl"])
def test_every_reader_hands_out_all_of_its_objects(objects: Objects, reader: str) -> None:
    found = objects.ended(reader, reader=reader, source=objects.sources[reader])

    told = found["output"]
    assert (found["status"], told["state"]) == ("SUCCEEDED", "SUCCEEDED"), found
    assert (told["objects"], told["rows"], told["items"]["difference"]) == (3, 1 + 2 + 3, 0)
    assert len(objects.written(reader)) == 3
    assert objects.summary(told["run_id"])["LeftOut"] == ({"empty": 1} if reader == "s3-list" else {})


def test_few_items_of_the_request_itself_go_through_an_inline_map(objects: Objects) -> None:
    found = objects.ended("items", reader="items", items=objects.uris, batch_items=2)

    assert (found["output"]["state"], found["output"]["rows"]) == ("SUCCEEDED", 6), found
    assert found["output"]["batches"]["total"] == len(objects.written("items")) == 2


def test_more_items_go_through_a_distributed_one(objects: Objects) -> None:
    found = objects.ended("many", reader="items", items=[*objects.uris, *[objects.uris[0]] * 38], batch_items=1)

    assert (found["output"]["state"], found["output"]["batches"]["total"]) == ("SUCCEEDED", 41), found
    assert len(objects.written("many")) == 3  # the same object again writes to the same place


def test_failures_within_what_is_tolerated_are_no_failure(objects: Objects) -> None:
    found = objects.ended("tolerated", reader="s3-list", source=objects.sources["mixed"], tolerate="50%")

    assert (found["status"], found["output"]["state"]) == ("SUCCEEDED", "SUCCEEDED_WITH_FAILURES"), found
    assert found["output"]["items"]["failed"] == 1


def test_failures_beyond_it_fail_the_execution_and_are_summed_up(objects: Objects) -> None:
    found = objects.ended("untolerated", reader="s3-list", source=objects.sources["mixed"], run_id="untolerated")

    assert (found["status"], found["error"]) == ("FAILED", "RunFailed")
    summary = objects.summary("untolerated")
    assert (summary["Status"], summary["ItemCounts"]["Failed"]) == ("FAILED", 1)


def test_a_batch_that_failed_is_redone_alone_to_its_own_place(objects: Objects) -> None:
    bad = objects.stack.put("input/mixed/bad.csv", b"bad\n")
    found = objects.ended("inline", reader="items", items=[bad, objects.uris[0]], run_id="inline")
    assert found["status"] == "FAILED"
    (cause,) = objects.summary("inline")["FailureCauses"]
    assert (cause["Error"], cause["ExampleItem"]) == ("AnalysisException", f'"{bad}"')
    objects.stack.put("input/mixed/bad.csv", b"1\n2\n3\n")

    again = objects.stack.ended(objects.stack.start(objects.stack.outputs["ObjectsMachineArn"], {"redo": "inline"}))

    assert again["output"]["state"] == "SUCCEEDED", again
    assert (again["output"]["items"]["total"], again["output"]["rows"]) == (1, 3)
    assert len(objects.written("inline")) == 2


def test_a_list_that_is_not_there_fails_the_execution_with_that_cause(objects: Objects) -> None:
    found = objects.ended("no-list", reader="csv", source=f"s3://{objects.stack.bucket}/input/none.csv")

    assert found["status"] == "FAILED"
    assert "States.ItemReaderFailed" in found["cause"]


def test_a_request_that_is_refused_is_recorded_before_the_execution_fails(objects: Objects) -> None:
    found = objects.ended("no-script", reader="s3-list", source="s3://x/y/", script="s3://evil/job.py")

    assert (found["status"], found["error"]) == ("FAILED", "ScriptNotAllowedError"), found
    record = objects.stack.get(f"s3://{objects.stack.bucket}/executions/{found['name']}.json")
    assert (record["where"], record["error"]) == ("Prepare", "ScriptNotAllowedError")
    assert record["request"]["script"] == "s3://evil/job.py"
