"""What sam/template.yaml promises of queues, functions, versions and parameters, read as CloudFormation reads it."""

import ast
import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparklet.local.environment import resource
from sparklet.local.local_template import handler_of, parse_template
from sparklet.settings import NAMES, OF_FUNCTIONS
from tests.unit.template.reading import ZIPS, functions, of_type

ROOT = Path(__file__).resolve().parents[3]
FOR_THE_IMAGE = {"SPARKLET_JARS"}  # set where the jars are: by the image, or by the local stack
OTHER_SPELLINGS = {"SCRIPT_BUCKET", "SPARK_SCRIPT"}  # of the one script that SCRIPT_LOCATION names
REVISED = (
    "DefaultScript",
    "ScriptPrefixes",
    "OutputPrefixes",
    "JavaOptions",
    "ScriptEnvironment",
    "SparkConf",
    "IcebergCatalogType",
    "IcebergCatalogUri",
    "IcebergWarehouse",
)  # too long for a description


# --- functions ---


def test_the_worker_is_an_image_and_the_others_existing_zips(
    template: dict[str, Any],
) -> None:
    found = functions(template)

    assert set(found) == {"WorkerFunction", *ZIPS}
    assert (found["WorkerFunction"]["PackageType"], found["WorkerFunction"]["ImageUri"]) == (
        "Image",
        {"Ref": "ImageUri"},
    )
    for name in ZIPS:
        assert (ROOT / "sam" / found[name]["CodeUri"]).resolve() == ROOT / "runtime"
        assert found[name]["Runtime"] == "python3.13"
    for command in map(handler_of, found.values()):
        module, _, function = command.rpartition(".")
        source = (ROOT / "runtime" / module.replace(".", "/")).with_suffix(".py").read_text()
        defined = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        assert function in defined, command


def test_sam_builds_the_image_that_the_dockerfile_describes(template: dict[str, Any]) -> None:
    metadata = template["Resources"]["WorkerFunction"]["Metadata"]
    dockerfile = ROOT / "sam" / metadata["DockerContext"] / metadata["Dockerfile"]
    declared = dict(re.findall(r"^ARG (\w+)=(.*)$", dockerfile.read_text(), re.MULTILINE))

    for argument, value in metadata["DockerBuildArgs"].items():
        assert declared[argument] == template["Parameters"][value["Ref"]]["Default"], argument


def test_the_planner_knows_the_workers_size(template: dict[str, Any]) -> None:
    worker = functions(template)["WorkerFunction"]
    variables = functions(template)["PlannerFunction"]["Environment"]["Variables"]

    assert variables["SPARKLET_WORKER_MEMORY_MB"] == worker["MemorySize"]
    assert variables["SPARKLET_WORKER_SCRATCH_MB"] == worker["EphemeralStorage"]["Size"]
    assert variables["SPARKLET_SCRIPT_PREFIXES"] == worker["Environment"]["Variables"]["SPARKLET_SCRIPT_PREFIXES"]


# --- versions and aliases ---


@pytest.fixture(scope="module")
def transformed(template: dict[str, Any]) -> dict[str, Any]:
    return transform(template, "123456789012.dkr.ecr.eu-west-1.amazonaws.com/sparklet:1")


def transform(template: dict[str, Any], image_uri: str) -> dict[str, Any]:
    """What SAM makes of it; packages lie in S3 by then."""
    from samtranslator.translator.transform import transform as sam_transform

    packaged = copy.deepcopy(template)
    for name in ZIPS:
        packaged["Resources"][name]["Properties"]["CodeUri"] = f"s3://packages/{name}"
    for name in of_type(packaged, "AWS::Serverless::StateMachine"):
        packaged["Resources"][name]["Properties"].pop("Definition")
        packaged["Resources"][name]["Properties"]["DefinitionUri"] = f"s3://packages/{name}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        document: dict[str, Any] = sam_transform(packaged, {"ImageUri": image_uri}, SimpleNamespace(load=dict))
    return document


def test_outputs_for_callers_name_published_functions(transformed: dict[str, Any]) -> None:
    callers = [transformed["Outputs"][f"{name}AliasArn"]["Value"] for name in ("Worker", "Planner", "Checker", "Step")]

    assert {caller["Ref"] for caller in callers} <= set(of_type(transformed, "AWS::Lambda::Alias"))
    assert transformed["Outputs"]["WorkerAliasName"]["Value"] == "live"


def test_another_image_is_another_version(template: dict[str, Any], transformed: dict[str, Any]) -> None:
    other = transform(template, "123456789012.dkr.ecr.eu-west-1.amazonaws.com/sparklet:2")

    changed = set(of_type(other, "AWS::Lambda::Version")) - set(of_type(transformed, "AWS::Lambda::Version"))
    assert [name.partition("Version")[0] for name in changed] == ["WorkerFunction"]


