"""sam/image-builder.yaml as deployed into the stand-in, which builds nothing."""

from collections.abc import Iterator
from typing import Any

import pytest

from sparklet.local.environment import adopted, of_client
from tests.functional.api.conftest import ROOT, client, stack
from tests.stand_ins.ministack import ministack

pytestmark = pytest.mark.stack

PARAMETERS = {"SourceBucket": "sources", "Architecture": "arm64", "Extras": "avro", "ImmutableTags": "true"}


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The stack's outputs, in a stand-in of its own: it starts sooner than the one with all the others."""
    client.cache_clear()
    with ministack(tmp_path_factory.mktemp("builder")) as endpoint, adopted(of_client(endpoint, "")):
        yield stack("sparklet-image", (ROOT / "sam" / "image-builder.yaml").read_text(), PARAMETERS)


def test_the_project_builds_what_was_asked_for_on_a_machine_of_that_kind(builder: dict[str, str]) -> None:
    (project,) = client("codebuild").batch_get_projects(names=[builder["ProjectName"]])["projects"]

    machine = project["environment"]
    assert (machine["type"], machine["privilegedMode"]) == ("ARM_CONTAINER", True)
    given = {variable["name"]: variable["value"] for variable in machine["environmentVariables"]}
    assert (given["STACK"], given["EXTRAS"], given["PLATFORM"]) == ("spark-3.5", "avro", "linux/arm64")
    assert given["REPOSITORY"] == builder["RepositoryUri"]
    assert (project["source"]["type"], project["source"]["location"]) == ("S3", "sources/source.zip")


def test_what_was_pushed_is_scanned_never_replaced_and_not_kept_for_ever(builder: dict[str, str]) -> None:
    found: Any = client("ecr").describe_repositories(repositoryNames=["sparklet"])["repositories"][0]

    assert found["imageTagMutability"] == "IMMUTABLE"
    assert found["imageScanningConfiguration"] == {"scanOnPush": True}
    assert "imageCountMoreThan" in client("ecr").get_lifecycle_policy(repositoryName="sparklet")["lifecyclePolicyText"]
    assert builder["ImageUri"] == f"{builder['RepositoryUri']}:spark-3.5-arm64-1"


def test_the_end_of_the_stack_starts_the_build(builder: dict[str, str]) -> None:
    (rule,) = (r for r in client("events").list_rules()["Rules"] if "CloudFormation" in r.get("EventPattern", ""))
    (target,) = client("events").list_targets_by_rule(Rule=rule["Name"])["Targets"]

    assert target["Arn"].endswith(f":project/{builder['ProjectName']}")
    assert "StartRole" in target["RoleArn"]
