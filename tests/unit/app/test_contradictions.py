"""Contradictory settings: no parameters of the template cause one, and a manual change that does is reported."""

import re
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from sparklet.app.doctor import check_account_concurrency, contradictions
from sparklet.local.deploy import load_template
from sparklet.model.tasks import MappingSettings, QueueSettings, StackSettings
from sparklet.settings import worker_settings
from tests.unit.template.reading import resolved

TASKS = QueueSettings(visibility_s=360, retention_s=345_600, max_receive_count=20, dead_letters_arn="DeadLetterQueue")


def deployed(template: dict[str, Any], **parameters: str) -> StackSettings:
    """The settings that a deployment of the template with these parameters has."""
    resources = {name: body.get("Properties", {}) for name, body in template["Resources"].items()}

    def value(written: Any) -> Any:
        return resolved(written, template, parameters)

    def queue(name: str) -> QueueSettings:
        policy = resources[name].get("RedrivePolicy", {})
        receives = policy.get("maxReceiveCount")
        return QueueSettings(
            int(value(resources[name]["VisibilityTimeout"])),
            int(value(resources[name]["MessageRetentionPeriod"])),
            None if receives is None else int(value(receives)),
            policy["deadLetterTargetArn"]["Fn::GetAtt"][0] if policy else "",
        )

    def mapping(function: str, event: str) -> MappingSettings:
        given = resources[function]["Events"][event]["Properties"]
        return MappingSettings(
            given.get("Enabled", True),
            given["FunctionResponseTypes"] == ["ReportBatchItemFailures"],
            int(value(given["ScalingConfig"]["MaximumConcurrency"])),
        )

    worker = resources["WorkerFunction"]
    reserved = value(worker["ReservedConcurrentExecutions"])
    own = value(worker["Environment"]["Variables"]["SPARKLET_WORKER_SETTINGS"])
    return StackSettings(
        queue=queue("Queue"),
        dead_letters=queue("DeadLetterQueue"),
        dead_letters_arn="DeadLetterQueue",
        worker_timeout_s=int(value(worker["Timeout"])),
        worker_grace_s=worker_settings({"SPARKLET_WORKER_SETTINGS": str(own)}).grace_s,
        consumer_timeout_s=int(resources["DlqConsumerFunction"]["Timeout"]),
        worker_mapping=mapping("WorkerFunction", "Shards"),
        consumer_mapping=mapping("DlqConsumerFunction", "DeadLetters"),
        checker_scheduled=resources["CheckerFunction"]["Events"]["EveryMinute"]["Type"] == "Schedule",
        reserved=int(reserved) if isinstance(reserved, int | str) else None,
        unreserved=1000,
    )


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return load_template()


@pytest.fixture(scope="module")
def stack(template: dict[str, Any]) -> StackSettings:
    return deployed(template)


def test_no_combination_of_parameters_is_contradictory(template: dict[str, Any]) -> None:
    """All combinations of the smallest, the default and the largest value that the template allows are tried."""
    parameters = template["Parameters"]

    def choices(name: str) -> set[str]:
        given = parameters[name]
        if name == "ReserveConcurrency":  # a number below MaximumConcurrency can be said, and the doctor says so
            return {"no", "yes", "1000"}
        if name == "WorkerSettings":
            grace = (f'{{"SPARKLET_GRACE_S": "{seconds}"}}' for seconds in range(700))
            taken = [each for each in grace if re.fullmatch(given["AllowedPattern"], each)]
            return {given["Default"], taken[0], taken[-1]}
        bounds = {given.get("MinValue"), given.get("MaxValue"), given["Default"]} - {None}
        return {str(each) for each in given.get("AllowedValues", bounds)}

    names = ("FunctionTimeoutS", "MaxReceiveCount", "MaximumConcurrency", "ReserveConcurrency", "WorkerSettings")
    for name in ("MaxReceiveCount", "MaximumConcurrency"):
        assert {"MinValue", "MaxValue"} <= parameters[name].keys(), f"{name} has no bounds"
    tried = 0
    for values in product(*map(choices, names)):
        chosen = dict(zip(names, values, strict=True))
        assert list(contradictions(deployed(template, **chosen))) == [], chosen
        tried += 1
    assert tried > 300


