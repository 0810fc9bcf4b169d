"""sam/image-builder.yaml: its build commands are run with fakes of docker and aws that record their calls."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.unit.template.reading import ROOT, SAM, TEMPLATES, properties
from tests.waiting import deadline_s

TEMPLATE = TEMPLATES["image-builder.yaml"]
PROJECT = properties(TEMPLATE, "Build")
VARIABLES = {each["Name"]: each["Value"] for each in PROJECT["Environment"]["EnvironmentVariables"]}
PHASES = yaml.safe_load(PROJECT["Source"]["BuildSpec"])["phases"]
URI = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/sparklet"
ENVIRONMENT = {
    "REPOSITORY": URI,
    "REPOSITORY_NAME": "sparklet",
    "STACK": "spark-3.5",
    "FRAMEWORKS": "delta,iceberg",
    "EXTRAS": "",
    "EXTRA_COORDINATES": "",
    "BASE_IMAGE": "",
    "ARCHITECTURE": "arm64",
    "PLATFORM": "linux/arm64",
    "IMMUTABLE": "true",
    **dict.fromkeys(("HTTPS_PROXY", "NO_PROXY", "SPARKLET_MAVEN_MIRROR", "PIP_INDEX_URL"), ""),
    "CODEBUILD_BUILD_NUMBER": "7",
    "CODEBUILD_BUILD_SUCCEEDING": "1",
}
RECORDING_FAKE = """\
#!/bin/bash
printf '%s\\n' "$(printf '%s\\t' "${0##*/}" "$@")" >>"$NOTES"
case "$1 $2" in
  "buildx version") exit "${NO_BUILDX:-0}" ;;
  "ecr batch-get-image") printf '%s\\tsha256:abc\\n' "$PUSHED" ;;
esac
[ "$1" != "${FAILS:-}" ]
"""


@dataclass
class Bench:
    """A folder with fakes of docker and aws, in which the build's phases run."""

    folder: Path

    def run(self, *phases: str, **environment: str) -> tuple[int, list[list[str]], str]:
        """Run phases as CodeBuild does, in one shell. Return the exit code, the recorded calls, and the output."""
        commands = [command for phase in phases for command in PHASES[phase]["commands"]]
        script = "\n".join(f"{command.rstrip()}\n[ $? = 0 ] || exit 1" for command in commands)
        script += '\necho "exported: $IMAGE_URI $IMAGE_DIGEST"'
        notes = self.folder / "notes"
        path = f"{self.folder}{os.pathsep}{os.environ['PATH']}"
        pushed = "application/vnd.docker.distribution.manifest.v2+json"
        given = {**ENVIRONMENT, "PATH": path, "NOTES": str(notes), "PUSHED": pushed, **environment}
        done = subprocess.run(["bash", "-c", script], env=given, capture_output=True, text=True, timeout=deadline_s())
        lines = notes.read_text().splitlines() if notes.exists() else []
        return done.returncode, [line.rstrip("\t").split("\t") for line in lines], done.stdout + done.stderr


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    for name in ("docker", "aws"):
        (tmp_path / name).write_text(RECORDING_FAKE)
        (tmp_path / name).chmod(0o755)
    return Bench(tmp_path)


def built(calls: list[list[str]]) -> list[str]:
    (arguments,) = (call[2:] for call in calls if call[:2] == ["docker", "build"])
    return arguments


def build_args(calls: list[list[str]]) -> dict[str, str]:
    given = [value for option, value in pairwise(built(calls)) if option == "--build-arg"]
    return dict(argument.split("=", 1) for argument in given)


def test_one_image_without_attestations_is_pushed_and_announced(bench: Bench) -> None:
    code, calls, output = bench.run("pre_build", "build", "post_build")

    assert code == 0, output
    assert ["docker", "login", "--username", "AWS", "--password-stdin", URI.partition("/")[0]] in calls
    arguments = built(calls)
    assert {"--provenance=false", "--sbom=false"} <= set(arguments)
    assert arguments[arguments.index("--platform") + 1] == "linux/arm64"
    assert arguments[-1] == "."
    assert ["docker", "push", f"{URI}:spark-3.5-arm64-7"] in calls
    assert f"exported: {URI}:spark-3.5-arm64-7 sha256:abc" in output


def test_every_parameter_reaches_the_dockerfile(bench: Bench) -> None:
    chosen = {"EXTRAS": "avro,kafka", "BASE_IMAGE": "mine/base@sha256:ab", "EXTRA_COORDINATES": "a:b:1,c:d:2"}
    chosen |= {"SPARKLET_MAVEN_MIRROR": "https://maven.example/", "PIP_INDEX_URL": "https://pypi.example/simple"}
    assert VARIABLES.keys() == ENVIRONMENT.keys() - {"CODEBUILD_BUILD_NUMBER", "CODEBUILD_BUILD_SUCCEEDING"}

    code, calls, output = bench.run("build", **chosen)

    assert code == 0, output
    assert build_args(calls) == {"STACK": "spark-3.5", "FRAMEWORKS": "delta,iceberg", **chosen}
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    assert [name for name in build_args(calls) if f"ARG {name}=" not in dockerfile] == []


