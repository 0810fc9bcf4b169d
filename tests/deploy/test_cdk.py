"""The CDK example: `cdk synth` of the packaged template leaves every resource as SAM makes it from our template."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from samtranslator.translator.transform import transform

from sparklet.local.deploy import Template
from sparklet.local.environment import REGION, applied, client_env
from tests.container.built_image import NotHereError
from tests.container.conftest import or_skipped
from tests.deploy.test_sam import NOT_TRIED, Sam
from tests.stand_ins.ministack import ministack
from tests.unit.template.reading import ROOT, of_type
from tests.waiting import deadline_s

MODULES = ROOT / ".venv-deploy" / "cdk" / "node_modules"
REPOSITORY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/sparklet"
PACKAGES = "packages-of-sam"
QUIET = {"CI": "true", "CDK_DISABLE_CLI_TELEMETRY": "true", "CDK_DISABLE_VERSION_CHECK": "true"}
WITHIN_S = deadline_s(40)
ITS_OWN = {"CDKMetadata", "Raw", "RawPolicy", "Nightly", "MachineEventsRole", "MachineEventsRoleDefaultPolicy"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the synthesized example, and the template that `sam package` made for it."""
    folder = tmp_path_factory.mktemp("cdk")
    shutil.copytree(ROOT / "examples" / "cdk", folder, dirs_exist_ok=True)
    with or_skipped(NOT_TRIED):
        if not MODULES.is_dir():
            raise NotHereError("there is no CDK: run `make deploy-venv` with npm first")
        with ministack(folder) as endpoint_url, applied(client_env(endpoint_url, "")):
            boto3.Session().client("s3").create_bucket(Bucket=PACKAGES)
            arguments = ("--template-file", "template.yaml", "--image-repository", REPOSITORY, "--s3-bucket", PACKAGES)
            output = ("--use-json", "--output-template-file", str(folder / "packaged.json"))
            Sam(folder, {"AWS_ENDPOINT_URL": endpoint_url}).run("package", *arguments, *output, within_s=WITHIN_S)
    (folder / "node_modules").symlink_to(MODULES)
    path = f"{MODULES / '.bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, **QUIET, "PATH": path, "HOME": str(folder)}
    command = ["cdk", "synth", "--quiet", "--no-notices"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def synthesized(folder: Path) -> Template:
    return _read(folder / "cdk.out" / "sparklet.template.json")


def _read(path: Path) -> Template:
    document: Template = json.loads(path.read_text())
    return document


def translated(template: Template) -> dict[str, Any]:
    """A SAM template after the transform; versions without digests, and `Ref` in place of `Fn::Sub` of one name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        done = transform(json.loads(json.dumps(template)), {"ImageUri": f"{REPOSITORY}:1"}, SimpleNamespace(load=dict))
    text = re.sub(r"(FunctionVersion)[0-9a-f]{10}", r"\1", json.dumps(done))
    document: dict[str, Any] = json.loads(re.sub(r'"Fn::Sub": "\$\{(\w+)\}"', r'"Ref": "\1"', text))
    return document


@pytest.mark.timeout(3 * WITHIN_S)
def test_the_stack_has_every_resource_of_the_template(folder: Path) -> None:
    ours, theirs = translated(_read(folder / "packaged.json")), translated(synthesized(folder))

    for section in ("Conditions", "Mappings", "Outputs", "Resources", "Rules"):
        for name, expected in ours[section].items():
            assert _plain(theirs[section].get(name)) == _plain(expected), (section, name)
    others = theirs["Resources"].keys() - ours["Resources"].keys()
    assert {re.sub(r"[0-9A-F]{8}$", "", name) for name in others} <= ITS_OWN


def _plain(node: Any) -> Any:
    """A node without CDK's Metadata; numbers and booleans are texts, as CloudFormation reads them."""
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, dict):
        return str(node).lower() if isinstance(node, bool) else str(node)
    return {key: _plain(value) for key, value in node.items() if key != "Metadata"}


@pytest.mark.timeout(3 * WITHIN_S)
def test_parameters_are_set_and_the_nightly_run_is_a_request(folder: Path) -> None:
    from sparklet.planning.plan_requests import run_request

    stack = synthesized(folder)
    [rule] = of_type(stack, "AWS::Events::Rule").values()
    [target] = rule["Targets"]
    text = "".join(part if isinstance(part, str) else "bucket" for part in target["Input"]["Fn::Join"][1])

    assert stack["Parameters"]["MaximumConcurrency"]["Default"] == 20
    assert "acme-raw" in stack["Parameters"]["ReadObjectArns"]["Default"]
    assert target["Arn"] == {"Ref": "RunMachine"}
    assert run_request(json.loads(text), "night").inputs == ("s3://acme-raw/sales/",)
