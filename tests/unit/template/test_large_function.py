"""The engine lambda-large: the worker's function with another size, and who may call it."""

import json
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.engines.create import engines_of
from sparklet.engines.lambda_large import LargeFunction
from sparklet.model.options import LARGE as ENGINE
from sparklet.model.options import LARGE_MB
from sparklet.settings import engines
from tests.unit.template.reading import LARGE, functions, of_type
from tests.unit.template.test_fargate import filled_in
from tests.unit.template.test_functions import with_image

ALIAS = {"Ref": f"{LARGE}.Alias"}
OWN = {"SPARKLET_ENGINE", "SPARKLET_METRICS_NAMESPACE", "SPARKLET_HEAP_MB", "SPARKLET_CORES"}


def test_it_is_the_worker_with_all_that_lambda_has(template: dict[str, Any]) -> None:
    worker, large = (functions(template)[name] for name in ("WorkerFunction", LARGE))
    variables, others = (each["Environment"]["Variables"] for each in (large, worker))

    for same in ("ImageUri", "ImageConfig", "Role", "VpcConfig", "LoggingConfig"):
        assert large[same] == worker[same]
    assert template["Resources"][LARGE]["Metadata"] == template["Resources"]["WorkerFunction"]["Metadata"]
    assert (large["MemorySize"], large["EphemeralStorage"]["Size"], large["Timeout"]) == (LARGE_MB, 10_240, 900)
    assert {name: value for name, value in variables.items() if name not in OWN} == others
    assert variables["SPARKLET_ENGINE"] == ENGINE
    assert (
        not {"Events", "SnapStart", "ProvisionedConcurrencyConfig"} & large.keys()
    )  # nothing is paid while it is idle


def test_a_stack_has_it_only_if_the_parameter_says_so(template: dict[str, Any]) -> None:
    parameter = template["Parameters"]["LargeFunction"]

    assert (parameter["Default"], parameter["AllowedValues"]) == ("no", ["no", "yes"])  # new accounts refuse its memory
    named = [name for name, body in template["Resources"].items() if f"{LARGE}." in json.dumps(body)]
    assert set(named) == {"LargeFunctionPolicy", "PlannerFunction", "CheckerFunction", "StepFunction"}
    for name in (LARGE, "LargeFunctionPolicy", "LargeWorkerFailsAlarm"):
        assert template["Resources"][name]["Condition"] == "HasLargeFunction"


def test_lambda_repeats_no_call_of_its() -> None:
    """The checker gives a shard out again; a call that comes late finds its shard done."""
    document = with_image(1)
    configs = of_type(document, "AWS::Lambda::EventInvokeConfig").values()
    (config,) = (each for each in configs if each["FunctionName"] == {"Ref": LARGE})

    assert (config["MaximumRetryAttempts"], config["MaximumEventAgeInSeconds"]) == (0, 900)
    assert config["Qualifier"] == "live"


def test_the_engine_is_first_and_calls_the_published_version(template: dict[str, Any]) -> None:
    variables = functions(template)["CheckerFunction"]["Environment"]["Variables"]
    _, own = variables["SPARKLET_ENGINES"]["Fn::Sub"]
    assert own == {"Large": {"Fn::If": ["HasLargeFunction", ALIAS, ""]}}

    given = {"Large": "arn:large:live", "MaximumConcurrency": "7", "GlueJobName": "shards"}
    named = engines({"SPARKLET_ENGINES": filled_in(variables["SPARKLET_ENGINES"], given)})
    made = engines_of(AwsClients(), named, {"SPARKLET_BUCKET": "runs"})

    assert list(made) == [ENGINE, "glue"]
    large = made[ENGINE]
    assert isinstance(large, LargeFunction)
    assert (large.function, large.at_once) == ("arn:large:live", 7)