BY_HAND: list[tuple[dict[str, Any], str, str]] = [
    # A manual change, the name of the contradiction, and part of the remedy.
    ({"queue": {"max_receive_count": 1}}, "maxReceiveCount of Queue, throttling", "maxReceiveCount to 20"),
    ({"queue": {"visibility_s": 600}}, "visibility of Queue, timeout of the worker", "VisibilityTimeout to 5400"),
    # Another queue of the worker's, such as the asynchronous API's:
    ({"further_queues": {"tasks": TASKS}}, "visibility of tasks, timeout of the worker", "VisibilityTimeout to 5400"),
    ({"consumer_timeout_s": 300}, "visibility of DeadLetterQueue, timeout of the dead-letter consumer", "1800"),
    # More receives than the retention has time for:
    (
        {"queue": {"max_receive_count": 100}},
        "maxReceiveCount × visibility of Queue, its retention",
        "maxReceiveCount to 63 or less",
    ),
    *(
        ({"queue": changed}, "redrive policy of Queue, DeadLetterQueue", "deadLetterTargetArn to DeadLetterQueue")
        for changed in ({"max_receive_count": None, "dead_letters_arn": ""}, {"dead_letters_arn": "mine"})
    ),
    # A message that expires before its run, and dead letters that expire as they arrive:
    ({"queue": {"retention_s": 3 * 86_400}}, "retention of Queue, time limit of a run", "345600"),
    ({"dead_letters": {"retention_s": 345_600}}, "retention of DeadLetterQueue and of Queue", "1209600"),
    *(
        ({"reserved": number}, "reserved concurrency of the worker, MaximumConcurrency of its mapping", "reserve 50")
        for number in (10, 0)
    ),
    ({"unreserved": 10}, "concurrency of the account, MaximumConcurrency of the worker's mapping", "higher limit"),
    ({"worker_mapping": {"most_at_once": None}}, "MaximumConcurrency of the worker's mapping", "ScalingConfig"),
    ({"worker_mapping": {"enabled": False}}, "mapping of the worker", "--enabled"),
    ({"consumer_mapping": None}, "mapping of the dead-letter consumer", "deploy again"),
    (
        {"worker_mapping": {"reports_failures": False}},
        "mapping of the worker, ReportBatchItemFailures",
        "--function-response-types",
    ),
    ({"checker_scheduled": False}, "schedule of the checker", "enable-rule"),
    # A script that has no time:
    (
        {"worker_grace_s": 600.0},
        "SPARKLET_GRACE_S, timeout of the worker",
        "SPARKLET_GRACE_S in WorkerSettings to 10",
    ),
]


@pytest.mark.parametrize(("changes", "between", "remedy"), BY_HAND, ids=repr)
def test_a_manual_change_is_named_with_its_remedy(
    stack: StackSettings, changes: dict[str, Any], between: str, remedy: str
) -> None:
    within = {name: getattr(stack, name) for name in ("queue", "dead_letters", "worker_mapping")}
    whole = {name: replace(within[name], **value) if name in within else value for name, value in changes.items()}

    (found,) = contradictions(replace(stack, **whole))

    assert found.check == between
    assert remedy in found.remedy
    assert found.found


@pytest.mark.parametrize(("unreserved", "most"), [(10, 5), (6, 2)])
def test_a_small_account_gets_the_parameters_to_deploy_with(unreserved: int, most: int) -> None:
    found = check_account_concurrency(unreserved)

    assert not found.good
    assert str(unreserved) in found.found
    assert f"MaximumConcurrency={most} MapConcurrency={most}" in found.remedy


@pytest.mark.parametrize("unreserved", [None, 55, 1000])
def test_an_account_with_room_gets_no_advice(unreserved: int | None) -> None:
    found = check_account_concurrency(unreserved)

    assert found.good and not found.remedy
