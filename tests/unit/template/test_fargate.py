"""Shards beyond functions: what the checker may start, and that the two templates fit together."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.engines.create import engines_of
from sparklet.engines.fargate import CONTAINER, FargateTasks
from sparklet.local.environment import resource
from sparklet.local.local_template import load_template, parse_template
from sparklet.settings import NAMES, engines, fanout_settings
from tests.unit.template.reading import as_list, functions, of_type, statements

CLIENTS = AwsClients()
GIVEN = {
    "FargateCluster": "jobs",
    "FargateTaskDefinition": "arn:aws:ecs:eu-west-1:123456789012:task-definition/sparklet-shard:3",
    "FargateSubnetIds": "subnet-1,subnet-2",
    "FargateSecurityGroupIds": "sg-1",
    "FargatePublicIp": "DISABLED",
}


def fargate() -> dict[str, Any]:
    return parse_template(resource("sam/fargate.yaml").read_text())


def started(template: dict[str, Any], function: str) -> FargateTasks:
    """The tasks that a function starts, by the setting that the template gives it."""
    variables = functions(template)[function]["Environment"]["Variables"]
    filled = filled_in(variables["SPARKLET_ENGINES"], GIVEN)
    others = dict.fromkeys(("LEDGER_TABLE", "BUCKET", "QUEUE_URL"), "there")
    env = {f"SPARKLET_{name}": value for name, value in others.items()}
    [(name, tasks)] = engines_of(CLIENTS, fanout_settings({**env, "SPARKLET_ENGINES": filled}).engines, {}).items()
    assert name == "fargate" and isinstance(tasks, FargateTasks)
    return tasks


def filled_in(text: dict[str, Any], given: Mapping[str, str]) -> str:
    """A text of the template with these parameters, the others as by default."""
    usual = {name: each.get("Default", "") for name, each in load_template()["Parameters"].items()}
    pattern, _ = text["Fn::Sub"]
    return re.sub(r"\$\{(\w+)\}", lambda match: str({**usual, "Large": "", **given}[match[1]]), pattern)


def test_without_parameters_there_is_no_engine(template: dict[str, Any]) -> None:
    variables = functions(template)["CheckerFunction"]["Environment"]["Variables"]

    assert engines({"SPARKLET_ENGINES": filled_in(variables["SPARKLET_ENGINES"], {})}) == {}
    assert template["Outputs"]["Engines"]["Value"] == variables["SPARKLET_ENGINES"]  # the command line reads it


def test_the_checker_starts_what_the_parameters_name(template: dict[str, Any]) -> None:
    tasks = started(template, "CheckerFunction")

    assert (tasks.cluster, tasks.task_definition) == ("jobs", GIVEN["FargateTaskDefinition"])
    assert tasks.network == {
        "subnets": ["subnet-1", "subnet-2"],
        "securityGroups": ["sg-1"],
        "assignPublicIp": "DISABLED",
    }
    assert started(template, "PlannerFunction") == tasks  # which refuses --too-large engine where there is none
    assert started(template, "StepFunction") == tasks  # which enters the next run, and chooses for it
    names = [each["Name"] for each in fargate()["Resources"]["Task"]["Properties"]["ContainerDefinitions"]]
    assert names == [CONTAINER]


def test_spark_clusters_come_after_fargate(template: dict[str, Any]) -> None:
    variables = functions(template)["CheckerFunction"]["Environment"]["Variables"]
    clusters = {"SparkMaster": "spark://10.0.0.7:7077", "SparkRemote": "sc://10.0.0.7:15002"}
    named = engines({"SPARKLET_ENGINES": filled_in(variables["SPARKLET_ENGINES"], {**GIVEN, **clusters})})

    assert list(engines_of(CLIENTS, named, {})) == ["fargate", "standalone", "connect"]
    [rule] = template["Rules"]["ClustersHaveFargate"]["Assertions"]
    assert "FargateTaskDefinition" in json.dumps(rule["Assert"])


def test_a_servers_token_is_ecs_own_to_hand_over() -> None:
    template = fargate()
    policy, task = template["Resources"]["TokenPolicy"], template["Resources"]["Task"]["Properties"]
    [container] = task["ContainerDefinitions"]
    condition, [secret], _ = container["Secrets"]["Fn::If"]
    [statement] = policy["Properties"]["PolicyDocument"]["Statement"]

    assert condition == policy["Condition"] == "HasToken"
    assert secret["Name"] in NAMES
    assert secret["ValueFrom"] == statement["Resource"] == {"Ref": "RemoteTokenArn"}
    assert policy["Properties"]["Roles"] == [{"Ref": "StartRole"}]  # the script's role cannot read it
    assert task["ExecutionRoleArn"] == {"Fn::GetAtt": ["StartRole", "Arn"]}


def test_only_the_checker_and_only_that_definition(template: dict[str, Any]) -> None:
    policy = template["Resources"]["FargatePolicy"]
    start, tag, watch, hand = policy["Properties"]["PolicyDocument"]["Statement"]

    assert policy["Condition"] == "HasFargate"
    assert policy["Properties"]["Roles"] == [{"Ref": "CheckerRole"}]
    assert (start["Action"], start["Resource"]) == ("ecs:RunTask", {"Ref": "FargateTaskDefinition"})
    assert watch["Action"] == ["ecs:DescribeTasks", "ecs:StopTask"]
    assert (tag["Action"], tag["Resource"]) == ("ecs:TagResource", watch["Resource"])
    assert tag["Condition"] == {"StringEquals": {"ecs:CreateAction": "RunTask"}}  # no task that is there
    assert "${FargateCluster}" in json.dumps(watch["Resource"])
    assert start["Condition"] == watch["Condition"]
    assert hand["Condition"] == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
    assert hand["Resource"] == {"Fn::Split": [",", {"Ref": "FargateRoleArns"}]}
    for role in ("WorkerRole", "PlannerRole", "StepRole", "DlqConsumerRole"):
        assert not any(str(each["Action"]).startswith("ecs:") for each in statements(template, role))


def test_tasks_of_two_stacks_have_two_names() -> None:
    """A family without a revision means its newest definition, which was another stack's."""
    assert fargate()["Resources"]["Task"]["Properties"]["Family"] == {"Fn::Sub": "${AWS::StackName}-shard"}


