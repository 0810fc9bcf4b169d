"""Rules for the templates that cfn-lint does not have; they apply to every template in sam/, also to later ones."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from sparklet.local.deploy import Template
from tests.unit.template.reading import TEMPLATES, as_list, every_statement, expanded, of_type, resolved

# Services that accept no role of another account (iam:PassRole), and for which AWS documents no source in the request.
WITHOUT_SOURCE = {"lambda.amazonaws.com", "apigateway.amazonaws.com"}
INTERFACE = "AWS::CloudFormation::Interface"

# Actions that AWS cannot authorize on one resource, or only on one that has no name yet; none of them reads data.
WITHOUT_RESOURCE = {
    *("ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"),
    *("ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface"),
    *(f"ec2:Describe{what}" for what in ("DhcpOptions", "NetworkInterfaces", "SecurityGroups", "Subnets", "Vpcs")),
    "ecr:GetAuthorizationToken",
    *(f"logs:{what}LogDelivery" for what in ("Create", "Delete", "Get", "Update")),
    *("logs:ListLogDeliveries", "logs:DescribeLogGroups", "logs:DescribeResourcePolicies", "logs:PutResourcePolicy"),
    *("xray:GetSamplingRules", "xray:GetSamplingTargets", "xray:PutTelemetryRecords", "xray:PutTraceSegments"),
}


@pytest.fixture(scope="module", params=TEMPLATES)
def name(request: pytest.FixtureRequest) -> str:
    """The name of each template."""
    return str(request.param)


@pytest.fixture(scope="module")
def template(name: str) -> Template:
    """The template as it is written."""
    return TEMPLATES[name]


@pytest.fixture(scope="module")
def deployed(name: str) -> Template:
    """The template as CloudFormation gets it, after SAM's transform."""
    return expanded(name)


# --- parameters ---


def test_every_parameter_explains_itself_and_its_values(template: Template) -> None:
    for name, parameter in template["Parameters"].items():
        assert parameter.get("Description", "").strip(), name
        assert {"Default", "AllowedValues", "AllowedPattern"} & parameter.keys(), f"{name} takes anything"
        if "Default" in parameter and "AllowedValues" in parameter:
            assert parameter["Default"] in parameter["AllowedValues"], name
        if parameter.get("Default") != "" and "AllowedPattern" in parameter and "Default" in parameter:
            assert re.fullmatch(parameter["AllowedPattern"], str(parameter["Default"])), name


def test_the_console_shows_every_parameter_once_in_a_group(template: Template) -> None:
    groups = template["Metadata"][INTERFACE]["ParameterGroups"]

    shown = [name for group in groups for name in group["Parameters"]]
    assert sorted(shown) == sorted(template["Parameters"])
    assert all(group["Label"]["default"].strip() for group in groups)


def test_every_output_has_a_description(template: Template) -> None:
    assert all(output.get("Description", "").strip() for output in template.get("Outputs", {}).values())


# --- permissions ---


def test_no_statement_allows_wildcard_actions_or_resources(deployed: Template) -> None:
    for statement in every_statement(deployed["Resources"]):
        if "Principal" in statement:  # a resource's own policy, for other principals
            continue
        if statement["Effect"] == "Deny":  # for functions' own code
            assert statement["Condition"] == {"Null": {"lambda:SourceFunctionArn": "false"}}, statement
            continue
        assert not {"NotAction", "NotResource"} & statement.keys(), statement
        actions = as_list(statement["Action"])
        assert not any("*" in action for action in actions), statement
        if "*" in as_list(statement["Resource"]):
            assert set(actions) <= WITHOUT_RESOURCE, statement


