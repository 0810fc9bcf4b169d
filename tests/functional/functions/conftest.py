"""sam/functions.yaml, deployed together with the main template in a local stack."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparklet.local.deploy import localise, parse_template, to_json
from tests.functional.local.conftest import Lab, make_lab
from tests.stand_ins.formation import deploy

ROOT = Path(__file__).resolve().parents[3]
STACK = "sparklet-functions"
TIMEOUT_S = 60


@dataclass
class Functions:
    """The deployed functions, and a folder into which they can write."""

    lab: Lab
    outputs: Mapping[str, str]
    ids: Mapping[str, str]
    shown: Path


def functions_template(parameters: Mapping[str, str]) -> str:
    """The template adapted to the stand-in, which would compare texts with numbers."""
    template = parse_template((ROOT / "sam" / "functions.yaml").read_text())
    return to_json(localise(template, parameters, {}, {}))


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Functions]:
    with deployed_functions(tmp_path_factory.mktemp("functions")) as functions:
        yield functions


@contextmanager
def deployed_functions(folder: Path, modules: str = "tests.*") -> Iterator[Functions]:
    """Deploy both stacks for the block; meanwhile this process's AWS settings point to them."""
    with make_lab(folder) as lab, lab.attach() as stack:
        parameters = {
            "ImageUri": "local",
            "FunctionTimeoutS": str(TIMEOUT_S),
            "Codec": "pickle",
            "ModulePatterns": modules,
            "ExistingBucketName": stack.info.bucket,
            "ExistingLedgerTable": stack.info.ledger_table,
        }
        deployed = deploy(STACK, functions_template(parameters), parameters)
        yield Functions(lab, deployed.outputs, deployed.ids, lab.shown)
