"""What the state machines of sam/statemachines promise."""

import json
import re
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from sparklet.ledger.rules import LEASE_GRACE_S, LEASE_S, lease_s
from sparklet.local.local_template import parse_template
from sparklet.model import MAX_INLINE
from sparklet.planning.request import places
from sparklet.runs.state_machine_steps import STEPS
from sparklet.settings import MAX_MAP_CONCURRENCY
from tests.unit.template.asl import every_state, findings, placeholders
from tests.unit.template.reading import as_list, of_type, statements

SAM = Path(__file__).resolve().parents[3] / "sam"
OURS = ("loop", "map")


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((SAM / "statemachines" / f"{name}.asl.json").read_text())
    return document


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    """The template as it is written, with its machines' files named."""
    return parse_template((SAM / "template.yaml").read_text())


@pytest.mark.parametrize("name", OURS)
def test_every_machine_is_without_findings(name: str) -> None:
    assert findings(read(name)) == []


@pytest.mark.parametrize("name", OURS)
def test_the_template_substitutes_exactly_the_placeholders(written: dict[str, Any], name: str) -> None:
    (machine,) = (
        body
        for body in of_type(written, "AWS::Serverless::StateMachine").values()
        if body["DefinitionUri"] == f"statemachines/{name}.asl.json"
    )

    assert set(machine["DefinitionSubstitutions"]) == placeholders(read(name))


# --- what the machines do, as far as the files show it ---


@pytest.mark.parametrize("name", OURS)
def test_steps_and_requests_are_those_that_there_are(name: str) -> None:
    steps = [
        state["Parameters"]["Payload"]["step"]
        for _, state in every_state(read(name))
        if "step" in state.get("Parameters", {}).get("Payload", {})
    ]
    added = [
        state["ResultPath"].removeprefix("$.") for key, state in every_state(read(name)) if key in ("Dispatch", "Name")
    ]

    assert set(steps) <= STEPS.keys()
    assert len(added) == 2 and set(added) <= places().keys()


@pytest.mark.parametrize("name", OURS)
def test_every_failing_state_is_recorded_under_its_own_name(name: str) -> None:
    states = read(name)["States"]
    caught = {
        key: catcher["Next"]
        for key, state in states.items()
        for catcher in state.get("Catch", [])
        if "States.ALL" in catcher["ErrorEquals"] and key != "Record"
    }

    assert caught
    for key, handler in caught.items():
        assert states[handler]["Parameters"]["where"] == key
        assert states[handler]["Next"] == "Record"
    assert states["Record"]["Next"] == "Broken"


@pytest.mark.parametrize("name", OURS)
def test_no_state_holds_the_input_and_an_error(name: str) -> None:
    """Each may be near the 256 KB that a state may hold; States.ALL does not catch what exceeds them."""
    states = read(name)["States"]
    [catcher] = states["Plan"]["Catch"]

    assert catcher["ResultPath"] == "$" == states["PlanFailed"]["Parameters"]["failure.$"]
    assert "Execution.Input" not in json.dumps(states)


def test_only_a_failed_shard_fails_a_child_of_the_map() -> None:
    for state, failed in (("Distributed", "Fail"), ("Inline", "Pass")):
        child = read("map")["States"][state]["ItemProcessor"]
        (work,) = (each for each in child["States"].values() if each["Type"] == "Task")
        first, last = work["Catch"]
        assert (first["ErrorEquals"], child["States"][first["Next"]]["Type"]) == (["ShardFailedError"], failed)
        assert (last["ErrorEquals"], child["States"][last["Next"]]["Type"]) == (["States.ALL"], "Pass")
        assert "ShardFailedError" not in [error for retrier in work["Retry"] for error in retrier["ErrorEquals"]]


def test_a_lost_worker_is_replaced_once_its_lease_is_over() -> None:
    for name, step, workers in (("Inline", "InlineShard", MAX_INLINE), ("Distributed", "Shard", MAX_MAP_CONCURRENCY)):
        child = read("map")["States"][name]["ItemProcessor"]["States"][step]
        (lost,) = (retrier for retrier in child["Retry"] if "Runtime.ExitError" in retrier["ErrorEquals"])
        assert lost["IntervalSeconds"] > LEASE_S + LEASE_GRACE_S
        assert lost["IntervalSeconds"] * lost["MaxAttempts"] > lease_s(workers) + LEASE_GRACE_S
        assert (lost["BackoffRate"], lost["JitterStrategy"]) == (1, "NONE")
        assert {"LeaseLostError", "Lambda.Unknown", "Sandbox.Timedout"} <= set(lost["ErrorEquals"])


