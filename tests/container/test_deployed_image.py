"""``sparklet deploy`` with the built image: the deployed worker is a container with the image's digest."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from sparklet.app import deploy
from sparklet.app.deploy import for_local_stack
from sparklet.cli import main
from sparklet.local.environment import applied, client_env
from tests.container.built_image import ROOT, BuiltImage
from tests.container.container import podman
from tests.stand_ins.ministack import ministack
from tests.waiting import deadline_s, eventually

OF_IMAGE = ("PackageType", "ImageUri", "ImageConfig")
# Packages for the stand-in alone: in this process the package docker would hide our folder docker.
OF_SDK = ("docker", "requests", "certifi", "charset_normalizer", "idna")
GATEWAY = "10.88.0.1"  # this machine, in podman's own network
LABEL = "label=ministack"
JOB = """\
from sparklet.job import Job
job = Job.from_args()
job.spark().read.csv(list(job.inputs), header=True).write.parquet(job.output)
"""


def with_image(whole: dict[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """The template as the stand-in accepts it; only the worker stays a function with an image, as on AWS."""
    template = for_local_stack(whole, values)
    worker = template["Resources"]["WorkerFunction"]["Properties"]
    for name in ("Runtime", "Handler", "InlineCode"):
        del worker[name]
    worker.update({name: whole["Resources"]["WorkerFunction"]["Properties"][name] for name in OF_IMAGE})
    return template


@pytest.fixture
def account(image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A stand-in for AWS that runs functions with images as containers, through Docker's API, which podman serves."""
    socket = tmp_path / "podman.sock"
    command = ["podman", "system", "service", "--time", "0", f"unix://{socket}"]
    flags = [*("--network", "bridge", "--add-host", f"host.docker.internal:{GATEWAY}")]
    flags += ["-v", f"{image.emulator}:/usr/local/bin/aws-lambda-rie:ro"]
    (sdk := tmp_path / "sdk").mkdir()
    for name in OF_SDK:
        (sdk / name).symlink_to(next((ROOT / ".venv-deploy").glob(f"lib/python*/site-packages/{name}")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(sdk), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
    monkeypatch.setenv("LAMBDA_DOCKER_FLAGS", " ".join(flags))
    monkeypatch.setattr(deploy, "for_local_stack", with_image)
    monkeypatch.setattr("sparklet.aws.change_sets.LOOKED_EVERY_S", 0.05)
    with subprocess.Popen(command, env=image.environ) as service:
        try:
            eventually(socket.exists)
            with ministack(tmp_path, address="0.0.0.0") as endpoint_url, applied(client_env(endpoint_url, "")):
                yield
        finally:
            if containers := podman(image, "ps", "--all", "--quiet", "--filter", LABEL).stdout.split():
                podman(image, "rm", "--force", *containers)
            service.terminate()
            service.wait(deadline_s())


@pytest.mark.usefixtures("account")
def test_a_run_on_the_deployed_stack_is_done_by_the_image(
    image: BuiltImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"{image.name.rpartition(':')[0]}@{image.document['digest']}"
    assert main(["deploy", "--image", uri, "--yes", "--json"]) == 0
    bucket = json.loads(capsys.readouterr().out)["outputs"]["BucketName"]
    boto3.client("s3").put_object(Bucket=bucket, Key="in/rows.csv", Body=b"a,b\n1,x\n2,y\n")
    (tmp_path / "job.py").write_text(JOB)

    places = ["--input", f"s3://{bucket}/in/", "--output", f"s3://{bucket}/out/"]
    code = main(["run", str(tmp_path / "job.py"), *places, "--stack", "sparklet", "--json"])

    document = json.loads(capsys.readouterr().out)
    assert (code, document["state"]) == (0, "SUCCEEDED"), document
    [container] = podman(image, "ps", "--quiet", "--filter", LABEL).stdout.split()
    digest = podman(image, "inspect", "--format", "{{.ImageDigest}}", container).stdout.strip()
    assert digest == image.document["digest"]