def test_a_definition_outlives_what_takes_its_place() -> None:
    """ECS starts no task from one that is deregistered; the checker names it until the main stack is updated."""
    definition = fargate()["Resources"]["Task"]

    assert (definition["UpdateReplacePolicy"], definition["DeletionPolicy"]) == ("Retain", "Delete")


def test_the_other_template_names_its_roles() -> None:
    """Those that the definition of shards has, and no other."""
    template = fargate()
    task = template["Resources"]["Task"]["Properties"]

    assert template["Outputs"]["RoleArns"]["Value"] == {
        "Fn::Join": [",", [task["ExecutionRoleArn"], task["TaskRoleArn"]]]
    }
    assert template["Outputs"]["TaskDefinition"]["Value"] == {"Ref": "Task"}


def test_a_task_may_do_what_the_worker_may_with_data(template: dict[str, Any]) -> None:
    """On each parameter's ARNs, and in the stack's bucket."""

    def allowed(role: str, of: dict[str, Any]) -> set[tuple[str, str]]:
        return {
            (action, resource["Ref"] if "Ref" in resource else resource["Fn::Sub"][0].rpartition("}")[2])
            for each in statements(of, role)
            for action in as_list(each["Action"])
            for resource in as_list(each["Resource"])
            if action.startswith(("s3:", "sts:", "kms:")) and action != "s3:ListBucket"
        }

    of_worker, of_task = allowed("WorkerRole", template), allowed("TaskRole", fargate())

    assert {each for each in of_worker if each[1] != "NoticeTopicKeyArn"} <= of_task  # the check that ends a run tells
    assert ("sts:AssumeRole", "InputRoleArns") in of_task
    assert ("s3:GetObjectVersion", "ReadObjectArns") in of_task


# --- EMR Serverless, EMR, Glue ---


def test_a_jobs_role_gets_what_the_worker_has_but_the_queue(template: dict[str, Any]) -> None:
    document = template["Resources"]["EngineWorkerPolicy"]["Properties"]["PolicyDocument"]
    of_worker = statements(template, "WorkerRole")
    own = [each["Sid"] for each in document["Statement"] if "Sid" in each and each not in of_worker]

    assert own == ["MarkFolders", "FetchTheWorker", "WriteLogs"]
    assert "sqs:" not in str(document)
    conditional = [each["Fn::If"][1]["Sid"] for each in document["Statement"] if "Fn::If" in each]
    assert conditional == ["AssumeRolesForInputs", "UseKey"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"EmrServerlessApplicationId": "00f1", "EmrServerlessRoleArn": "arn:aws:iam::1:role/r"}, "emr-serverless"),
        ({"EmrClusterId": "j-1", "EngineSparkConf": '{"spark.executor.instances": "4"}'}, "emr"),
        ({"GlueJobName": "shards"}, "glue"),
    ],
)
def test_parameters_name_an_engine(template: dict[str, Any], given: dict[str, str], name: str) -> None:
    variables = functions(template)["CheckerFunction"]["Environment"]["Variables"]

    named = engines({"SPARKLET_ENGINES": filled_in(variables["SPARKLET_ENGINES"], given)})

    assert list(engines_of(CLIENTS, named, {"SPARKLET_BUCKET": "runs"})) == [name]


