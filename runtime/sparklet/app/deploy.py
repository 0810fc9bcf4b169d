"""Deploys this installation's copy of ``sam/template.yaml`` without a checkout or SAM; the image is pushed before."""

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sparklet
from sparklet.errors import PlanError
from sparklet.job.bundle import packed
from sparklet.local.state import ACCOUNT

if TYPE_CHECKING:
    from sparklet.aws.change_sets import StackChanges

STACK = "sparklet"
LEFT_OUT = frozenset({"__pycache__", "starter", "template.yaml"})  # folders and files that functions do not need
NO_IMAGE = (
    "a new stack needs the worker's image: --image ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG, in a private "
    "repository of ECR in the stack's region (docs/guide/image.md)"
)


def propose_deployment(
    stack: str, image: str, parameters: Mapping[str, str], artifact_bucket_name: str = ""
) -> "StackChanges":
    """Return the changes that deploying this installation's template would make.

    The functions' code and the template are put into the bucket first. Parameters without a value here keep the values
    of the deployed stack.

    Raises
    ------
    PlanError
        For a parameter that the template does not have, and for a new stack without an image.
    SettingsError
        If AWS refuses a call, the template or a parameter's value.
    """
    from sparklet.aws.change_sets import artifact_bucket, deployed_parameters, propose, put_artifact
    from sparklet.aws.clients import AwsClients

    template, clients = packaged_template(), AwsClients()
    values = {**parameters, **({"ImageUri": image} if image else {})}
    for key in values.keys() - template["Parameters"].keys():
        close_matches = difflib.get_close_matches(key, template["Parameters"], 1)
        hint = f"; did you mean {close_matches[0]}?" if close_matches else ""
        raise PlanError(f"the template has no parameter {key}{hint}")
    deployed = deployed_parameters(clients, stack)
    if deployed is None and not values.get("ImageUri"):
        raise PlanError(NO_IMAGE)
    unchanged_parameters = dict.fromkeys(template["Parameters"].keys() & (deployed or {}).keys() - values.keys())
    bucket, account = artifact_bucket(clients, artifact_bucket_name)
    if account == ACCOUNT:
        template = for_local_stack(template, {**(deployed or {}), **values})
    code = zipped_code(Path(sparklet.__file__).parent)
    # CloudFormation compares names: with a digest in the name it updates functions exactly if their code has changed.
    code_key = f"sparklet/{_digest(code)}.zip"
    put_artifact(clients, bucket, account, code_key, code)
    body = json.dumps(with_code(template, bucket, code_key), sort_keys=True).encode()
    url = put_artifact(clients, bucket, account, f"sparklet/{_digest(body)}.json", body)
    return propose(clients, stack, url, {**unchanged_parameters, **values})


def packaged_template() -> dict[str, Any]:
    """Return the template of this installation; PlanError if a library to read it is missing."""
    from sparklet.local.deploy import load_template

    try:
        return load_template()
    except ModuleNotFoundError as error:
        raise PlanError(f"the template cannot be read without {error.name}: pip install 'sparklet[template]'") from None


def for_local_stack(template: dict[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """Return the template for the local stack, whose functions run this installation, not the image."""
    from sparklet.local.deploy import OF_THE_MACHINE, localise
    from sparklet.local.spark_installation import PASSED

    defaults = {name: str(definition.get("Default", "")) for name, definition in template["Parameters"].items()}
    return localise(template, {**defaults, **values}, {}, dict.fromkeys((*OF_THE_MACHINE, *PASSED), ""))


def with_code(template: Mapping[str, Any], bucket: str, key: str) -> Mapping[str, Any]:
    """Return the template with the functions' code in S3, and without the metadata that only SAM's build reads."""
    resources = {}
    for name, body in template["Resources"].items():
        resources[name] = resource = dict(body)
        properties = body.get("Properties", {})
        if "CodeUri" in properties:
            resource["Properties"] = {**properties, "CodeUri": {"Bucket": bucket, "Key": key}}
        if properties.get("PackageType") == "Image":
            resource.pop("Metadata", None)
    return {**template, "Resources": resources}


def zipped_code(package: Path) -> bytes:
    """Return a zip of the installed package, from which the planner, the checker and the dead-letter consumer run."""
    path_by_name = {path.relative_to(package.parent): path for path in package.rglob("*") if path.is_file()}
    path_by_kept_name = {
        name: path for name, path in path_by_name.items() if path.suffix != ".gz" and LEFT_OUT.isdisjoint(name.parts)
    }
    return packed({name.as_posix(): path for name, path in path_by_kept_name.items()})


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]