def test_a_version_outlives_whatever_takes_its_place(transformed: dict[str, Any]) -> None:
    """Another description replaces it, other code removes it from the template; shards are under way in it."""
    kinds = {name: body["Type"] for name, body in transformed["Resources"].items()}
    versions = [transformed["Resources"][name] for name, kind in kinds.items() if kind == "AWS::Lambda::Version"]

    assert len(versions) == 1 + len(ZIPS)
    assert all(v["UpdateReplacePolicy"] == v["DeletionPolicy"] == "Retain" for v in versions)
    functions_left = [transformed["Resources"][name] for name, kind in kinds.items() if kind == "AWS::Lambda::Function"]
    assert all(function.get("DeletionPolicy", "Delete") == "Delete" for function in functions_left)


@pytest.mark.parametrize("name", ["WorkerFunction", *ZIPS])
def test_a_parameter_that_changes_settings_publishes_a_version(template: dict[str, Any], name: str) -> None:
    properties = functions(template)[name]
    settings = {key: properties[key] for key in properties.keys() & {"MemorySize", "Timeout", "EphemeralStorage"}}
    settings["Environment"] = properties.get("Environment", {})
    followed = set(re.findall(r'"Ref": "(\w+)"', json.dumps(settings)))
    described = set(re.findall(r"\$\{(\w+)\}", json.dumps(properties["VersionDescription"])))

    assert followed - set(REVISED) <= described
    assert "Revision" in described
    assert "${Revision}" in json.dumps(properties["Description"])  # else nothing would be new, and Lambda refuses that
    advice = template["Parameters"]["Revision"]["Description"]
    assert all(parameter in advice for parameter in REVISED)


def test_a_versions_description_fits_with_the_longest_values(template: dict[str, Any]) -> None:
    text, snapshot = functions(template)["WorkerFunction"]["VersionDescription"]["Fn::Sub"]
    longest = {
        name: max([*map(str, definition.get("AllowedValues", [])), "9" * 12], key=len)
        for name, definition in template["Parameters"].items()
    }
    longest["Revision"] = "r" * template["Parameters"]["Revision"]["MaxLength"]
    longest["Snapshot"] = snapshot["Snapshot"]["Fn::If"][2]

    assert len(re.sub(r"\$\{(\w+)\}", lambda match: longest[match[1]], text)) <= 256  # Lambda's limit


# --- what a deployment refuses, and what cannot be asked for ---


def test_workers_of_functions_reserve_what_their_queues_may_take() -> None:
    template = parse_template(resource("sam/functions.yaml").read_text())
    workers = [each for name, each in functions(template).items() if "Worker" in name]

    assert len(workers) == 3
    for worker in workers:
        maximum = worker["Events"]["Calls"]["Properties"]["ScalingConfig"]["MaximumConcurrency"]
        reserved = ["HasReservedConcurrency", maximum, {"Ref": "AWS::NoValue"}]
        assert worker["ReservedConcurrentExecutions"]["Fn::If"] == reserved


def test_snap_start_and_provisioned_exclude_each_other(template: dict[str, Any]) -> None:
    conditions = template["Conditions"]

    assert conditions["HasProvisioned"] == {"Fn::Equals": [{"Ref": "ColdStart"}, "provisioned"]}
    assert conditions["HasSnapStart"] == {"Fn::Equals": [{"Ref": "ColdStart"}, "snapstart"]}


@pytest.mark.parametrize(
    ("chosen", "refused"),
    [
        ({}, ""),
        ({"KafkaClusterArn": "arn:aws:kafka:eu-west-1:1:cluster/a/b"}, "at most 14 minutes"),
        ({"KafkaClusterArn": "arn:aws:kafka:eu-west-1:1:cluster/a/b", "FunctionTimeoutS": "840"}, ""),
        ({"ColdStart": "snapstart"}, "EphemeralStorageMB to 512"),
        ({"ColdStart": "snapstart", "EphemeralStorageMB": "512"}, ""),
        ({"ColdStart": "provisioned"}, ""),
        ({"FargateTaskDefinition": "arn:aws:ecs:eu-west-1:1:task-definition/sparklet-shard:1"}, "as FargateCluster"),
        ({"EmrServerlessApplicationId": "00f1abc"}, "as EmrServerlessRoleArn"),
    ],
)
def test_contradictory_parameters_stop_a_deployment(
    template: dict[str, Any], chosen: dict[str, str], refused: str
) -> None:
    from ministack.services.cloudformation.engine import _evaluate_rules

    values = {name: str(definition.get("Default", "")) for name, definition in template["Parameters"].items()}
    parameters = {name: {"Value": value} for name, value in {**values, **chosen}.items()}

    if not refused:
        _evaluate_rules(template, parameters, {})
        return
    with pytest.raises(ValueError, match=refused):
        _evaluate_rules(template, parameters, {})


