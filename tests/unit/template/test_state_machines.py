"""What the state machines of sam/statemachines promise."""

import json
import re

import botocore.session
import pytest

from sparklet.ledger.rules import LEASE_GRACE_S, LEASE_S, lease_s
from sparklet.model import MAX_INLINE
from sparklet.settings import MAX_MAP_CONCURRENCY
from tests.unit.template.asl import every_state, findings, placeholders
from tests.unit.template.reading import MAIN, SAM, as_list, of_type, properties, statements

OURS = {name: json.loads((SAM / "statemachines" / f"{name}.asl.json").read_text()) for name in ("loop", "map")}
RESOURCES = {"loop": "LoopMachine", "map": "MapMachine"}
CHILDREN = {  # by state of the map: its children's machine, the state of that which works, how many work at once
    name: (OURS["map"]["States"][name]["ItemProcessor"]["States"], step, workers)
    for name, step, workers in (("Inline", "InlineShard", MAX_INLINE), ("Distributed", "Shard", MAX_MAP_CONCURRENCY))
}


@pytest.mark.parametrize("name", OURS)
def test_every_machine_is_without_findings(name: str) -> None:
    assert findings(OURS[name]) == []


@pytest.mark.parametrize("name", OURS)
def test_the_template_substitutes_exactly_the_placeholders(name: str) -> None:
    machine = properties(MAIN, RESOURCES[name])

    assert machine["DefinitionUri"] == f"statemachines/{name}.asl.json"
    assert set(machine["DefinitionSubstitutions"]) == placeholders(OURS[name])


# --- what the machines do, as far as the files show it ---


@pytest.mark.parametrize("name", OURS)
def test_every_failing_state_is_recorded_under_its_own_name(name: str) -> None:
    states = OURS[name]["States"]
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
    states = OURS[name]["States"]
    [catcher] = states["Plan"]["Catch"]

    assert catcher["ResultPath"] == "$" == states["PlanFailed"]["Parameters"]["failure.$"]
    assert "Execution.Input" not in json.dumps(states)


@pytest.mark.parametrize(("state", "failed"), [("Distributed", "Fail"), ("Inline", "Pass")])
def test_only_a_failed_shard_fails_a_child_of_the_map(state: str, failed: str) -> None:
    states, step, _ = CHILDREN[state]
    first, last = states[step]["Catch"]

    assert (first["ErrorEquals"], states[first["Next"]]["Type"]) == (["ShardFailedError"], failed)
    assert (last["ErrorEquals"], states[last["Next"]]["Type"]) == (["States.ALL"], "Pass")
    assert not any("ShardFailedError" in retrier["ErrorEquals"] for retrier in states[step]["Retry"])


@pytest.mark.parametrize("state", CHILDREN)
def test_a_lost_worker_is_replaced_once_its_lease_is_over(state: str) -> None:
    states, step, workers = CHILDREN[state]
    (lost,) = (retrier for retrier in states[step]["Retry"] if "Runtime.ExitError" in retrier["ErrorEquals"])

    assert lost["IntervalSeconds"] > LEASE_S + LEASE_GRACE_S
    assert lost["IntervalSeconds"] * lost["MaxAttempts"] > lease_s(workers) + LEASE_GRACE_S
    assert (lost["BackoffRate"], lost["JitterStrategy"]) == (1, "NONE")
    assert {"LeaseLostError", "Lambda.Unknown", "Sandbox.Timedout"} <= set(lost["ErrorEquals"])


@pytest.mark.parametrize("state", CHILDREN)
def test_a_worker_that_is_not_ready_yet_is_called_again(state: str) -> None:
    """A snapshot that was not used for long is made anew, a network interface too; Lambda says so by these errors."""
    invoke = botocore.session.get_session().get_service_model("lambda").operation_model("Invoke")
    declared = {f"Lambda.{error.name}" for error in invoke.error_shapes}
    not_ready = {name for name in declared if re.search("SnapStart|NotReady|Pending|ResourceConflict", name)}
    assert {"Lambda.SnapStartNotReadyException", "Lambda.SnapStartTimeoutException"} < not_ready

    states, step, _ = CHILDREN[state]
    (waits,) = (each for each in states[step]["Retry"] if not_ready <= set(each["ErrorEquals"]))
    delays = [min(waits["MaxDelaySeconds"], waits["IntervalSeconds"] * 2**n) for n in range(waits["MaxAttempts"])]
    assert set(waits["ErrorEquals"]) - {"Lambda.AWSLambdaException", "Lambda.SdkClientException"} <= declared
    if state == "Distributed":  # an inline child's tries are events of the run's own history; its next batch waits
        assert sum(delays) / 2 > 240  # by jitter half of them; an init takes up to 100 s before its snapshot


def test_no_state_waits_less_than_its_functions_timeout() -> None:
    functions = {"PlannerArn": "PlannerFunction", "StepArn": "StepFunction"}
    for _, state in every_state(OURS["map"]):
        function = state.get("Parameters", {}).get("FunctionName", "")[2:-1] if state["Type"] == "Task" else ""
        if function in functions:
            assert state["TimeoutSeconds"] > properties(MAIN, functions[function])["Timeout"]
        elif function:
            assert state["TimeoutSeconds"] > max(MAIN["Parameters"]["FunctionTimeoutS"]["AllowedValues"])


# --- roles of machines ---


@pytest.mark.parametrize("machine", RESOURCES.values())
def test_a_machine_may_call_only_the_functions_it_names(machine: str) -> None:
    given = properties(MAIN, machine)["DefinitionSubstitutions"]
    (allowed,) = (s["Resource"] for s in statements(MAIN, f"{machine}Role") if s["Action"] == "lambda:InvokeFunction")

    assert allowed == [value for key, value in given.items() if key.endswith("Arn")]


def test_a_map_may_read_batches_and_write_results_of_runs_only() -> None:
    data = [s for s in statements(MAIN, "MapMachineRole") if str(as_list(s["Action"])[0]).startswith("s3:")]

    assert [s["Resource"]["Fn::Sub"][0] for s in data] == ["${Arn}/runs/*/batches/*", "${Arn}/runs/*/map/*"]
    written = OURS["map"]["States"]["Batch"]["ResultSelector"]["results.$"]
    assert written == "States.Format('runs/{}/map', $.Payload.run_id)"


@pytest.mark.parametrize("machine", RESOURCES.values())
def test_a_machine_logs_and_is_watched(machine: str) -> None:
    logging = properties(MAIN, machine)["Logging"]
    (destination,) = logging["Destinations"]

    assert logging["IncludeExecutionData"] is False
    assert destination["CloudWatchLogsLogGroup"]["LogGroupArn"] == {"Fn::GetAtt": [f"{machine}Logs", "Arn"]}
    watched = {
        alarm["MetricName"]
        for alarm in of_type(MAIN, "AWS::CloudWatch::Alarm").values()
        if alarm.get("Dimensions") == [{"Name": "StateMachineArn", "Value": {"Ref": machine}}]
    }
    assert watched == {"ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"}
