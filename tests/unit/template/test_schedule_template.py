"""What sam/schedule.yaml promises: its starts are requests that the planner accepts, contradictions are refused."""

import json
from typing import Any

import pytest

from sparklet.model import Dispatch
from sparklet.planning.plan_requests import run_request
from tests.unit.template.reading import TEMPLATES, properties, refused, resolved

TEMPLATE = TEMPLATES["schedule.yaml"]
SCHEDULED = "<aws.scheduler.scheduled-time>"
BASE = {"Script": "s3://jobs/scripts/daily.py", "Output": "s3://lake/clean/{run_id}/"}
CLOCK = {**BASE, "ScheduleExpression": "cron(0 2 * * ? *)", "Inputs": "s3://lake/raw/,s3://lake/more/"}
OBJECT = {**BASE, "SourceBucket": "lake", "SourcePrefix": "incoming/", "SourceSuffix": ".csv"}
TARGETS = [properties(TEMPLATE, "Schedule")["Target"], *properties(TEMPLATE, "ObjectRule")["Targets"]]


def scheduled(time: str = "2026-11-20T02:00:00Z", **parameters: Any) -> Any:
    text = resolved(TARGETS[0]["Input"], TEMPLATE, {**CLOCK, **parameters})
    return json.loads(text.replace(SCHEDULED, time))


# --- starts are requests ---


def test_a_schedule_makes_a_request_that_the_planner_accepts() -> None:
    further = '"tolerate": "2%", "params": {"n": 1}, "dispatch": "map"'
    request = run_request(scheduled(JobName="daily", FurtherKeys=further), "x")

    assert request.inputs == ("s3://lake/raw/", "s3://lake/more/")
    assert (request.name, request.params, request.dispatch) == ("daily", {"n": 1}, Dispatch.MAP)
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


def test_the_machine_is_started_and_no_role_starts_another() -> None:
    arns = [target["Arn"] for target in TARGETS]
    for role in ("ScheduleRole", "ObjectRole"):
        (policy,) = properties(TEMPLATE, role)["Policies"]
        arns += [s["Resource"] for s in policy["PolicyDocument"]["Statement"] if s["Action"] == "states:StartExecution"]

    assert [resolved(arn, TEMPLATE, {}) for arn in arns] == [{"Fn::ImportValue": "sparklet-RunMachineArn"}] * 4


def test_a_rule_watches_its_own_prefix_and_suffix() -> None:
    (key,) = properties(TEMPLATE, "ObjectRule")["EventPattern"]["detail"]["object"]["key"]

    assert resolved(key["wildcard"], TEMPLATE, OBJECT) == "incoming/*.csv"
    assert resolved(key["wildcard"], TEMPLATE, {**OBJECT, "SourceSuffix": ""}) == "incoming/*"


def test_a_failed_start_is_retried_and_then_kept() -> None:
    for target in TARGETS:
        assert target["DeadLetterConfig"] == {"Arn": {"Fn::GetAtt": ["DeadLetters", "Arn"]}}
        assert 0 < target["RetryPolicy"]["MaximumRetryAttempts"] <= 185


# --- contradictions ---


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        *((consistent, "") for consistent in (CLOCK, OBJECT, {**CLOCK, **OBJECT})),
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
    why = refused(TEMPLATE, parameters)

    assert any(says in each for each in why) if says else not why, why