def test_only_users_attach_managed_policies_and_only_to_workers(deployed: Template) -> None:
    functions = of_type(deployed, "AWS::Lambda::Function").items()
    # The functions of one worker in several sizes share a role.
    of_workers = {json.dumps(body["Role"]) for name, body in functions if name.endswith("WorkerFunction")}
    others = [json.dumps(body["Role"]) for name, body in functions if not name.endswith("WorkerFunction")]
    roles = [*of_workers, *others]

    assert len(of_workers) <= 1
    assert len(set(roles)) == len(roles), "two functions share a role"
    for name, role in of_type(deployed, "AWS::IAM::Role").items():
        attached = resolved(role.get("ManagedPolicyArns"), deployed, {})
        assert attached in (None, {"Ref": "AWS::NoValue"}), name
        assert "ManagedPolicyArns" not in role or name.endswith("WorkerRole"), name


def test_roles_trust_one_service_each_of_this_account(deployed: Template) -> None:
    for name, role in of_type(deployed, "AWS::IAM::Role").items():
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            assert set(statement["Principal"]) == {"Service"}, name
            assert len(as_list(statement["Principal"]["Service"])) == 1, name
            if statement["Principal"]["Service"] not in WITHOUT_SOURCE:
                assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}, (
                    name
                )


# --- functions, mappings, schedules ---


def _is_published(target: Any, template: Template, main: Template) -> bool:
    """Whether a reference names an alias or a version, in this template or among the exports of the main template."""
    if isinstance(target, dict) and "Ref" in target:
        type_ = template["Resources"].get(target["Ref"], {}).get("Type")
        return type_ in ("AWS::Lambda::Alias", "AWS::Lambda::Version")
    if isinstance(target, dict) and "Fn::ImportValue" in target:
        name = target["Fn::ImportValue"]["Fn::Sub"].replace("MainStack", "AWS::StackName")
        exports = [each for each in main["Outputs"].values() if each.get("Export") == {"Name": {"Fn::Sub": name}}]
        return any(_is_published(each["Value"], main, main) for each in exports)
    return False


def _is_machine(target: Any) -> bool:
    """Whether a reference names a state machine of the main template."""
    return "MachineArn" in json.dumps(target)


def _invoked(template: Template) -> Iterator[tuple[str, Any]]:
    """Resources that invoke functions by themselves, each with the function that it names."""
    for name, mapping in of_type(template, "AWS::Lambda::EventSourceMapping").items():
        yield name, mapping["FunctionName"]
    for name, rule in of_type(template, "AWS::Events::Rule").items():
        for target in rule["Targets"]:
            if _is_machine(target["Arn"]):
                continue
            named = target["Arn"].get("Ref") or target["Arn"].get("Fn::GetAtt", [""])[0]
            if template["Resources"].get(named, {}).get("Type", "AWS::Lambda::").startswith("AWS::Lambda::"):
                yield name, target["Arn"]
    for name, schedule in of_type(template, "AWS::Scheduler::Schedule").items():
        if not _is_machine(schedule["Target"]["Arn"]):
            yield name, schedule["Target"]["Arn"]


def test_nothing_invokes_a_function_that_is_not_published(deployed: Template) -> None:
    main = expanded("template.yaml")
    for name, target in _invoked(deployed):
        assert _is_published(target, deployed, main), f"{name} invokes {target}"
    for name, config in of_type(
        deployed, "AWS::Lambda::EventInvokeConfig"
    ).items():  # it has function and qualifier apart
        assert config["Qualifier"] == "live" or "WorkerAliasName" in json.dumps(config["Qualifier"]), name
    assert "$LATEST" not in json.dumps([deployed, main]), "an unpublished version is named"


def test_mappings_report_failed_records_one_by_one(deployed: Template) -> None:
    for name, mapping in of_type(deployed, "AWS::Lambda::EventSourceMapping").items():
        if "SelfManagedEventSource" not in mapping and "AmazonManagedKafkaEventSourceConfig" not in mapping:
            assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"], name


