"""The state machine in sam/statemachines, and its role."""

import json
import re

import botocore.session
import pytest

from sparklet.ledger.rules import LEASE_GRACE_S, LEASE_S, lease_s
from sparklet.model import MAX_INLINE
from sparklet.planning.plan_files import INDEX
from sparklet.settings import MAX_MAP_CONCURRENCY
from tests.unit.template.asl import every_state, findings, placeholders
from tests.unit.template.reading import MAIN, SAM, as_list, of_type, properties, statements

OURS = json.loads((SAM / "statemachines" / "run.asl.json").read_text())
STATES = OURS["States"]
RESOURCE = properties(MAIN, "RunMachine")
CHILDREN = {  # by Map: the states of its children, the state that does the shard, and the maximum concurrency
    name: (STATES[name]["ItemProcessor"]["States"], step, workers)
    for name, step, workers in (("Inline", "InlineShard", MAX_INLINE), ("Distributed", "Shard", MAX_MAP_CONCURRENCY))
}


def test_the_machine_has_no_faults() -> None:
    assert findings(OURS) == []


def test_the_template_substitutes_exactly_the_placeholders() -> None:
    assert RESOURCE["DefinitionUri"] == "statemachines/run.asl.json"
    assert set(RESOURCE["DefinitionSubstitutions"]) == placeholders(OURS)


# --- states of the machine ---


def test_every_failing_state_is_recorded_under_its_own_name() -> None:
    caught = {
        key: catcher["Next"]
        for key, state in STATES.items()
        for catcher in state.get("Catch", [])
        if "States.ALL" in catcher["ErrorEquals"] and key != "Record"
    }

    assert caught
    for key, handler in caught.items():
        assert STATES[handler]["Parameters"]["where"] == key
        assert STATES[handler]["Next"] == "Record"
    assert STATES["Record"]["Next"] == "Broken"


def test_no_state_holds_the_input_and_an_error() -> None:
    """Each can be near the limit of 256 KB for a state; States.ALL does not catch an exceeded limit."""
    [catcher] = STATES["Plan"]["Catch"]

    assert catcher["ResultPath"] == "$" == STATES["PlanFailed"]["Parameters"]["failure.$"]
    assert "Execution.Input" not in json.dumps(STATES)


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
    """Lambda raises these errors while it recreates a snapshot or network interface after a long idle time."""
    invoke = botocore.session.get_session().get_service_model("lambda").operation_model("Invoke")
    declared = {f"Lambda.{error.name}" for error in invoke.error_shapes}
    not_ready = {name for name in declared if re.search("SnapStart|NotReady|Pending|ResourceConflict", name)}
    assert {"Lambda.SnapStartNotReadyException", "Lambda.SnapStartTimeoutException"} < not_ready

    states, step, _ = CHILDREN[state]
    (waits,) = (each for each in states[step]["Retry"] if not_ready <= set(each["ErrorEquals"]))
    delays = [min(waits["MaxDelaySeconds"], waits["IntervalSeconds"] * 2**n) for n in range(waits["MaxAttempts"])]
    assert set(waits["ErrorEquals"]) - {"Lambda.AWSLambdaException", "Lambda.SdkClientException"} <= declared
    if state == "Distributed":  # retries of an inline child would fill the run's own history; a message follows instead
        # Jitter halves the delays on average; an init takes up to 100 s before its snapshot.
        assert sum(delays) / 2 > 240


def test_every_task_state_outlasts_its_functions_timeout() -> None:
    functions = {"PlannerArn": "PlannerFunction", "StepArn": "StepFunction"}
    for _, state in every_state(OURS):
        function = state.get("Parameters", {}).get("FunctionName", "")[2:-1] if state["Type"] == "Task" else ""
        if function in functions:
            assert state["TimeoutSeconds"] > properties(MAIN, functions[function])["Timeout"]
        elif function:
            assert state["TimeoutSeconds"] > max(MAIN["Parameters"]["FunctionTimeoutS"]["AllowedValues"])


# --- its role ---


def test_the_machine_may_call_only_the_functions_it_names() -> None:
    given = RESOURCE["DefinitionSubstitutions"]
    (allowed,) = (s["Resource"] for s in statements(MAIN, "RunMachineRole") if s["Action"] == "lambda:InvokeFunction")

    assert allowed == [value for key, value in given.items() if key.endswith("Arn")]


def test_a_map_may_read_indexes_and_write_results_of_runs_only() -> None:
    data = [s for s in statements(MAIN, "RunMachineRole") if str(as_list(s["Action"])[0]).startswith("s3:")]

    assert [s["Resource"]["Fn::Sub"][0] for s in data] == [f"${{Arn}}/runs/*/{INDEX}", "${Arn}/runs/*/map/*"]
    written = STATES["Dispatch"]["ResultSelector"]["results.$"]
    assert written == "States.Format('runs/{}/map', $.Payload.run_id)"


def test_the_machine_has_logs_and_alarms() -> None:
    logging = RESOURCE["Logging"]
    (destination,) = logging["Destinations"]

    assert logging["IncludeExecutionData"] is False
    assert destination["CloudWatchLogsLogGroup"]["LogGroupArn"] == {"Fn::GetAtt": ["RunMachineLogs", "Arn"]}
    watched = {
        alarm["MetricName"]
        for alarm in of_type(MAIN, "AWS::CloudWatch::Alarm").values()
        if alarm.get("Dimensions") == [{"Name": "StateMachineArn", "Value": {"Ref": "RunMachine"}}]
    }
    assert watched == {"ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"}