def test_kafka_failures_are_reported_only_with_pollers(template: dict[str, Any]) -> None:
    """Without pollers of its own a Kafka mapping would take a report for success."""
    kafka = template["Resources"]["KafkaMapping"]["Properties"]

    assert kafka["FunctionResponseTypes"]["Fn::If"][:2] == ["HasKafkaPollers", ["ReportBatchItemFailures"]]
    assert template["Conditions"]["HasKafkaPollers"] == {"Fn::Equals": [{"Ref": "KafkaFailures"}, "report"]}


def test_lost_stream_batches_reach_the_dead_letter_queue(template: dict[str, Any]) -> None:
    kinesis, kafka = (template["Resources"][name]["Properties"] for name in ("StreamMapping", "KafkaMapping"))

    for limit, value in (
        ("BisectBatchOnFunctionError", True),
        ("MaximumRetryAttempts", {"Ref": "StreamRetryAttempts"}),
        ("MaximumRecordAgeInSeconds", {"Ref": "StreamMaximumAgeS"}),
    ):
        assert kinesis[limit] == value
        assert kafka[limit] == {"Fn::If": ["HasKafkaPollers", value, {"Ref": "AWS::NoValue"}]}
    for mapping in (kinesis, kafka):
        assert mapping["DestinationConfig"] == {
            "OnFailure": {"Destination": {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}}
        }


def test_a_stream_has_a_window_only_if_configured(template: dict[str, Any]) -> None:
    mapping = template["Resources"]["StreamMapping"]["Properties"]

    assert mapping["TumblingWindowInSeconds"] == {
        "Fn::If": ["HasWindow", {"Ref": "StreamWindowS"}, {"Ref": "AWS::NoValue"}]
    }
    assert template["Parameters"]["StreamWindowS"]["Default"] == 0


@pytest.mark.parametrize("mapping", ["StreamMapping", "KafkaMapping"])
def test_a_batch_of_a_stream_is_gathered_if_configured(template: dict[str, Any], mapping: str) -> None:
    properties, size = template["Resources"][mapping]["Properties"], template["Parameters"]["StreamBatchSize"]

    assert properties["MaximumBatchingWindowInSeconds"] == {
        "Fn::If": ["HasBatchWindow", {"Ref": "StreamBatchWindowS"}, {"Ref": "AWS::NoValue"}]
    }
    assert (properties["BatchSize"], size["MaxValue"]) == ({"Ref": "StreamBatchSize"}, 10_000)


def test_a_worker_gets_one_shard_at_a_time_by_default(
    template: dict[str, Any],
) -> None:
    shards = functions(template)["WorkerFunction"]["Events"]["Shards"]["Properties"]

    asked = template["Parameters"]["ShardsPerInvocation"]
    assert shards["BatchSize"] == {"Ref": "ShardsPerInvocation"}
    assert (asked["Default"], asked["MinValue"], asked["MaxValue"]) == (1, 1, 10)
    assert "MaximumBatchingWindowInSeconds" not in shards  # six times the timeout leaves no room for one
    assert shards["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}


def test_the_checker_is_called_once_a_minute_without_retries(transformed: dict[str, Any]) -> None:
    (config,) = of_type(transformed, "AWS::Lambda::EventInvokeConfig").values()
    (rule,) = of_type(transformed, "AWS::Events::Rule").values()

    assert config["FunctionName"] == {"Ref": "CheckerFunction"}
    assert config["Qualifier"] == "live"  # which the rule calls
    assert (config["MaximumRetryAttempts"], config["MaximumEventAgeInSeconds"]) == (0, 60)
    assert rule["ScheduleExpression"] == "rate(1 minute)"
    assert rule["Targets"][0]["RetryPolicy"]["MaximumRetryAttempts"] == 0


def test_the_environment_has_every_setting_and_no_other(template: dict[str, Any]) -> None:
    source = (ROOT / "runtime" / "sparklet" / "settings.py").read_text()
    strings = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    read = {
        text for text in strings if isinstance(text, str) and re.fullmatch(r"(SPARKLET|SCRIPT|SPARK)_[A-Z0-9_]+", text)
    }
    read -= {"SPARK_HOME"}  # the image's own
    read -= NAMES - OF_FUNCTIONS  # of the command line, and between processes
    common = template["Globals"]["Function"]["Environment"]["Variables"]
    given = set(common)
    for properties in functions(template).values():
        given |= set(properties.get("Environment", {}).get("Variables", {}))

    given -= {name for name in given if name.startswith("PYICEBERG_CATALOG__ICEBERG__")}  # which pyiceberg reads
    assert given <= read
    assert read - given == FOR_THE_IMAGE | OTHER_SPELLINGS
