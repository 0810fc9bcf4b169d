"""checkov's findings in the stacks, with default and with the strictest parameters: every finding has a reason."""

import json
import os
import subprocess
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.deploy.settings import IMAGE, NETWORK, SCHEDULED, STACK_KEY, TASKS
from tests.deploy.simulation import Setting, World
from tests.stand_ins.engines import OF_REGION
from tests.unit.template.reading import ROOT, TEMPLATES

CHECKOV = ROOT / ".venv-checkov" / "bin" / "checkov"  # make checkov-venv
TRIAGE = tomllib.loads(Path(__file__).with_name("checkov.toml").read_text())
NEEDED: Setting = {  # the parameters without defaults
    "template.yaml": {},
    "functions.yaml": IMAGE,
    "fargate.yaml": TASKS,
    "image-builder.yaml": {},
    "api.yaml": {},
    "schedule.yaml": SCHEDULED,
    "streams.yaml": {"StreamArn": f"arn:aws:kinesis:{OF_REGION}:stream/clicks"},
}
STRICT: Mapping[str, str] = {
    **NETWORK,
    "KmsKeyArn": STACK_KEY,
    "VpcId": "vpc-1",
    "ReserveConcurrency": "yes",
    "ReservedConcurrency": "5",
    "AccessLogDays": "365",
}
Findings = set[tuple[str, str]]  # check, template:logical id


def findings(folder: Path, setting: Setting) -> Findings:
    """checkov's findings in the stacks of a setting."""
    for name, stack in World(setting).stacks.items():
        resources = {
            logical_id: {"Type": body["Type"], "Properties": {key: body[key] for key in body if key != "Type"}}
            for logical_id, body in stack.resources.items()
        }
        (folder / f"{name}.json").write_text(json.dumps({"Resources": resources}))
    done = subprocess.run(
        [CHECKOV, "-d", folder, "--framework", "cloudformation", "-o", "json", "--quiet", "--skip-download"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "LOG_LEVEL": "ERROR"},
        check=False,
    )
    answer = json.loads(done.stdout)
    summary = answer["summary"]
    assert summary["passed"] > 200 and summary["resource_count"] > 120 and not summary["parsing_errors"], summary
    return {
        (
            each["check_id"],
            f"{each['file_path'].strip('/').removesuffix('.json')}:{each['resource'].rpartition('.')[2]}",
        )
        for each in answer["results"]["failed_checks"]
    }


def has_reason(check: str, resource: str) -> bool:
    """Whether checkov.toml has a reason why a finding stays."""
    return any(
        check == each["check"] and any(fnmatchcase(resource, on) for on in each["on"]) for each in TRIAGE["stands"]
    )


def test_findings_with_the_strictest_parameters_have_a_reason(tmp_path: Path) -> None:
    strict = {
        name: needed | {key: STRICT[key] for key in STRICT if key in TEMPLATES[name]["Parameters"]}
        for name, needed in NEEDED.items()
    }
    found = findings(tmp_path, strict)

    assert {each for each in found if not has_reason(*each)} == set()
    for each in TRIAGE["stands"]:
        for on in each["on"]:
            assert any(check == each["check"] and fnmatchcase(name, on) for check, name in found), f"{on} is clean now"


def test_other_findings_with_defaults_are_cured_by_parameters(tmp_path: Path) -> None:
    found = {check for check, name in findings(tmp_path, NEEDED) if not has_reason(check, name)}

    assert found == TRIAGE["answered"].keys()


@pytest.mark.parametrize("name", TRIAGE["answered"])
def test_answers_name_parameters(name: str) -> None:
    parameters = {parameter for template in TEMPLATES.values() for parameter in template["Parameters"]}
    assert parameters & {word.strip(",:;") for word in TRIAGE["answered"][name].split()}
