"""Engines for large shards: what the checker may start, and that the two templates fit together."""

import json
import re
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.engines.create import engines_of
from sparklet.engines.fargate import CONTAINER, FargateTasks
from sparklet.settings import NAMES, engines
from tests.unit.template.reading import (
    LARGE,
    MAIN,
    ROOT,
    TEMPLATES,
    as_list,
    functions,
    named_engines,
    of_type,
    properties,
    refused,
    resolved,
    statements,
    variables,
)

CLIENTS = AwsClients()
FARGATE = TEMPLATES["fargate.yaml"]
TASK = properties(FARGATE, "Task")
GIVEN = {
    "FargateCluster": "jobs",
    "FargateTaskDefinition": "arn:aws:ecs:eu-west-1:123456789012:task-definition/sparklet-shard:3",
    "FargateSubnetIds": "subnet-1,subnet-2",
    "FargateSecurityGroupIds": "sg-1",
    "FargatePublicIp": "DISABLED",
}


CLUSTERS = {"SparkMaster": "spark://10.0.0.7:7077", "SparkRemote": "sc://10.0.0.7:15002"}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, []),
        (GIVEN, ["fargate"]),
        ({**GIVEN, **CLUSTERS}, ["fargate", "standalone", "connect"]),
        ({"EmrServerlessApplicationId": "00f1", "EmrServerlessRoleArn": "arn:aws:iam::1:role/r"}, ["emr-serverless"]),
        ({"EmrClusterId": "j-1", "EngineSparkConf": '{"spark.executor.instances": "4"}'}, ["emr"]),
        ({"GlueJobName": "shards"}, ["glue"]),
    ],
)
def test_parameters_name_the_engines_in_their_order(given: dict[str, str], names: list[str]) -> None:
    assert list(engines_of(CLIENTS, named_engines(**given), {"SPARKLET_BUCKET": "runs"})) == names


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_needs_fargate_for_its_drivers(name: str) -> None:
    [why] = refused(MAIN, {name: CLUSTERS[name]})

    assert "Name the Fargate parameters" in why


def test_the_checker_starts_tasks_as_the_parameters_say() -> None:
    tasks = engines_of(CLIENTS, named_engines(**GIVEN), {})["fargate"]

    assert isinstance(tasks, FargateTasks)
    assert (tasks.cluster, tasks.task_definition) == ("jobs", GIVEN["FargateTaskDefinition"])
    assert tasks.network == {
        "subnets": ["subnet-1", "subnet-2"],
        "securityGroups": ["sg-1"],
        "assignPublicIp": "DISABLED",
    }
    assert [each["Name"] for each in TASK["ContainerDefinitions"]] == [CONTAINER]


def test_only_ecs_may_read_the_token_of_a_spark_server() -> None:
    policy = FARGATE["Resources"]["TokenPolicy"]
    [container] = TASK["ContainerDefinitions"]
    condition, [secret], _ = container["Secrets"]["Fn::If"]
    [statement] = policy["Properties"]["PolicyDocument"]["Statement"]

    assert condition == policy["Condition"] == "HasToken"
    assert secret["Name"] in NAMES
    assert secret["ValueFrom"] == statement["Resource"] == {"Ref": "RemoteTokenArn"}
    assert policy["Properties"]["Roles"] == [{"Ref": "StartRole"}]  # the script's role cannot read it
    assert TASK["ExecutionRoleArn"] == {"Fn::GetAtt": ["StartRole", "Arn"]}


def test_only_the_checker_starts_tasks_and_of_one_definition() -> None:
    policy = MAIN["Resources"]["FargatePolicy"]
    start, tag, watch, pass_role = policy["Properties"]["PolicyDocument"]["Statement"]

    assert policy["Condition"] == "HasFargate"
    assert policy["Properties"]["Roles"] == [{"Ref": "CheckerRole"}]
    assert (start["Action"], start["Resource"]) == ("ecs:RunTask", {"Ref": "FargateTaskDefinition"})
    assert watch["Action"] == ["ecs:DescribeTasks", "ecs:StopTask"]
    assert (tag["Action"], tag["Resource"]) == ("ecs:TagResource", watch["Resource"])
    assert tag["Condition"] == {"StringEquals": {"ecs:CreateAction": "RunTask"}}  # no task that exists already
    assert "${FargateCluster}" in json.dumps(watch["Resource"])
    assert start["Condition"] == watch["Condition"]
    assert pass_role["Condition"] == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
    assert pass_role["Resource"] == {"Fn::Split": [",", {"Ref": "FargateRoleArns"}]}
    for role in ("WorkerRole", "PlannerRole", "StepRole", "DlqConsumerRole"):
        assert not any(str(each["Action"]).startswith("ecs:") for each in statements(MAIN, role))