def test_visibility_is_six_times_any_timeout(deployed: Template) -> None:
    parameters = deployed["Parameters"]
    choices = parameters.get("FunctionTimeoutS", {}).get("AllowedValues", [None])
    aliases, functions = of_type(deployed, "AWS::Lambda::Alias"), of_type(deployed, "AWS::Lambda::Function")
    queues = of_type(deployed, "AWS::SQS::Queue")
    for mapping in of_type(deployed, "AWS::Lambda::EventSourceMapping").values():
        name, queue = mapping["FunctionName"].get("Ref"), mapping["EventSourceArn"].get("Fn::GetAtt", [""])[0]
        if queue not in queues or name is None:
            continue  # a stream; or a function of another stack
        function = functions[aliases[name]["FunctionName"]["Ref"] if name in aliases else name]
        for timeout_s in choices:
            chosen = {"FunctionTimeoutS": timeout_s}
            visibility_s = resolved(queues[queue]["VisibilityTimeout"], deployed, chosen)
            assert visibility_s == 6 * int(resolved(function["Timeout"], deployed, chosen)), (queue, timeout_s)


def test_a_mapping_to_another_stack_takes_over_its_visibility(template: Template) -> None:
    """It is six times the worker's timeout, by a parameter: an imported value could not change in the main stack."""
    queues = of_type(template, "AWS::SQS::Queue")
    for mapping in of_type(template, "AWS::Lambda::EventSourceMapping").values():
        target = json.dumps(mapping["FunctionName"])
        queue = mapping["EventSourceArn"].get("Fn::GetAtt", [""])[0]
        if "ImportValue" in target and "Worker" in target and queue in queues:
            expected = {"Fn::FindInMap": ["VisibilityS", {"Ref": "FunctionTimeoutS"}, "Queue"]}
            assert queues[queue]["VisibilityTimeout"] == expected, queue


# --- storage, logs and alarms ---


def test_buckets_are_closed_encrypted_and_outlive_the_stack(deployed: Template) -> None:
    for name, bucket in of_type(deployed, "AWS::S3::Bucket").items():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}, name
        assert len(bucket["PublicAccessBlockConfiguration"]) == 4, name
        assert bucket["BucketEncryption"], name
        assert deployed["Resources"][name]["DeletionPolicy"] == "RetainExceptOnCreate", name


def test_queues_are_encrypted(deployed: Template) -> None:
    for name, queue in of_type(deployed, "AWS::SQS::Queue").items():
        assert {"SqsManagedSseEnabled", "KmsMasterKeyId"} & queue.keys(), name


def test_every_read_queue_has_a_dead_letter_queue_or_is_one(deployed: Template) -> None:
    queues = of_type(deployed, "AWS::SQS::Queue")
    dead = {q["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0] for q in queues.values() if "RedrivePolicy" in q}
    of_lambda = r'"(?:DeadLetterConfig": {"Arn|OnFailure": {"Destination)": {"Fn::GetAtt": \["(\w+)"'
    dead |= set(re.findall(of_lambda, json.dumps(deployed)))

    assert set(queues) == {name for name, queue in queues.items() if "RedrivePolicy" in queue} | dead


def test_logs_are_not_kept_for_ever(deployed: Template) -> None:
    for name, group in of_type(deployed, "AWS::Logs::LogGroup").items():
        assert group.get("RetentionInDays"), name
    for name, function in of_type(deployed, "AWS::Lambda::Function").items():
        assert function["LoggingConfig"]["LogGroup"]["Ref"] in of_type(deployed, "AWS::Logs::LogGroup"), name


def test_every_alarm_notifies_and_missing_data_is_no_alarm(deployed: Template) -> None:
    for name, alarm in of_type(deployed, "AWS::CloudWatch::Alarm").items():
        assert "AlarmTopicArn" in json.dumps(alarm["AlarmActions"]), name
        assert alarm["TreatMissingData"] == ("breaching" if "Silent" in name else "notBreaching"), name
        assert alarm["AlarmDescription"].strip(), name


def test_every_asynchronous_function_has_an_error_alarm(deployed: Template) -> None:
    """Their errors are reported nowhere else: a schedule and a queue's mapping only retry."""
    watched = json.dumps([a for a in of_type(deployed, "AWS::CloudWatch::Alarm").values() if "MetricName" in a])

    for name in of_type(deployed, "AWS::Lambda::Function"):
        assert f'{{"Ref": "{name}"}}' in watched, f"no alarm watches {name}"
