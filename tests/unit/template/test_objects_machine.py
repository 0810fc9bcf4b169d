"""What sam/statemachines/objects.asl.json promises: readers that do the same, and what its role may read."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from sparklet.errors import BatchNotDoneError, EventError
from sparklet.fanout.machines.objects import READERS, prepare
from sparklet.fanout.machines.steps import STEPS
from sparklet.local.local_template import parse_template
from sparklet.model import BatchRef
from tests.unit.fanout.world import World
from tests.unit.template.asl import every_state, placeholders
from tests.unit.template.reading import as_list, of_type, statements

SAM = Path(__file__).resolve().parents[3] / "sam"
MACHINE: dict[str, Any] = json.loads((SAM / "statemachines" / "objects.asl.json").read_text())
STATES = MACHINE["States"]
OWN = ("Comment", "Label", "ItemReader", "ItemsPath")


def chosen(how: str) -> dict[str, Any]:
    """The state that a request of a reader comes to."""
    (choice,) = (each for each in STATES["Reader"]["Choices"] if each["StringEquals"] == how)
    state: dict[str, Any] = STATES[choice["Next"]]
    return state


def prepared(reader: str, **changes: Any) -> dict[str, Any]:
    world = World()
    source = {"items": ["s3://data/a"] * 41} if reader == "items" else {"source": "s3://data/in/x"}
    request = {"script": "s3://data/jobs/daily.py", "reader": reader, "output": "s3://out/", **source, **changes}
    return prepare(world.at, request, "e", ("s3://data/",), 7)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return parse_template((SAM / "template.yaml").read_text())


def test_every_reader_of_a_request_has_a_state_and_each_does_the_same_with_what_it_reads() -> None:
    bodies = []
    for reader in READERS:
        state = copy.deepcopy(chosen(reader))
        label = state["Label"]
        bodies.append(json.dumps({k: v for k, v in state.items() if k not in OWN}).replace(f"Of{label}", ""))

    assert len(STATES["Reader"]["Choices"]) == len(READERS) + 1  # and inline
    assert len(set(bodies)) == 1


@pytest.mark.parametrize(
    ("reader", "input_type"),
    [("csv", "CSV"), ("json", "JSON"), ("jsonl", "JSONL"), ("s3-inventory", "MANIFEST"), ("s3-list", None)],
)
def test_a_reader_reads_what_it_is_called(reader: str, input_type: str | None) -> None:
    given = chosen(reader)["ItemReader"]

    assert given.get("ReaderConfig", {}).get("InputType") == input_type
    assert given["Resource"].endswith("s3:getObject" if input_type else "s3:listObjectsV2")
    assert set(given["Parameters"].values()) == {"$.bucket", "$.key"}


@pytest.mark.parametrize("reader", [*READERS, "inline"])
def test_every_path_of_a_state_leads_somewhere_in_what_the_step_answers(reader: str) -> None:
    answer = prepared(reader) if reader != "inline" else prepared("items", items=["s3://data/a"])
    assert answer["how"] == reader

    state = {k: v for k, v in chosen(reader).items() if k not in ("ItemProcessor", "ResultPath", "Catch")}
    paths = {text for text in _texts(state) if text.startswith("$.")}

    assert paths
    assert {path.removeprefix("$.") for path in paths} <= answer.keys()
    collected = {t.removeprefix("$.") for t in _texts(STATES["Collect"]["Parameters"]) if t.startswith("$.")}
    assert collected <= answer.keys()


def test_a_child_hands_the_worker_a_batch_with_and_without_the_batcher() -> None:
    (work,) = (state for name, state in every_state(MACHINE) if name == "WorkOfCsvRows")
    assert work["Parameters"]["Payload"] == {"sparklet": {"batch.$": "$"}}
    selector, batcher = chosen("csv")["ItemSelector"], chosen("csv")["ItemBatcher"]
    assert (selector.keys(), batcher["BatchInput"].keys()) == ({"job.$", "item.$"}, {"job.$"})
    job, rows = "s3://b/runs/r/objects.json", [{"uri": "s3://x/1"}, {"uri": "s3://x/2"}]
    alone = [{"job": job, "item": row} for row in rows]

    batched = BatchRef.from_document({"sparklet": {"batch": {"BatchInput": {"job": job}, "Items": alone}}})
    single = BatchRef.from_document({"sparklet": {"batch": alone[0]}})

    assert batched == BatchRef(job, tuple(rows), 2)
    assert single == BatchRef(job, (rows[0],), 1)


def test_what_no_attempt_can_help_is_not_tried_again_and_throttling_for_long() -> None:
    works = [state for name, state in every_state(MACHINE) if name.startswith("Work") and state["Type"] == "Task"]
    assert len(works) == len(READERS) + 1

    for work in works:
        throttled, _, final, again = work["Retry"]
        assert throttled["ErrorEquals"] == ["Lambda.TooManyRequestsException"] and throttled["MaxAttempts"] >= 20
        assert throttled["JitterStrategy"] == again["JitterStrategy"] == "FULL"
        assert EventError.__name__ in final["ErrorEquals"] and final["MaxAttempts"] == 0
        assert BatchNotDoneError.__name__ not in final["ErrorEquals"]
        assert again["MaxAttempts"] == 2


def test_steps_are_those_that_there_are_and_placeholders_those_that_are_put_in(template: dict[str, Any]) -> None:
    payloads = [state.get("Parameters", {}).get("Payload", {}) for _, state in every_state(MACHINE)]

    assert {payload["step"] for payload in payloads if "step" in payload} == {"objects", "collect", "record"}
    assert {"objects", "collect", "record"} <= STEPS.keys()
    machine = of_type(template, "AWS::Serverless::StateMachine")["ObjectsMachine"]
    assert set(machine["DefinitionSubstitutions"]) == placeholders(MACHINE)


def test_the_machine_reads_inputs_and_what_is_unfinished_and_writes_its_maps_results(template: dict[str, Any]) -> None:
    data = [s for s in statements(template, "ObjectsMachineRole") if str(as_list(s["Action"])[0]).startswith("s3:")]
    own = {s["Sid"]: [each["Fn::Sub"][0] for each in as_list(s["Resource"]) if "Fn::Sub" in each] for s in data}

    assert own["ReadLists"] == ["${Arn}/input/*", "${Arn}/output/*", "${Arn}/runs/*/unfinished.jsonl"]
    assert own["WriteResults"] == ["${Arn}/runs/*/map/*"]
    assert {"ReadScriptsAndLists", "ListFolders"} <= own.keys()  # ReadObjectArns, ListBucketArns
    assert not {"s3:PutObject"} & {a for s in data if s["Sid"] != "WriteResults" for a in as_list(s["Action"])}
    assert prepared("csv")["result_prefix"].startswith("runs/") and prepared("csv")["result_prefix"].endswith("/map")


def _texts(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for value in node.values() for text in _texts(value)]
    if isinstance(node, list):
        return [text for value in node for text in _texts(value)]
    return [node] if isinstance(node, str) else []
