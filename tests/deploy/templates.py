"""The project's templates as CloudFormation gets them: short forms written out, SAM's resources expanded."""

import copy
from types import SimpleNamespace

import pytest
from samtranslator.translator.transform import transform

from sparklet.local.local_template import Template
from tests.unit.template.reading import SAM, TEMPLATES, of_type

ROOT = SAM.parent


def expanded(name: str, **parameters: str) -> Template:
    """The template after SAM's transform, with these parameters and the others as by default."""
    template = copy.deepcopy(TEMPLATES[name])
    for function in of_type(template, "AWS::Serverless::Function").values():
        if "CodeUri" in function:
            function["CodeUri"] = "s3://packed/function.zip"  # as `sam deploy` leaves it
    for machine in of_type(template, "AWS::Serverless::StateMachine").values():
        machine["DefinitionUri"] = "s3://packed/machine.json"
    defaults = {name: str(body.get("Default", name)) for name, body in template["Parameters"].items()}
    no_managed_policies = SimpleNamespace(load=dict)  # where SAM looks them up by name; the templates name none
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        done: Template = transform(template, {**defaults, **parameters}, no_managed_policies)
    return done
