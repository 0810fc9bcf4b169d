"""What sam/template.yaml promises of what lasts, of roles, alarms and outputs, read as CloudFormation reads it."""

import json
import re
from fnmatch import fnmatchcase
from typing import Any

import pytest

from sparklet.aws.dynamodb import OPEN_INDEX
from sparklet.engines.spark_platform import LOGS
from sparklet.ledger.items import RUNS_PARTITION, part_key, run_key, shard_key, task_key, tombstone_key
from sparklet.model import RunOptions
from tests.unit.template.reading import ROLES, as_list, of_type, statements

# --- what lasts ---


def test_bucket_and_ledger_outlive_the_stack(template: dict[str, Any]) -> None:
    """But not a first deployment that fails: each would leave another pair."""
    for name in ("Bucket", "Ledger"):
        resource = template["Resources"][name]
        assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")


def test_the_ledgers_table_has_its_index_and_can_be_restored(template: dict[str, Any]) -> None:
    ledger = template["Resources"]["Ledger"]["Properties"]

    assert [index["IndexName"] for index in ledger["GlobalSecondaryIndexes"]] == [OPEN_INDEX]
    assert ledger["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_a_custom_key_encrypts_everything_for_every_role(template: dict[str, Any]) -> None:
    mine = {"Fn::If": ["HasKey", {"Ref": "KmsKeyArn"}, {"Ref": "AWS::NoValue"}]}
    (rule,) = template["Resources"]["Bucket"]["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]

    assert rule["ServerSideEncryptionByDefault"] == {
        "SSEAlgorithm": {"Fn::If": ["HasKey", "aws:kms", "AES256"]},
        "KMSMasterKeyID": mine,
    }
    key = {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": {"Ref": "KmsKeyArn"}}
    # Otherwise DynamoDB's own: with `SSEEnabled` alone it would be the account's, whose requests KMS bills.
    ledger = template["Resources"]["Ledger"]["Properties"]
    assert ledger["SSESpecification"] == {"Fn::If": ["HasKey", key, {"Ref": "AWS::NoValue"}]}
    assert all(queue["KmsMasterKeyId"] == mine for queue in of_type(template, "AWS::SQS::Queue").values())
    assert all(group["KmsKeyId"] == mine for group in of_type(template, "AWS::Logs::LogGroup").values())
    policy = template["Resources"]["KeyPolicy"]["Properties"]
    assert policy["Roles"] == [{"Ref": role} for role in (*ROLES, "MapMachineRole")]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]


def test_data_under_other_keys_are_read_and_written(template: dict[str, Any]) -> None:
    allowed = {
        role: [s["Action"] for s in statements(template, role) if s["Resource"] == {"Ref": "DataKeyArns"}]
        for role in ROLES
    }

    assert allowed == {
        **{role: [] for role in ROLES},
        "WorkerRole": [["kms:Decrypt", "kms:GenerateDataKey"]],
        **{role: ["kms:Decrypt"] for role in ("PlannerRole", "CheckerRole")},
    }


def test_whoever_tells_an_encrypted_topic_may_use_its_key(template: dict[str, Any]) -> None:
    for role in ROLES:
        allowed = [s for s in statements(template, role) if s["Resource"] == {"Ref": "NoticeTopicKeyArn"}]
        tells = any(s["Action"] == "sns:Publish" for s in statements(template, role))

        assert [s["Action"] for s in allowed] == tells * [["kms:Decrypt", "kms:GenerateDataKey"]], role


def test_what_attempts_and_engines_leave_expires(template: dict[str, Any]) -> None:
    rules = template["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    days = {rule["Prefix"]: rule["ExpirationInDays"] for rule in rules if "Prefix" in rule}

    assert days.keys() == {"functions/", "staged/", f"{LOGS}/"}
    assert days[f"{LOGS}/"] == {"Ref": "LogRetentionDays"}
    # A redrive publishes what a winner staged, perhaps weeks after the run has failed.
    assert days["staged/"] * 86_400 > 9 * RunOptions().time_limit_s


def test_a_custom_bucket_replaces_the_stacks_everywhere(template: dict[str, Any]) -> None:
    of_stack = {"BucketPolicy"}  # made for that one only
    for name in ("Bucket", *of_stack):
        assert template["Resources"][name]["Condition"] == "HasOwnBucket"

    def unguarded(node: Any) -> bool:
        if isinstance(node, list):
            return any(unguarded(each) for each in node)
        if not isinstance(node, dict):
            return isinstance(node, str) and "${Bucket" in node
        if node.get("Fn::If", [""])[0] == "HasOwnBucket":
            return False
        named = node.get("Ref") == "Bucket" or node.get("Fn::GetAtt", [""])[0] == "Bucket"
        return named or any(unguarded(value) for value in node.values())

    sections = {**template["Resources"], "Outputs": template["Outputs"], "Globals": template["Globals"]}
    assert [name for name, body in sections.items() if unguarded(body)] == ["BucketPolicy"]


# --- who may do what ---


@pytest.mark.parametrize("role", ROLES)
def test_no_role_is_allowed_a_wildcard_of_actions_or_of_data(template: dict[str, Any], role: str) -> None:
    for statement in statements(template, role):
        assert statement["Effect"] == "Allow"
        for action in as_list(statement["Action"]):
            assert "*" not in action, statement
        for resource in as_list(statement["Resource"]):
            written = json.dumps(resource)
            if statement["Sid"] == "JoinTheNetwork":  # no data, and nothing to name before it is there
                assert all(action.startswith("ec2:") for action in statement["Action"])
                continue
            assert resource != "*", statement
            if named := {"UseTables": "GlueDatabaseArns", "ReadTables": "ReadGlueDatabaseArns"}.get(statement["Sid"]):
                # all tables of databases that are named, by a parameter without patterns
                assert f'":database/", {{"Ref": "{named}"}}' in written and written.count("*") == 2
                continue
            if statement["Sid"] == "SeeWhatWasAskedFor":  # executions of the two machines
                assert re.search(r":execution:\$\{(Loop|Map)Machine\.Name\}:\*", written)
                continue
            if statement["Sid"] in (
                "TagThem",
                "WatchAndStopThem",
            ):  # tasks have names once they are there: those of one cluster
                assert written.count("*") == 1 and "task/${FargateCluster}/*" in written
                continue
            if "/jobruns/" in written or "log-stream:" in written:  # of one application, of Glue's logs
                assert written.count("*") == 1 and (
                    "Id}/jobruns/*" in written or "log-group:/aws-glue/jobs/" in written
                )
                continue
            # A pattern may end a folder of a bucket of ours, or the same folder of each run, and nothing else.
            assert "*" not in written or re.search(r'\["\$\{Arn\}/(runs/\*/)?[a-z-]+/\*", ', written), statement


def test_what_lambda_checks_at_creation_exists_by_then(template: dict[str, Any]) -> None:
    resources = template["Resources"]
    of_role = [
        policy["Fn::If"][1] for policy in resources["WorkerRole"]["Properties"]["Policies"] if "Fn::If" in policy
    ]

    assert [policy["PolicyName"] for policy in of_role] == ["network"]


def test_a_worker_writes_nothing_but_outputs_and_answers(template: dict[str, Any]) -> None:
    written = [
        resource
        for statement in statements(template, "WorkerRole")
        if {"s3:PutObject", "s3:DeleteObject"} & set(as_list(statement["Action"]))
        for resource in as_list(statement["Resource"])
    ]

    assert [each["Fn::Sub"][0] if "Fn::Sub" in each else each for each in written] == [
        "${Arn}/runs/*/answers/*",
        "${Arn}/runs/*/events/*",
        "${Arn}/runs/*/schemas/*",
        "${Arn}/runs/*/writes/*",
        "${Arn}/output/*",
        "${Arn}/staged/*",
        {"Ref": "WriteObjectArns"},
    ]


@pytest.mark.parametrize("role", ["WorkerRole", "EngineWorkerPolicy"])
def test_workers_change_shards_and_tasks_but_no_run(template: dict[str, Any], role: str) -> None:
    """A script has the worker's rights: it could give another run a script of its own."""
    of_engines = template["Resources"]["EngineWorkerPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    every = of_engines if role == "EngineWorkerPolicy" else statements(template, role)
    [update] = [s for s in every if "dynamodb:UpdateItem" in as_list(s.get("Action", ""))]
    refused = update["Condition"]["ForAllValues:StringNotLike"]["dynamodb:LeadingKeys"]

    def may(key: Any) -> bool:
        return not any(fnmatchcase(key[0], pattern) for pattern in refused)

    run = "nightly-meta"
    assert may(shard_key(run, 7)) and may(shard_key(run, 3_000_000)) and may(task_key("t1"))
    assert not any(may(key) for key in (run_key(run), part_key(run, 0), tombstone_key(run)))
    assert not may((RUNS_PARTITION, ""))


# --- alarms and outputs ---


def test_the_outputs_are_those_that_the_command_line_reads(template: dict[str, Any]) -> None:
    from sparklet.aws.stacks import OUTPUTS

    assert set(OUTPUTS) <= set(template["Outputs"])
