"""SAM's own tools on the templates: validate, and build through podman.

If a tool is missing, its tests are skipped with the reason; with REQUIRE_IMAGE=1 (CI) they fail, as in tests/container.
"""

import json
import os
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import pytest
import yaml
from platformdirs import user_cache_path

from sparklet.local.environment import REGION
from sparklet.local.state import ACCOUNT
from tests.container.built_image import BuiltImage, NotHereError, built_image
from tests.container.conftest import or_skipped
from tests.container.test_image import podman
from tests.deploy.podman_api import podman_api
from tests.unit.template.reading import ROOT
from tests.waiting import deadline_s

SAM = ROOT / ".venv-deploy" / "bin" / "sam"
PACK = """\
import sys
from samcli.lib.package.utils import make_zip_with_lambda_permissions
make_zip_with_lambda_permissions(*sys.argv[1:])
"""
NOT_TRIED = "SAM is NOT tried"
BUILD_S, INVOKE_S = deadline_s(200), deadline_s(40)


@dataclass(frozen=True)
class Sam:
    """SAM's command line with its own environment variables: without real credentials, telemetry or user settings."""

    folder: Path
    env: Mapping[str, str]

    def run(self, *arguments: str, within_s: float = deadline_s(20)) -> str:
        """Run a command of SAM and return its output; if it fails, the assertion shows the output."""
        if not SAM.is_file():
            raise NotHereError("there is no SAM: run `make deploy-venv` first")
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
            "HOME": str(self.folder),
            "SAM_CLI_TELEMETRY": "0",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": "local",
            **self.env,
        }
        done = subprocess.run(
            [SAM, *arguments], cwd=ROOT / "sam", env=env, capture_output=True, text=True, timeout=within_s, check=False
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sam")


@pytest.fixture(scope="module")
def image() -> BuiltImage:
    """The image that `make image` built; SAM's build has the same base and layers."""
    with or_skipped(NOT_TRIED):
        return built_image()
    raise AssertionError("unreachable")


@pytest.fixture(scope="module")
def built(image: BuiltImage, folder: Path) -> Iterator[dict[str, Any]]:
    """The template that `sam build` makes of ours, with podman in place of Docker and the image's parameters."""
    cache = Path(os.environ.get("SPARKLET_CACHE_DIR") or user_cache_path("sparklet"))
    frameworks = ",".join(image.document["frameworks"])
    parameters = f"BaseImage={image.document['base']} Stack={image.document['stack']} Frameworks={frameworks}"
    arguments = ("--build-dir", str(folder / "built"), "--parameter-overrides", parameters)
    with podman_api(image.engine_env, cache, folder) as env, (ROOT / "build" / "image" / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        Sam(folder, env).run("build", *arguments, within_s=BUILD_S)
    template = yaml.safe_load((folder / "built" / "template.yaml").read_text())
    yield template
    podman(image, "rmi", "--force", template["Resources"]["WorkerFunction"]["Properties"]["ImageUri"])


def test_sam_packs_files_so_that_every_user_can_read_them(tmp_path: Path) -> None:
    """Lambda's user is not the builder; for the image, a build stage sets the permissions."""
    closed = tmp_path / "code" / "package"
    closed.mkdir(parents=True)
    (closed / "module.py").write_text("")
    (closed / "module.py").chmod(0o600)
    closed.chmod(0o700)
    with or_skipped(NOT_TRIED):
        if not SAM.is_file():
            raise NotHereError("there is no SAM: run `make deploy-venv` first")
        subprocess.run([SAM.with_name("python"), "-c", PACK, tmp_path / "packed", closed.parent], check=True)

    with zipfile.ZipFile(tmp_path / "packed.zip") as packed:
        assert {entry.filename: entry.external_attr >> 16 & 0o777 for entry in packed.infolist()} == {
            "package/module.py": 0o644
        }


@pytest.mark.timeout(BUILD_S + INVOKE_S)
def test_sam_builds_the_worker_image_and_packs_the_functions(
    built: dict[str, Any], image: BuiltImage, folder: Path
) -> None:
    name = built["Resources"]["WorkerFunction"]["Properties"]["ImageUri"]

    [by_sam] = json.loads(podman(image, "image", "inspect", name))
    assert (by_sam["Config"]["User"], by_sam["Config"]["Entrypoint"]) == ("993:990", ["/opt/sparklet/entrypoint"])
    [by_make] = json.loads(podman(image, "image", "inspect", image.name))
    assert by_sam["RootFS"] == by_make["RootFS"], "not the layers that `make image` built"
    assert (folder / "built" / built["Resources"]["RunMachine"]["Properties"]["DefinitionUri"]).is_file()
    for function in ("PlannerFunction", "DlqConsumerFunction", "CheckerFunction", "StepFunction"):
        properties = built["Resources"][function]["Properties"]
        code = folder / "built" / properties["CodeUri"]
        assert code.joinpath(*properties["Handler"].split(".")[:-1]).with_suffix(".py").is_file(), function
        assert not list(code.rglob("__pycache__")), (
            f"{function}: what differs by machine would publish versions for nothing"
        )
