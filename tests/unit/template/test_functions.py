"""Queues, functions, versions and parameters of sam/template.yaml, evaluated as CloudFormation does."""

import ast
import json
import re
from typing import Any

import pytest

from sparklet.functions.deployed import WAITING_S
from sparklet.local.deploy import Template, handler_of
from sparklet.settings import NAMES, OF_FUNCTIONS, spark_settings, worker_settings
from tests.unit.template.reading import LARGE, MAIN, ROOT, SAM, TEMPLATES, ZIPS, expanded, functions, of_type, variables

FOR_THE_IMAGE = {"SPARKLET_JARS"}  # set by the image or by the local stack, which know where the jars are
FOR_OWN_FUNCTIONS = {"SPARKLET_KAFKA_FAILURES"}  # the template's worker raises, as every mapping expects
OTHER_SPELLINGS = {"SCRIPT_BUCKET", "SPARK_SCRIPT"}  # other ways to name the script of SCRIPT_LOCATION


# --- functions ---


def test_the_worker_is_an_image_and_the_others_existing_zips() -> None:
    found = functions(MAIN)

    assert set(found) == {"WorkerFunction", LARGE, *ZIPS}
    for worker in ("WorkerFunction", LARGE):
        assert (found[worker]["PackageType"], found[worker]["ImageUri"]) == ("Image", {"Ref": "ImageUri"})
    for name in ZIPS:
        assert (SAM / found[name]["CodeUri"]).resolve() == ROOT / "runtime"
        assert found[name]["Runtime"] == "python3.13"
    for command in map(handler_of, found.values()):
        module, _, function = command.rpartition(".")
        source = (ROOT / "runtime" / module.replace(".", "/")).with_suffix(".py").read_text()
        defined = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        assert function in defined, command


def test_sam_builds_the_image_that_the_dockerfile_describes() -> None:
    metadata = MAIN["Resources"]["WorkerFunction"]["Metadata"]
    dockerfile = SAM / metadata["DockerContext"] / metadata["Dockerfile"]
    declared = dict(re.findall(r"^ARG (\w+)=(.*)$", dockerfile.read_text(), re.MULTILINE))

    for argument, value in metadata["DockerBuildArgs"].items():
        assert declared[argument] == MAIN["Parameters"][value["Ref"]]["Default"], argument


def test_the_planner_knows_the_workers_size() -> None:
    worker, known = functions(MAIN)["WorkerFunction"], variables("PlannerFunction")

    assert known["SPARKLET_WORKER_MEMORY_MB"] == worker["MemorySize"]
    assert known["SPARKLET_WORKER_SCRATCH_MB"] == worker["EphemeralStorage"]["Size"]
    assert known["SPARKLET_SCRIPT_PREFIXES"] == variables("WorkerFunction")["SPARKLET_SCRIPT_PREFIXES"]


# --- versions and aliases ---


def with_image(tag: int) -> Template:
    image_uri = f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/sparklet:{tag}"
    return expanded("template.yaml", ImageUri=image_uri)


@pytest.fixture(scope="module")
def transformed() -> Template:
    return with_image(1)


def test_outputs_for_callers_name_published_functions(transformed: dict[str, Any]) -> None:
    callers = [transformed["Outputs"][f"{name}AliasArn"]["Value"] for name in ("Worker", "Planner", "Checker", "Step")]

    assert {caller["Ref"] for caller in callers} <= set(of_type(transformed, "AWS::Lambda::Alias"))
    assert transformed["Outputs"]["WorkerAliasName"]["Value"] == "live"


def test_another_image_publishes_another_version(transformed: dict[str, Any]) -> None:
    other = with_image(2)

    changed = set(of_type(other, "AWS::Lambda::Version")) - set(of_type(transformed, "AWS::Lambda::Version"))
    assert {name.partition("Version")[0] for name in changed} == {"WorkerFunction", LARGE}


def test_a_replaced_version_is_retained(transformed: dict[str, Any]) -> None:
    """An update replaces or removes a version while shards still run in it."""
    versions, functions_left = (
        [body for body in transformed["Resources"].values() if body["Type"] == f"AWS::Lambda::{kind}"]
        for kind in ("Version", "Function")
    )

    assert len(versions) == 2 + len(ZIPS)
    assert all(v["UpdateReplacePolicy"] == v["DeletionPolicy"] == "Retain" for v in versions)
    assert all(function.get("DeletionPolicy", "Delete") == "Delete" for function in functions_left)