def test_a_worker_that_is_not_ready_yet_is_called_again() -> None:
    """A snapshot that was not used for long is made anew, a network interface too; Lambda says so by these errors."""
    invoke = botocore.session.get_session().get_service_model("lambda").operation_model("Invoke")
    declared = {f"Lambda.{error.name}" for error in invoke.error_shapes}
    not_ready = {name for name in declared if re.search("SnapStart|NotReady|Pending|ResourceConflict", name)}
    assert {"Lambda.SnapStartNotReadyException", "Lambda.SnapStartTimeoutException"} < not_ready

    for name, step in (("Inline", "InlineShard"), ("Distributed", "Shard")):
        retried = read("map")["States"][name]["ItemProcessor"]["States"][step]["Retry"]
        (waits,) = (each for each in retried if not_ready <= set(each["ErrorEquals"]))
        delays = [min(waits["MaxDelaySeconds"], waits["IntervalSeconds"] * 2**n) for n in range(waits["MaxAttempts"])]
        assert set(waits["ErrorEquals"]) - {"Lambda.AWSLambdaException", "Lambda.SdkClientException"} <= declared
        if name == "Distributed":  # an inline child's tries are events of the run's own history; its next batch waits
            assert sum(delays) / 2 > 240  # by jitter half of them; an init takes up to 100 s before its snapshot


def test_no_state_waits_less_than_its_functions_timeout(written: dict[str, Any]) -> None:
    functions = {"PlannerArn": "PlannerFunction", "StepArn": "StepFunction"}
    for _, state in every_state(read("map")):
        function = state.get("Parameters", {}).get("FunctionName", "")[2:-1] if state["Type"] == "Task" else ""
        if function in functions:
            assert state["TimeoutSeconds"] > written["Resources"][functions[function]]["Properties"]["Timeout"]
        elif function:
            assert state["TimeoutSeconds"] > max(written["Parameters"]["FunctionTimeoutS"]["AllowedValues"])


# --- roles of machines ---


@pytest.mark.parametrize(("name", "machine"), [("loop", "LoopMachine"), ("map", "MapMachine")])
def test_a_machine_may_call_only_the_functions_it_names(written: dict[str, Any], name: str, machine: str) -> None:
    given = written["Resources"][machine]["Properties"]["DefinitionSubstitutions"]
    (allowed,) = (
        statement["Resource"]
        for statement in statements(written, f"{machine}Role")
        if statement["Action"] == "lambda:InvokeFunction"
    )

    assert allowed == [value for key, value in given.items() if key.endswith("Arn")]


def test_a_map_may_read_batches_and_write_results_of_runs_only(written: dict[str, Any]) -> None:
    data = [s for s in statements(written, "MapMachineRole") if str(as_list(s["Action"])[0]).startswith("s3:")]

    assert [s["Resource"]["Fn::Sub"][0] for s in data] == ["${Arn}/runs/*/batches/*", "${Arn}/runs/*/map/*"]
    assert (
        read("map")["States"]["Batch"]["ResultSelector"]["results.$"]
        == "States.Format('runs/{}/map', $.Payload.run_id)"
    )


@pytest.mark.parametrize("machine", ["LoopMachine", "MapMachine"])
def test_a_machine_logs_and_is_watched(written: dict[str, Any], machine: str) -> None:
    properties = written["Resources"][machine]["Properties"]

    assert properties["Logging"]["IncludeExecutionData"] is False
    (destination,) = properties["Logging"]["Destinations"]
    assert destination["CloudWatchLogsLogGroup"]["LogGroupArn"] == {"Fn::GetAtt": [f"{machine}Logs", "Arn"]}
    watched = {
        alarm["MetricName"]
        for alarm in of_type(written, "AWS::CloudWatch::Alarm").values()
        if alarm.get("Dimensions") == [{"Name": "StateMachineArn", "Value": {"Ref": machine}}]
    }
    assert watched == {"ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"}