def test_proxy_settings_are_passed_as_build_arguments(bench: Bench) -> None:
    """Docker knows these arguments without a line in the Dockerfile, and keeps them out of the image."""
    proxy, no_proxy = "http://proxy.example:3128", ".amazonaws.com"

    _, calls, _ = bench.run("build", HTTPS_PROXY=proxy, NO_PROXY=no_proxy)

    given = build_args(calls)
    assert [given[name] for name in ("HTTPS_PROXY", "https_proxy", "http_proxy")] == [proxy] * 3
    assert given["NO_PROXY"] == given["no_proxy"] == no_proxy


def test_without_a_base_parameter_the_default_is_used(bench: Bench) -> None:
    _, calls, _ = bench.run("build")

    assert "BASE_IMAGE" not in build_args(calls)


def test_an_old_builder_is_not_passed_attestation_options(bench: Bench) -> None:
    code, calls, output = bench.run("build", NO_BUILDX="1")

    assert code == 0, output
    assert "--provenance=false" not in built(calls)


def test_a_moving_tag_is_pushed_only_if_tags_are_mutable(bench: Bench) -> None:
    _, calls, _ = bench.run("build")
    assert sum(call[:2] == ["docker", "push"] for call in calls) == 1

    code, calls, _ = bench.run("build", IMMUTABLE="false")
    assert code == 0
    assert calls[-1] == ["docker", "push", f"{URI}:spark-3.5-arm64"]


MANIFESTS = "application/vnd.docker.distribution.manifest"


@pytest.mark.parametrize(
    ("phase", "given", "accepted"),
    [
        ("build", {"FAILS": "build"}, False),
        ("build", {"FAILS": "push"}, False),
        ("post_build", {"PUSHED": f"{MANIFESTS}.v2+json"}, True),
        ("post_build", {"PUSHED": "application/vnd.oci.image.manifest.v1+json"}, True),
        ("post_build", {"PUSHED": "application/vnd.oci.image.index.v1+json"}, False),  # Lambda would refuse it
        ("post_build", {"PUSHED": f"{MANIFESTS}.list.v2+json"}, False),
        ("post_build", {"PUSHED": "None"}, False),
    ],
)
def test_failed_steps_and_images_unfit_for_lambda_fail_the_build(
    bench: Bench, phase: str, given: dict[str, str], accepted: bool
) -> None:
    code, _, output = bench.run(phase, **given)

    assert (code == 0) is accepted, output


def test_a_failed_build_announces_nothing(bench: Bench) -> None:
    code, calls, _ = bench.run("post_build", CODEBUILD_BUILD_SUCCEEDING="0")

    assert code != 0
    assert calls == []


def test_every_variable_of_the_commands_is_defined() -> None:
    assert VARIABLES.keys() == {name for name in ENVIRONMENT if not name.startswith("CODEBUILD")}


def test_images_are_scanned_expire_and_outlive_the_stack() -> None:
    repository = TEMPLATE["Resources"]["Repository"]
    text = repository["Properties"]["LifecyclePolicy"]["LifecyclePolicyText"]["Fn::Sub"]

    assert repository["DeletionPolicy"] == "RetainExceptOnCreate"
    assert repository["Properties"]["ImageScanningConfiguration"] == {"ScanOnPush": True}
    assert [rule["rulePriority"] for rule in json.loads(text.replace("${KeptImages}", "10"))["rules"]] == [1, 2]


def test_the_builder_may_push_to_its_own_repository_only() -> None:
    policy, network = properties(TEMPLATE, "BuildRole")["Policies"]
    assert network["Fn::If"][0] == "HasVpc"
    statements = policy["PolicyDocument"]["Statement"]
    [pushes_to] = [s["Resource"]["Fn::If"] for s in statements if "ecr:PutImage" in s.get("Action", ())]

    assert [s["Action"] for s in statements if s.get("Resource") == "*"] == ["ecr:GetAuthorizationToken"]
    assert pushes_to[:2] == ["HasOwnRepository", {"Fn::GetAtt": ["Repository", "Arn"]}]
    assert pushes_to[2]["Fn::Sub"].endswith(":repository/${ExistingRepositoryName}")


def test_an_existing_repository_can_be_used() -> None:
    """An earlier stack leaves its repository, whose name cannot be used for a new one."""
    assert TEMPLATE["Resources"]["Repository"]["Condition"] == "HasOwnRepository"
    assert VARIABLES["REPOSITORY_NAME"]["Fn::If"][2] == {"Ref": "ExistingRepositoryName"}
    assert VARIABLES["REPOSITORY"]["Fn::If"][2]["Fn::Sub"].endswith("/${ExistingRepositoryName}")


def test_a_build_starts_only_when_the_stack_is_complete() -> None:
    rule = TEMPLATE["Resources"]["StartRule"]

    assert rule["Condition"] == "StartsAtOnce"
    assert rule["Properties"]["EventPattern"]["detail"] == {
        "stack-id": [{"Ref": "AWS::StackId"}],
        "status-details": {"status": ["CREATE_COMPLETE", "UPDATE_COMPLETE"]},
    }


def test_an_extra_coordinate_may_have_a_digest() -> None:
    allowed = re.compile(TEMPLATE["Parameters"]["ExtraCoordinates"]["AllowedPattern"])

    assert allowed.fullmatch(f"org.x:y_2.12:1.0={'0f' * 32},org.x:z:2")
    assert not allowed.fullmatch("org.x:y:1.0 && id")


def test_privileges_are_the_builders_alone() -> None:
    others = [path for path in SAM.glob("*.yaml") if "PrivilegedMode" in path.read_text()]

    assert PROJECT["Environment"]["PrivilegedMode"] is True
    assert [path.name for path in others] == ["image-builder.yaml"]