def test_event_variables_may_not_name_reserved_variables() -> None:
    allowed = re.compile(MAIN["Parameters"]["EventVariables"]["AllowedPattern"])

    for names in ("", "INPUT_PATH", "INPUT_PATH,OUTPUT_PATH", "day,PATHS,HOMES"):
        assert allowed.fullmatch(names), names
    for name in (
        *("AWS_REGION", "SPARK_HOME", "SPARKLET_RUNNER", "PYTHONPATH"),
        *("LD_PRELOAD", "JAVA_HOME", "PATH", "HOME"),
    ):
        for names in (name, f"day,{name}", f"{name},day"):
            assert not allowed.fullmatch(names), names
    for wrong in ("day,", ",day", "a b", "a,,b", "a=b"):
        assert not allowed.fullmatch(wrong), wrong


@pytest.mark.parametrize("file", ["template.yaml", "functions.yaml"])
def test_a_parameter_that_changes_settings_publishes_a_version(file: str) -> None:
    template = TEMPLATES[file]
    advice = template["Parameters"]["Revision"]["Description"]
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    by_kind = {
        parameter
        for group in groups
        for parameter in group["Parameters"]
        if (group["Label"]["default"] == "Shards that are too much for a function" and "of an engine" in advice)
        or (group["Label"]["default"] == "Data" and "a data parameter" in advice)
        or (parameter.startswith("Notice") and "a notice parameter" in advice)
    } - {"LargeFunction", "ExistingBucketName"}  # fmt: skip
    for name, properties in functions(template).items():
        settings = {key: properties[key] for key in properties.keys() & {"MemorySize", "Timeout", "EphemeralStorage"}}
        settings["Environment"] = properties.get("Environment", {})
        settings["Globals"] = [template["Globals"]["Function"][key] for key in ("Environment", "VpcConfig")]
        followed = _parameters(template, settings)
        described = _parameters(template, properties["VersionDescription"])

        assert {each for each in followed if each not in advice} - by_kind <= described, name
        assert "Revision" in described
        # Otherwise nothing would change, and Lambda would publish no version.
        assert "${Revision}" in json.dumps(properties["Description"])


def _parameters(template: Template, node: Any) -> set[str]:
    """The parameters that a node refers to, directly or by a condition."""
    written = json.dumps(node)
    found = set(re.findall(r'"Ref": "(\w+)"', written) + re.findall(r"\$\{(\w+)\}", written))
    for condition in re.findall(r'"Fn::If": \["(\w+)"', written):
        found |= _parameters(template, template["Conditions"][condition])
    return found & template["Parameters"].keys()


def test_a_versions_description_fits_with_the_longest_values() -> None:
    text, snapshot = functions(MAIN)["WorkerFunction"]["VersionDescription"]["Fn::Sub"]
    longest = {
        name: max([*map(str, definition.get("AllowedValues", [])), "9" * 12], key=len)
        for name, definition in MAIN["Parameters"].items()
    }
    longest["Revision"] = "r" * MAIN["Parameters"]["Revision"]["MaxLength"]
    longest["ExistingBucketName"] = "b" * 63
    longest["Snapshot"] = snapshot["Snapshot"]["Fn::If"][2]

    assert len(re.sub(r"\$\{(\w+)\}", lambda match: longest[match[1]], text)) <= 256  # Lambda's limit


# --- retries and settings ---


def test_failed_calls_of_own_functions_are_not_retried_but_kept() -> None:
    workers = [each for name, each in functions(TEMPLATES["functions.yaml"]).items() if "Worker" in name]

    assert len(workers) == 3
    for worker in workers:
        config = worker["EventInvokeConfig"]
        assert (config["MaximumRetryAttempts"], config["MaximumEventAgeInSeconds"]) == (0, WAITING_S)
        assert config["DestinationConfig"]["OnFailure"]["Destination"] == {"Fn::GetAtt": ["DeadLetters", "Arn"]}


VALUES = {  # by variable within WorkerSettings: an allowed and a bad value
    "SPARKLET_RUNNER": ("submit", "hot"),
    "SPARKLET_KEEP_CONTEXT": ("off", "no"),
    "SPARKLET_GRACE_S": ("30", "31"),  # half of the shortest timeout
    "SPARKLET_TASKS_PER_JVM": ("1", "0"),
    "SPARKLET_MIN_FREE_BYTES": ("0", "-1"),
    "SPARKLET_HEAP_MB": ("1024", "1g"),
    "SPARKLET_CORES": ("2", "two"),
    "SPARKLET_JAVA_OPTIONS": ("-Da='b \"c\"' -Xss4m", None),
}


