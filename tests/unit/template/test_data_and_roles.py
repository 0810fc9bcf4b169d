"""Data and roles of sam/template.yaml, evaluated as CloudFormation does."""

import json
import re
from fnmatch import fnmatchcase
from typing import Any

import pytest

from sparklet.aws.dynamodb import OPEN_INDEX
from sparklet.engines.spark_platform import LOGS
from sparklet.ledger.items import RUNS_PARTITION, part_key, run_key, shard_key, task_key, tombstone_key
from sparklet.model import RunOptions
from tests.unit.template.reading import MAIN, ROLES, as_list, of_type, properties, resolved, statements

# --- data ---


def test_bucket_and_ledger_outlive_the_stack() -> None:
    """A first deployment that fails does not leave them: each retry would leave another pair."""
    for name in ("Bucket", "Ledger"):
        resource = MAIN["Resources"][name]
        assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")


def test_the_ledgers_table_has_its_index_and_can_be_restored() -> None:
    ledger = properties(MAIN, "Ledger")

    assert [index["IndexName"] for index in ledger["GlobalSecondaryIndexes"]] == [OPEN_INDEX]
    assert ledger["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_a_custom_key_encrypts_everything_for_every_role() -> None:
    mine = {"Fn::If": ["HasKey", {"Ref": "KmsKeyArn"}, {"Ref": "AWS::NoValue"}]}
    (rule,) = properties(MAIN, "Bucket")["BucketEncryption"]["ServerSideEncryptionConfiguration"]

    assert rule["ServerSideEncryptionByDefault"] == {
        "SSEAlgorithm": {"Fn::If": ["HasKey", "aws:kms", "AES256"]},
        "KMSMasterKeyID": mine,
    }
    key = {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": {"Ref": "KmsKeyArn"}}
    # Otherwise DynamoDB's own: with `SSEEnabled` alone it would be the account's, whose requests KMS bills.
    ledger = properties(MAIN, "Ledger")
    assert ledger["SSESpecification"] == {"Fn::If": ["HasKey", key, {"Ref": "AWS::NoValue"}]}
    assert all(queue["KmsMasterKeyId"] == mine for queue in of_type(MAIN, "AWS::SQS::Queue").values())
    assert all(group["KmsKeyId"] == mine for group in of_type(MAIN, "AWS::Logs::LogGroup").values())
    policy = properties(MAIN, "KeyPolicy")
    assert policy["Roles"] == [{"Ref": role} for role in (*ROLES, "RunMachineRole")]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]


def test_roles_may_use_the_keys_of_the_users_data() -> None:
    allowed = {
        role: [s["Action"] for s in statements(MAIN, role) if s["Resource"] == {"Ref": "DataKeyArns"}] for role in ROLES
    }

    assert allowed == {
        **{role: [] for role in ROLES},
        "WorkerRole": [["kms:Decrypt", "kms:GenerateDataKey"]],
        **{role: ["kms:Decrypt"] for role in ("PlannerRole", "CheckerRole")},
    }


def test_roles_that_put_objects_may_use_the_write_key() -> None:
    for role in ROLES:
        allowed = [s["Action"] for s in statements(MAIN, role) if s["Resource"] == {"Ref": "WriteEncryption"}]
        puts = any("s3:PutObject" in as_list(s["Action"]) for s in statements(MAIN, role))

        needed = ["kms:GenerateDataKey"] if role == "DlqConsumerRole" else ["kms:GenerateDataKey", "kms:Decrypt"]
        assert allowed == (needed if puts else []), role
    assert {MAIN["Resources"][f"{kind}KeyPolicy"]["Condition"] for kind in ("Write", "Written")} == {"WritesByKey"}
    for given in ("", "AES256", key_arn := "arn:aws:kms:us-east-1:1:key/1"):
        has_key = resolved({"Condition": "WritesByKey"}, MAIN, {"WriteEncryption": given})
        assert has_key == (given == key_arn)


def test_roles_that_publish_notices_may_use_the_topics_key() -> None:
    for role in ROLES:
        allowed = [s for s in statements(MAIN, role) if s["Resource"] == {"Ref": "NoticeTopicKeyArn"}]
        publishes = any(s["Action"] == "sns:Publish" for s in statements(MAIN, role))

        assert [s["Action"] for s in allowed] == publishes * [["kms:Decrypt", "kms:GenerateDataKey"]], role


def test_staged_files_and_engine_logs_expire() -> None:
    rules = properties(MAIN, "Bucket")["LifecycleConfiguration"]["Rules"]
    days = {rule["Prefix"]: rule["ExpirationInDays"] for rule in rules if "Prefix" in rule}

    assert days.keys() == {"functions/", "staged/", f"{LOGS}/"}
    assert days[f"{LOGS}/"] == {"Ref": "LogRetentionDays"}
    # A redrive publishes what a winner staged, perhaps weeks after the run has failed.
    assert days["staged/"] * 86_400 > 9 * RunOptions().time_limit_s


def test_an_existing_bucket_replaces_the_stacks_own_everywhere() -> None:
    for name in ("Bucket", "BucketPolicy"):  # made only for the stack's own bucket
        assert MAIN["Resources"][name]["Condition"] == "HasOwnBucket"

    def unguarded(node: Any) -> bool:
        if isinstance(node, list):
            return any(unguarded(each) for each in node)
        if not isinstance(node, dict):
            return isinstance(node, str) and "${Bucket" in node
        if node.get("Fn::If", [""])[0] == "HasOwnBucket":
            return False
        named = node.get("Ref") == "Bucket" or node.get("Fn::GetAtt", [""])[0] == "Bucket"
        return named or any(unguarded(value) for value in node.values())

    sections = {**MAIN["Resources"], "Outputs": MAIN["Outputs"], "Globals": MAIN["Globals"]}
    assert [name for name, body in sections.items() if unguarded(body)] == ["BucketPolicy"]


# --- permissions ---


WIDER = {  # by statement: its pattern that is not a folder's, and the number of wildcards
    # All tables of the databases that a parameter names; its values have no wildcards.
    "UseTables": (r'":database/", {"Ref": "GlueDatabaseArns"}', 2),
    "ReadTables": (r'":database/", {"Ref": "ReadGlueDatabaseArns"}', 2),
    "SeeWhatWasAskedFor": (r":execution:\$\{RunMachine\.Name\}:\*", 1),
    # A task gets its name when it is started, so this allows the tasks of one cluster.
    "TagThem": (r"task/\$\{FargateCluster\}/\*", 1),
    "ReadGluesLogs": (r"log-group:/aws-glue/jobs\*:log-stream:\*", 2),
    "WatchAndStopThem": (r"task/\$\{FargateCluster\}/\*", 1),
}
# A wildcard may stand only at the end of a folder in our bucket, or for the run in a run's folder.
FOLDER = r'\["\$\{Arn\}/(runs/\*/)?[a-z-]+/\*", '
OF_JOBS = r"Id\}/jobruns/\*"  # the jobs of one application
OF_OWN_CODE = {"Null": {"lambda:SourceFunctionArn": "false"}}  # the key is in no call that Lambda itself makes


@pytest.mark.parametrize("role", ROLES)
def test_no_role_has_a_wildcard_in_actions_or_data(role: str) -> None:
    for statement in statements(MAIN, role):
        actions = as_list(statement["Action"])
        if statement["Effect"] == "Deny":
            assert statement["Condition"] == OF_OWN_CODE
            continue
        assert not any("*" in action for action in actions), statement
        if statement["Sid"] == "JoinTheNetwork":  # network interfaces: no data, and no names in advance
            assert all(action.startswith("ec2:") for action in actions)
            continue
        for written in map(json.dumps, as_list(statement["Resource"])):
            pattern, most = WIDER.get(statement["Sid"], (OF_JOBS, 1))
            matches = re.search(pattern, written) and written.count("*") == most
            assert matches or re.search(FOLDER, written) or "*" not in written, statement


def test_only_the_network_policy_of_the_worker_is_conditional() -> None:
    conditional = [policy["Fn::If"][1] for policy in properties(MAIN, "WorkerRole")["Policies"] if "Fn::If" in policy]

    assert [policy["PolicyName"] for policy in conditional] == ["network"]


def test_a_worker_may_write_only_outputs_answers_and_records() -> None:
    written = [
        resource
        for statement in statements(MAIN, "WorkerRole")
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
def test_workers_may_change_shards_and_tasks_but_no_runs(role: str) -> None:
    """A script has the worker's permissions: it could change another run's script."""
    of_engines = properties(MAIN, "EngineWorkerPolicy")["PolicyDocument"]["Statement"]
    every = of_engines if role == "EngineWorkerPolicy" else statements(MAIN, role)
    [update] = [s for s in every if "dynamodb:UpdateItem" in as_list(s.get("Action", ""))]
    refused = update["Condition"]["ForAllValues:StringNotLike"]["dynamodb:LeadingKeys"]

    def may(key: Any) -> bool:
        return not any(fnmatchcase(key[0], pattern) for pattern in refused)

    run = "nightly-meta"
    assert may(shard_key(run, 7)) and may(shard_key(run, 3_000_000)) and may(task_key("t1"))
    assert not any(may(key) for key in (run_key(run), part_key(run, 0), tombstone_key(run)))
    assert not may((RUNS_PARTITION, ""))
