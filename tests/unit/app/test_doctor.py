"""``sparklet doctor``: a fresh installation has no fault, and an image that Lambda would refuse is found."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparklet.app.doctor import Finding, examine, examine_image
from sparklet.aws.clients import AwsClients
from sparklet.errors import SettingsError

URI = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/sparklet"


def of(what: str, state: Path) -> Finding:
    return next(finding for finding in examine(state) if finding.check == what)


@pytest.mark.parametrize("what", ["jars", "emulator of AWS"])
def test_a_fresh_installation_is_well(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the doctor reported "cannot be had … this is offline mode" before anything was fetched."""
    monkeypatch.setenv("SPARKLET_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("SPARKLET_OFFLINE", raising=False)

    assert of(what, tmp_path).good and "the first run fetches" in of(what, tmp_path).found
    monkeypatch.setenv("SPARKLET_OFFLINE", "1")
    assert not of(what, tmp_path).good and "offline" in of(what, tmp_path).found


# --- images that Lambda would refuse ---


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        ("application/vnd.docker.distribution.manifest.v2+json", True),
        ("application/vnd.oci.image.manifest.v1+json", True),
        ("application/vnd.oci.image.index.v1+json", False),
        ("application/vnd.docker.distribution.manifest.list.v2+json", False),
    ],
)
def test_a_list_of_images_is_not_an_image(monkeypatch: pytest.MonkeyPatch, kind: str, good: bool) -> None:
    asked: list[Any] = []

    def describe_images(**given: Any) -> Any:
        asked.append(given)
        return {"imageDetails": [{"imageManifestMediaType": kind}]}

    monkeypatch.setattr(AwsClients, "ecr", SimpleNamespace(describe_images=describe_images), raising=False)

    finding = examine_image(f"{URI}:7")

    assert finding.good is good
    assert good or all(option in finding.remedy for option in ("--provenance=false", "without --use-buildkit"))
    assert asked == [{"registryId": "123456789012", "repositoryName": "team/sparklet", "imageIds": [{"imageTag": "7"}]}]


def test_an_image_elsewhere_cannot_be_examined() -> None:
    with pytest.raises(SettingsError, match="not an image in ECR"):
        examine_image("docker.io/library/python:3")
