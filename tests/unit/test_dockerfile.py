"""Rules that docker/Dockerfile must follow, checked without a build."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from docker import build

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"


def stages() -> dict[str, tuple[str, list[str]]]:
    """By name, in the file's order, each stage's base and instructions; the last stage is the image."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in DOCKERFILE.read_text().replace("\\\n", "").splitlines():
        if start := re.match(r"FROM (\S+)(?: AS (\w+))?", line):
            found[start[2] or "image"] = (start[1], [])
        elif found and line and not line.startswith("#"):
            found[list(found)[-1]][1].append(line)
    return found


def test_no_file_of_the_image_has_the_modes_of_a_checkout() -> None:
    """With an umask of 077 in the checkout, Lambda's user could not read such files."""
    every = stages()
    base, image = every["image"]
    while base in every:
        base, below = every[base]
        image += below
    from_checkout = [line for line in image if line.startswith("COPY ") and "--from" not in line]
    assert from_checkout == ["COPY docker/packages.sh /tmp/"]  # run by root

    taken = [line.split()[2] for line in image if line.startswith("COPY --from=code")]
    own = every["code"][1]
    (made_readable,) = [index for index, line in enumerate(own) if line.startswith("RUN chmod -R u=rwX,go=rX ")]
    assert len(taken) == 4
    assert all(path.startswith(tuple(own[made_readable].split()[4:])) for path in taken)
    assert not any(line.startswith("COPY ") for line in own[made_readable:])


def test_a_build_gets_this_machines_mirrors_and_no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mirrors = {"SPARKLET_MAVEN_MIRROR": "https://maven.example/", "PIP_INDEX_URL": "https://pypi.example/simple"}
    given = {**mirrors, "HTTPS_PROXY": "http://proxy.example:3128", "SPARKLET_CACHE_DIR": str(tmp_path)}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    asked, commands = build.parse([]), list[tuple[object, ...]]()
    asked.frameworks = "delta"
    monkeypatch.setattr(build.Engine, "stream", lambda self, what, log, show, *command: commands.append(command))

    build.build(build.Engine(tmp_path), build.Clock(), asked, "base@sha256:ab", "")

    [command] = commands
    words = dict(str(value).split("=", 1) for option, value in pairwise(command) if option == "--build-arg")
    assert words.items() >= mirrors.items() and words["BASE_IMAGE"] == "base@sha256:ab"
    assert not any(
        "proxy" in word.lower() for word in words
    )  # buildah passes it; an argument's name stays in the image
    declared = set(re.findall(r"^ARG (\w+)=", DOCKERFILE.read_text(), re.MULTILINE))
    assert mirrors.keys() <= declared
