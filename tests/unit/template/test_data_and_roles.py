"""What sam/template.yaml promises of what lasts and of roles, read as CloudFormation reads it."""

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

# --- what lasts ---


def test_bucket_and_ledger_outlive_the_stack() -> None:
    """But not a first deployment that fails: each would leave another pair."""
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


def test_data_under_other_keys_are_read_and_written() -> None:
    allowed = {
        role: [s["Action"] for s in statements(MAIN, role) if s["Resource"] == {"Ref": "DataKeyArns"}] for role in ROLES
    }

    assert allowed == {
        **{role: [] for role in ROLES},
        "WorkerRole": [["kms:Decrypt", "kms:GenerateDataKey"]],
        **{role: ["kms:Decrypt"] for role in ("PlannerRole", "CheckerRole")},
    }


def test_whoever_puts_objects_may_use_the_key_that_they_ask_for() -> None:
    for role in ROLES:
        allowed = [s["Action"] for s in statements(MAIN, role) if s["Resource"] == {"Ref": "WriteEncryption"}]
        puts = any("s3:PutObject" in as_list(s["Action"]) for s in statements(MAIN, role))

        needed = ["kms:GenerateDataKey"] if role == "DlqConsumerRole" else ["kms:GenerateDataKey", "kms:Decrypt"]
        assert allowed == (needed if puts else []), role
    assert {MAIN["Resources"][f"{kind}KeyPolicy"]["Condition"] for kind in ("Write", "Written")} == {"WritesByKey"}
    for given in ("", "AES256", key_arn := "arn:aws:kms:us-east-1:1:key/1"):
        has_key = resolved({"Condition": "WritesByKey"}, MAIN, {"WriteEncryption": given})
        assert has_key == (given == key_arn)


def test_whoever_tells_an_encrypted_topic_may_use_its_key() -> None:
    for role in ROLES:
        allowed = [s for s in statements(MAIN, role) if s["Resource"] == {"Ref": "NoticeTopicKeyArn"}]
        tells = any(s["Action"] == "sns:Publish" for s in statements(MAIN, role))

        assert [s["Action"] for s in allowed] == tells * [["kms:Decrypt", "kms:GenerateDataKey"]], role


def test_what_attempts_and_engines_leave_expires() -> None:
    rules = properties(MAIN, "Bucket")["LifecycleConfiguration"]["Rules"]
    days = {rule["Prefix"]: rule["ExpirationInDays"] for rule in rules if "Prefix" in rule}

    assert days.keys() == {"functions/", "staged/", f"{LOGS}/"}
    assert days[f"{LOGS}/"] == {"Ref": "LogRetentionDays"}
    # A redrive publishes what a winner staged, perhaps weeks after the run has failed.
    assert days["staged/"] * 86_400 > 9 * RunOptions().time_limit_s


def test_a_custom_bucket_replaces_the_stacks_everywhere() -> None:
    for name in ("Bucket", "BucketPolicy"):  # which is made for that one only
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


# --- who may do what ---


WIDER = {  # statements whose patterns are no folder's: what those look like, and how many of them there are
    # All tables of databases that are named, by a parameter without patterns.
    "UseTables": (r'":database/", {"Ref": "GlueDatabaseArns"}', 2),
    "ReadTables": (r'":database/", {"Ref": "ReadGlueDatabaseArns"}', 2),
    "SeeWhatWasAskedFor": (r":execution:\$\{RunMachine\.Name\}:\*", 1),
    # Tasks have names once they are there: those of one cluster.
    "TagThem": (r"task/\$\{FargateCluster\}/\*", 1),
    "ReadGluesLogs": (r"log-group:/aws-glue/jobs\*:log-stream:\*", 2),
    "WatchAndStopThem": (r"task/\$\{FargateCluster\}/\*", 1),
}
# A pattern may end a folder of a bucket of ours, or the same folder of each run, and nothing else.
FOLDER = r'\["\$\{Arn\}/(runs/\*/)?[a-z-]+/\*", '
OF_JOBS = r"Id\}/jobruns/\*"  # of one application
OF_OWN_CODE = {"Null": {"lambda:SourceFunctionArn": "false"}}  # Lambda gives it to no call that it makes by itself


@pytest.mark.parametrize("role", ROLES)
def test_no_role_is_allowed_a_wildcard_of_actions_or_of_data(role: str) -> None:
    for statement in statements(MAIN, role):
        actions = as_list(statement["Action"])
        if statement["Effect"] == "Deny":
            assert statement["Condition"] == OF_OWN_CODE
            continue
        assert not any("*" in action for action in actions), statement
        if statement["Sid"] == "JoinTheNetwork":  # no data, and nothing to name before it is there
            assert all(action.startswith("ec2:") for action in actions)
            continue
        for written in map(json.dumps, as_list(statement["Resource"])):
            pattern, most = WIDER.get(statement["Sid"], (OF_JOBS, 1))
            of_it = re.search(pattern, written) and written.count("*") == most
            assert of_it or re.search(FOLDER, written) or "*" not in written, statement


def test_what_lambda_checks_at_creation_exists_by_then() -> None:
    conditional = [policy["Fn::If"][1] for policy in properties(MAIN, "WorkerRole")["Policies"] if "Fn::If" in policy]

    assert [policy["PolicyName"] for policy in conditional] == ["network"]


def test_a_worker_writes_nothing_but_outputs_and_answers() -> None:
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
def test_workers_change_shards_and_tasks_but_no_run(role: str) -> None:
    """A script has the worker's rights: it could give another run a script of its own."""
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
