"""The engine lambda-large: the worker's function with another size, and who may call it."""

import json

from sparklet.aws.clients import AwsClients
from sparklet.engines.create import engines_of
from sparklet.engines.lambda_large import LargeFunction
from sparklet.model.options import LARGE as ENGINE
from sparklet.model.options import LARGE_MB
from tests.unit.template.reading import LARGE, MAIN, functions, named_engines, variables

OWN = {"SPARKLET_ENGINE", "SPARKLET_METRICS_NAMESPACE", "SPARKLET_HEAP_MB", "SPARKLET_CORES"}


def test_the_large_function_is_a_worker_of_lambdas_maximum_size() -> None:
    worker, large = (functions(MAIN)[name] for name in ("WorkerFunction", LARGE))
    own = variables(LARGE)

    for same in ("ImageUri", "ImageConfig", "Role", "LoggingConfig"):
        assert large[same] == worker[same]
    assert MAIN["Resources"][LARGE]["Metadata"] == MAIN["Resources"]["WorkerFunction"]["Metadata"]
    assert (large["MemorySize"], large["EphemeralStorage"]["Size"], large["Timeout"]) == (LARGE_MB, 10_240, 900)
    assert {name: own[name] for name in own.keys() - OWN} == variables("WorkerFunction")
    assert own["SPARKLET_ENGINE"] == ENGINE
    assert not {"Events", "SnapStart", "ProvisionedConcurrencyConfig"} & large.keys()  # idle, it costs nothing


def test_the_large_function_exists_only_if_its_parameter_is_set() -> None:
    parameter = MAIN["Parameters"]["LargeFunction"]

    assert (parameter["Default"], parameter["AllowedValues"]) == ("no", ["no", "yes"])  # new accounts refuse its memory
    named = [name for name, body in MAIN["Resources"].items() if f"{LARGE}." in json.dumps(body)]
    assert set(named) == {"LargeFunctionPolicy", "PlannerFunction", "CheckerFunction", "StepFunction"}
    for name in (LARGE, "LargeFunctionPolicy", "LargeWorkerFailsAlarm"):
        assert MAIN["Resources"][name]["Condition"] == "HasLargeFunction"


def test_the_engine_is_first_and_calls_the_published_version() -> None:
    given = {"LargeFunction": "yes", f"{LARGE}.Alias": "arn:large:live", "MaximumConcurrency": "7"}

    made = engines_of(AwsClients(), named_engines(**given, GlueJobName="shards"), {"SPARKLET_BUCKET": "runs"})

    assert list(made) == [ENGINE, "glue"]
    large = made[ENGINE]
    assert isinstance(large, LargeFunction)
    assert (large.function, large.at_once) == ("arn:large:live", 7)
