"""What sam/schedule.yaml promises: its starts are requests that the planner accepts, contradictions are refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sparklet.local.local_template import parse_template
from sparklet.planning.plan_requests import run_request
from tests.unit.template.reading import resolved

TEMPLATE = parse_template((Path(__file__).parents[3] / "sam" / "schedule.yaml").read_text(encoding="utf-8"))
SCHEDULED, EVENT = "<aws.scheduler.scheduled-time>", "<aws.events.event.json>"
BASE = {"Script": "s3://jobs/scripts/daily.py", "Output": "s3://lake/clean/{run_id}/"}
CLOCK = {**BASE, "ScheduleExpression": "cron(0 2 * * ? *)", "Inputs": "s3://lake/raw/,s3://lake/more/"}
OBJECT = {**BASE, "SourceBucket": "lake", "SourcePrefix": "incoming/", "SourceSuffix": ".csv"}


def given(parameters: dict[str, Any]) -> dict[str, str]:
    defaults = {name: body["Default"] for name, body in TEMPLATE["Parameters"].items() if "Default" in body}
    return {name: str(value) for name, value in {**defaults, "AWS::StackName": "daily", **parameters}.items()}


def properties(name: str) -> Any:
    return TEMPLATE["Resources"][name]["Properties"]


def scheduled(time: str = "2026-11-20T02:00:00Z", **parameters: Any) -> Any:
    text = resolved(properties("Schedule")["Target"]["Input"], TEMPLATE, given({**CLOCK, **parameters}))
    return json.loads(text.replace(SCHEDULED, time))


def created(event: Any, **parameters: Any) -> Any:
    (target,) = properties("ObjectRule")["Targets"]
    text = resolved(target["InputTransformer"]["InputTemplate"], TEMPLATE, given({**OBJECT, **parameters}))
    return json.loads(text.replace(EVENT, json.dumps(event)))


def event(key: str) -> dict[str, Any]:
    item = {"key": key, "size": 5, "etag": "b1946ac9", "sequencer": "00617F08299329D189"}
    told = {"version": "0", "bucket": {"name": "lake"}, "object": item, "reason": "PutObject"}
    return {"version": "0", "detail-type": "Object Created", "source": "aws.s3", "detail": told}


def refused(parameters: dict[str, Any]) -> list[str]:
    """Why CloudFormation would not begin with these: rules and patterns."""
    known, why = given(parameters), []
    for rule in TEMPLATE["Rules"].values():
        if resolved(rule.get("RuleCondition", True), TEMPLATE, known):
            why += [a["AssertDescription"] for a in rule["Assertions"] if not resolved(a["Assert"], TEMPLATE, known)]
    for name, text in parameters.items():
        pattern = TEMPLATE["Parameters"][name].get("AllowedPattern", ".*")
        why += [] if re.fullmatch(pattern, str(text)) else [name]
    return why


# --- starts are requests ---


def test_a_schedule_makes_a_request_that_the_planner_accepts() -> None:
    request = run_request(scheduled(JobName="daily", FurtherKeys='"tolerate": "2%", "params": {"n": 1}'), "x")

    assert request.inputs == ("s3://lake/raw/", "s3://lake/more/")
    assert (request.name, request.params) == ("daily", {"n": 1})
    assert request.options.tolerated_failure_percentage == 2


def test_a_repeated_start_is_one_run_and_the_next_day_another() -> None:
    once, again, later = (
        run_request(scheduled(time), "x").idempotency_key
        for time in ("2026-11-20T02:00:00Z", "2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z")
    )

    assert once == again != later


def test_lists_may_replace_inputs() -> None:
    request = run_request(scheduled(Inputs="", FurtherKeys='"lists": ["s3://lake/today.csv"]'), "x")

    assert [given.source for given in request.lists] == ["s3://lake/today.csv"]


def test_no_key_of_an_object_writes_into_the_request() -> None:
    key = 'incoming/a", "script": "s3://evil/job.py", "x": "\\.csv'

    request = run_request(created(event(key)), "x")

    assert request.inputs == (f"s3://lake/{key}",)
    assert request.script == BASE["Script"]


@pytest.mark.parametrize(("machine", "wanted"), [("loop", "LoopMachineArn"), ("map", "MapMachineArn")])
def test_either_machine_is_started_and_no_role_starts_another(machine: str, wanted: str) -> None:
    known = given({**CLOCK, "Machine": machine})
    arns = [properties("Schedule")["Target"]["Arn"], properties("ObjectRule")["Targets"][0]["Arn"]]
    for role in ("ScheduleRole", "ObjectRole"):
        (policy,) = properties(role)["Policies"]
        arns += [s["Resource"] for s in policy["PolicyDocument"]["Statement"] if s["Action"] == "states:StartExecution"]

    assert [resolved(arn, TEMPLATE, known) for arn in arns] == [{"Fn::ImportValue": f"sparklet-{wanted}"}] * 4


def test_a_rule_watches_its_own_prefix_and_suffix() -> None:
    (key,) = properties("ObjectRule")["EventPattern"]["detail"]["object"]["key"]

    assert resolved(key["wildcard"], TEMPLATE, given(OBJECT)) == "incoming/*.csv"
    assert resolved(key["wildcard"], TEMPLATE, given({**OBJECT, "SourceSuffix": ""})) == "incoming/*"


def test_a_failed_start_is_retried_and_then_kept() -> None:
    targets = [properties("Schedule")["Target"], properties("ObjectRule")["Targets"][0]]

    for target in targets:
        assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": ["DeadLetters", "Arn"]}}
        assert 0 < target["RetryPolicy"]["MaximumRetryAttempts"] <= 185


# --- contradictions ---


def test_consistent_parameters_are_accepted() -> None:
    assert refused(CLOCK) == refused(OBJECT) == refused({**CLOCK, **OBJECT}) == []


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (BASE, "Nothing would start"),
        ({**CLOCK, "Inputs": ""}, "reads nothing"),
        ({**OBJECT, "Inputs": "s3://lake/raw/"}, "Inputs are for"),
        ({**OBJECT, "WindowMinutes": 5}, "WindowMinutes is for"),
        ({**OBJECT, "SourcePrefix": ""}, "give a SourcePrefix"),
        ({**CLOCK, "SourcePrefix": "incoming/"}, "are for SourceBucket"),
        ({**CLOCK, "SourceSuffix": ".csv"}, "are for SourceBucket"),
        ({**CLOCK, "Output": "lake/clean/"}, "Output"),
        ({**CLOCK, "Script": 's3://lake/", "x": "/job.py'}, "Script"),
        ({**CLOCK, "Inputs": 's3://lake/"'}, "Inputs"),
        ({**CLOCK, "FurtherKeys": "tolerate: 2"}, "FurtherKeys"),
        ({**CLOCK, "ScheduleExpression": "daily"}, "ScheduleExpression"),
        ({**OBJECT, "SourcePrefix": "in*"}, "SourcePrefix"),
    ],
)
def test_contradictory_parameters_are_refused_at_deployment(parameters: dict[str, Any], says: str) -> None:
    assert any(says in why for why in refused(parameters)), refused(parameters)