def test_a_tasks_root_is_read_only_but_for_the_images_volume() -> None:
    """ECS gives a volume the owner and mode of the image's folder if the Dockerfile declares it as VOLUME."""
    [container] = TASK["ContainerDefinitions"]
    [volume] = re.findall(r"^VOLUME (\S+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)

    assert container["ReadonlyRootFilesystem"] is True
    [mount] = container["MountPoints"]
    assert (mount["ContainerPath"], mount["ReadOnly"]) == (volume, False)
    assert TASK["Volumes"] == [{"Name": mount["SourceVolume"]}]


def test_tasks_of_two_stacks_have_two_names() -> None:
    """A family without a revision means its newest definition, which might be another stack's."""
    assert TASK["Family"] == {"Fn::Sub": "${AWS::StackName}-shard"}


def test_a_replaced_task_definition_is_kept() -> None:
    """ECS starts no task from a deregistered one, and the checker names the old one until its stack is updated."""
    definition = FARGATE["Resources"]["Task"]

    assert (definition["UpdateReplacePolicy"], definition["DeletionPolicy"]) == ("Retain", "Delete")


def test_the_fargate_template_outputs_the_roles_of_its_tasks() -> None:
    """The output has the roles of the shards' task definition, and no others."""
    roles = [TASK["ExecutionRoleArn"], TASK["TaskRoleArn"]]

    assert FARGATE["Outputs"]["RoleArns"]["Value"] == {"Fn::Join": [",", roles]}
    assert FARGATE["Outputs"]["TaskDefinition"]["Value"] == {"Ref": "Task"}


def test_a_task_has_the_workers_permissions_on_data() -> None:
    """This holds for the ARNs of each parameter, and for the stack's bucket."""

    def allowed(role: str, of: dict[str, Any]) -> set[tuple[str, str]]:
        return {
            (action, resource["Ref"] if "Ref" in resource else resource["Fn::Sub"][0].rpartition("}")[2])
            for each in statements(of, role)
            for action in as_list(each["Action"])
            for resource in as_list(each["Resource"])
            if action.startswith(("s3:", "sts:", "kms:")) and action != "s3:ListBucket"
        }

    of_worker, of_task = allowed("WorkerRole", MAIN), allowed("TaskRole", FARGATE)

    # Notices are the checker's; the write key is among the data keys.
    of_others = ("NoticeTopicKeyArn", "WriteEncryption")
    assert {each for each in of_worker if each[1] not in of_others} <= of_task
    assert ("sts:AssumeRole", "InputRoleArns") in of_task
    assert ("s3:GetObjectVersion", "ReadObjectArns") in of_task


# --- EMR Serverless, EMR, Glue ---


def test_an_engine_jobs_role_has_the_workers_rights_but_no_queue() -> None:
    document = properties(MAIN, "EngineWorkerPolicy")["PolicyDocument"]
    of_worker = statements(MAIN, "WorkerRole")
    own = [each["Sid"] for each in document["Statement"] if "Sid" in each and each not in of_worker]

    assert own == ["MarkFolders", "FetchTheWorker"]
    assert "sqs:" not in str(document)
    conditional = [each["Fn::If"][1]["Sid"] for each in document["Statement"] if "Fn::If" in each]
    assert conditional == ["WriteLogs", "AssumeRolesForInputs", "UseKey", "WriteByKey"]


EVERY_ENGINE = {
    **GIVEN,
    "LargeFunction": "yes",
    f"{LARGE}.Alias": f"arn:aws:lambda:eu-central-1:123456789012:function:sparklet-{LARGE}-0123456789ab:live",
    "EmrServerlessApplicationId": "00f1k2m3n4p5q6r7",
    "EmrServerlessRoleArn": "arn:aws:iam::123456789012:role/engines/sparklet-emr-serverless-jobs",
    "EmrClusterId": "j-1ABCDEFGHIJKL",
    "GlueJobName": "sparklet-shards-of-production",
    "SparkMaster": "spark://master-1.analytics.example:7077,master-2.analytics.example:7077",
    "SparkRemote": "sc://connect.analytics.example:443/;x-databricks-cluster-id=0123-456789-abcdefgh",
}
A_KILOBYTE_OF_CONF = json.dumps({f"spark.setting.{n:02}": "v" * 20 for n in range(23)})  # its quotes are escaped


def test_all_engines_share_one_conf() -> None:
    conf = {"spark.executor.instances": "4"}
    old = json.dumps({"emr": {"cluster": "j-1", "conf": conf}, "glue": {"job": "shards", "conf": conf}})

    for named in (
        named_engines(**EVERY_ENGINE, EngineSparkConf=json.dumps(conf)),
        engines({"SPARKLET_ENGINES": old}),  # older templates have the conf in each engine
    ):
        assert all(of["conf"] == conf for of in named.values())
        made = engines_of(CLIENTS, named, {"SPARKLET_BUCKET": "runs"})
        assert all(conf.items() <= made[name].conf.items() for name in made if name not in ("lambda-large", "fargate"))  # type: ignore[attr-defined]


KNOWING = ("PlannerFunction", "CheckerFunction", "StepFunction")  # functions that know the engines


def test_functions_that_know_engines_may_read_their_settings() -> None:
    """The planner refuses --too-large engine without an engine; a step creates the next run, and chooses its engine."""
    given = {name: each.get("Environment", {}).get("Variables", {}) for name, each in functions(MAIN).items()}

    assert {name for name, each in given.items() if "SPARKLET_ENGINES" in each} == {*KNOWING}
    for name in KNOWING:
        allowed = statements(MAIN, functions(MAIN)[name]["Role"]["Fn::GetAtt"][0])
        assert given[name]["SPARKLET_ENGINES"] == MAIN["Outputs"]["Engines"]["Value"]  # the command line reads it
        assert given[name]["SPARKLET_WORKER_FUNCTION"] == {"Ref": "WorkerFunction.Alias"}
        assert any(each["Action"] == "lambda:GetFunctionConfiguration" for each in allowed), name
        assert any("glue:GetJob" in each["Action"] for each in allowed), name


@pytest.mark.parametrize("function", KNOWING)
def test_the_longest_conf_fits_into_4_kb(function: str) -> None:
    given = {**EVERY_ENGINE, "EngineSparkConf": A_KILOBYTE_OF_CONF, "AWS::StackName": "n" * 128}
    given["ScriptPrefixes"] = "s3://scripts-of-production/jobs/" if function == "PlannerFunction" else ""
    written = {**MAIN["Globals"]["Function"]["Environment"]["Variables"], **variables(function)}
    found = {name: resolved(each, MAIN, given) for name, each in written.items()}
    # Values that are not known here, such as a queue's address or a name, have 110 characters.
    whole = {name: str(each) if each and not isinstance(each, dict) else "x" * 110 for name, each in found.items()}

    longest = MAIN["Parameters"]["EngineSparkConf"]["MaxLength"]
    assert len(A_KILOBYTE_OF_CONF) <= longest <= len(A_KILOBYTE_OF_CONF) + 50
    assert len(json.dumps(whole)) < 4096  # Lambda measures the JSON


def test_functions_and_tasks_have_the_images_architecture() -> None:
    of_functions = TEMPLATES["functions.yaml"]
    for each in (MAIN, of_functions):
        assert each["Globals"]["Function"]["Architectures"] == [{"Ref": "Architecture"}]
        assert not any("Architectures" in properties for properties in functions(each).values())  # of its own
    for each in (MAIN, of_functions, FARGATE):
        assert each["Parameters"]["Architecture"]["AllowedValues"] == ["x86_64", "arm64"]
    for task in of_type(FARGATE, "AWS::ECS::TaskDefinition").values():
        assert task["RuntimePlatform"]["CpuArchitecture"] == {"Fn::If": ["IsArm", "ARM64", "X86_64"]}
    assert FARGATE["Conditions"]["IsArm"] == {"Fn::Equals": [{"Ref": "Architecture"}, "arm64"]}