EVERY_ENGINE = {
    **GIVEN,
    "Large": "arn:aws:lambda:eu-central-1:123456789012:function:sparklet-LargeWorkerFunction-0123456789ab:live",
    "EmrServerlessApplicationId": "00f1k2m3n4p5q6r7",
    "EmrServerlessRoleArn": "arn:aws:iam::123456789012:role/engines/sparklet-emr-serverless-jobs",
    "EmrClusterId": "j-1ABCDEFGHIJKL",
    "GlueJobName": "sparklet-shards-of-production",
    "SparkMaster": "spark://master-1.analytics.example:7077,master-2.analytics.example:7077",
    "SparkRemote": "sc://connect.analytics.example:443/;x-databricks-cluster-id=0123-456789-abcdefgh",
}
A_KILOBYTE_OF_CONF = json.dumps({f"spark.setting.{n:02}": "v" * 20 for n in range(23)})  # its quotes are escaped


def test_all_engines_share_one_conf(template: dict[str, Any]) -> None:
    conf = {"spark.executor.instances": "4"}
    variables = functions(template)["CheckerFunction"]["Environment"]["Variables"]
    filled = filled_in(variables["SPARKLET_ENGINES"], {**EVERY_ENGINE, "EngineSparkConf": json.dumps(conf)})
    old = json.dumps({"emr": {"cluster": "j-1", "conf": conf}, "glue": {"job": "shards", "conf": conf}})

    for text in (filled, old):  # functions of an older template have it in each engine
        named = engines({"SPARKLET_ENGINES": text})
        assert all(of["conf"] == conf for of in named.values())
        made = engines_of(CLIENTS, named, {"SPARKLET_BUCKET": "runs"})
        assert all(conf.items() <= made[name].conf.items() for name in made if name not in ("lambda-large", "fargate"))  # type: ignore[attr-defined]


def test_whoever_knows_engines_may_ask_what_they_lack(template: dict[str, Any]) -> None:
    knowing = [
        name
        for name, properties in functions(template).items()
        if "SPARKLET_ENGINES" in properties.get("Environment", {}).get("Variables", {})
    ]

    assert knowing == ["PlannerFunction", "CheckerFunction", "StepFunction"]
    for name in knowing:
        properties = functions(template)[name]
        allowed = statements(template, properties["Role"]["Fn::GetAtt"][0])
        assert properties["Environment"]["Variables"]["SPARKLET_WORKER_FUNCTION"] == {"Ref": "WorkerFunction.Alias"}
        assert any(each["Action"] == "lambda:GetFunctionConfiguration" for each in allowed), name
        assert any("glue:GetJob" in each["Action"] for each in allowed), name


@pytest.mark.parametrize("function", ["PlannerFunction", "CheckerFunction", "StepFunction"])
def test_the_longest_conf_fits_into_4_kb(template: dict[str, Any], function: str) -> None:
    declared = template["Parameters"]
    given = {**EVERY_ENGINE, "EngineSparkConf": A_KILOBYTE_OF_CONF}
    given["ScriptPrefixes"] = "s3://scripts-of-production/jobs/" if function == "PlannerFunction" else ""
    own = functions(template)[function]["Environment"]["Variables"]

    def value(written: dict[str, Any]) -> str:
        if isinstance(written.get("Fn::Sub"), list):
            return filled_in(written, given)
        parameter = declared.get(written.get("Ref", ""), {"Default": "x" * 110})  # else a queue's address, a name, …
        return str(given.get(written.get("Ref", ""), parameter["Default"] or "x" * 110))

    whole = {
        name: value(each)
        for name, each in {**template["Globals"]["Function"]["Environment"]["Variables"], **own}.items()
    }

    assert len(A_KILOBYTE_OF_CONF) <= declared["EngineSparkConf"]["MaxLength"] <= len(A_KILOBYTE_OF_CONF) + 50
    assert len(json.dumps(whole)) < 4096  # Lambda measures the JSON


def test_functions_and_tasks_have_the_images_architecture(template: dict[str, Any]) -> None:
    of_functions = parse_template(resource("sam/functions.yaml").read_text())
    for each in (template, of_functions):
        assert each["Globals"]["Function"]["Architectures"] == [{"Ref": "Architecture"}]
        assert not any("Architectures" in properties for properties in functions(each).values())  # of its own
    tasks = fargate()
    for each in (template, of_functions, tasks):
        assert each["Parameters"]["Architecture"]["AllowedValues"] == ["x86_64", "arm64"]
    for task in of_type(tasks, "AWS::ECS::TaskDefinition").values():
        assert task["RuntimePlatform"]["CpuArchitecture"] == {"Fn::If": ["IsArm", "ARM64", "X86_64"]}
    assert tasks["Conditions"]["IsArm"] == {"Fn::Equals": [{"Ref": "Architecture"}, "arm64"]}