def test_the_template_allows_exactly_the_workers_settings() -> None:
    """So a misspelt setting stops the deployment instead of the first worker."""
    allowed = re.compile(MAIN["Parameters"]["WorkerSettings"]["AllowedPattern"])
    all_settings = json.dumps({name: good for name, (good, _) in VALUES.items()}, ensure_ascii=False)

    names = set(re.findall(r"[A-Z_]{4,}", allowed.pattern)) - {"SPARKLET_"}
    assert names == {name.removeprefix("SPARKLET_") for name in VALUES}
    assert all(
        allowed.fullmatch(text)
        for text in ("", "{}", all_settings, all_settings.replace(": ", ":").replace(", ", " ,\n"))
    )
    worker_settings({"SPARKLET_WORKER_SETTINGS": all_settings})
    assert spark_settings({"SPARKLET_WORKER_SETTINGS": all_settings}).java_options == ('-Da=b "c"', "-Xss4m")
    for name, (good, bad) in VALUES.items():
        assert bad is None or not allowed.fullmatch(json.dumps({name: bad})), name
        assert not allowed.fullmatch(json.dumps({f"{name}S": good})), name  # an unknown name
        assert not allowed.fullmatch(json.dumps({name: good})[:-1] + ",}"), name  # no JSON: a comma too many
    assert not allowed.fullmatch('{"SPARKLET_BUCKET": "other"}')
    # A mapping without pollers treats a report as success, so the batch would be lost.
    assert not allowed.fullmatch('{"SPARKLET_KAFKA_FAILURES": "report"}')


def test_a_worker_gets_one_shard_at_a_time_by_default() -> None:
    shards = functions(MAIN)["WorkerFunction"]["Events"]["Shards"]["Properties"]

    asked = MAIN["Parameters"]["ShardsPerInvocation"]
    assert shards["BatchSize"] == {"Ref": "ShardsPerInvocation"}
    assert (asked["Default"], asked["MinValue"], asked["MaxValue"]) == (1, 1, 10)
    # The visibility timeout of six timeouts leaves no room for a window.
    assert "MaximumBatchingWindowInSeconds" not in shards
    assert shards["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}


def test_the_checker_is_called_once_a_minute(transformed: dict[str, Any]) -> None:
    (rule,) = of_type(transformed, "AWS::Events::Rule").values()

    assert rule["ScheduleExpression"] == "rate(1 minute)"
    assert rule["Targets"][0]["RetryPolicy"]["MaximumRetryAttempts"] == 0  # the next minute's call is the retry


@pytest.mark.parametrize(("function", "age_s"), [("CheckerFunction", 60), (LARGE, 900)])
def test_lambda_does_not_retry_checker_and_large_function(
    transformed: dict[str, Any], function: str, age_s: int
) -> None:
    """The checker is called each minute anyway, and dispatches a lost shard again."""
    configs = of_type(transformed, "AWS::Lambda::EventInvokeConfig").values()
    (config,) = (each for each in configs if each["FunctionName"] == {"Ref": function})

    assert config["Qualifier"] == "live"  # the alias that callers use
    assert (config["MaximumRetryAttempts"], config["MaximumEventAgeInSeconds"]) == (0, age_s)


def test_the_environment_has_every_setting_and_no_other() -> None:
    source = (ROOT / "runtime" / "sparklet" / "settings.py").read_text()
    strings = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    read = {
        text for text in strings if isinstance(text, str) and re.fullmatch(r"(SPARKLET|SCRIPT|SPARK)_[A-Z0-9_]+", text)
    }
    read -= {"SPARK_HOME"}  # set by the image
    read -= NAMES - OF_FUNCTIONS  # variables of the command line, and between processes
    common = MAIN["Globals"]["Function"]["Environment"]["Variables"]
    given = set(common)
    for properties in functions(MAIN).values():
        given |= set(properties.get("Environment", {}).get("Variables", {}))

    given -= {name for name in given if name.startswith("PYICEBERG_CATALOG__ICEBERG__")}  # read by pyiceberg
    given |= VALUES.keys()  # these are within SPARKLET_WORKER_SETTINGS
    assert given <= read
    assert read - given == FOR_THE_IMAGE | FOR_OWN_FUNCTIONS | OTHER_SPELLINGS
