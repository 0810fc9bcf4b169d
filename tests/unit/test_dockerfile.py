"""What docker/Dockerfile promises whoever builds it, read without building."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"


def stages() -> dict[str, tuple[str, list[str]]]:
    """By name, in the file's order: what a stage is built from, and its instructions; the last is the image."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in DOCKERFILE.read_text().replace("\\\n", "").splitlines():
        if start := re.match(r"FROM (\S+)(?: AS (\w+))?", line):
            found[start[2] or "image"] = (start[1], [])
        elif found and line and not line.startswith("#"):
            found[list(found)[-1]][1].append(line)
    return found


def test_no_file_of_the_image_has_the_modes_of_a_checkout() -> None:
    """Where the umask was 077 Lambda's user could not read it."""
    every = stages()
    base, image = every["image"]
    while base in every:
        base, below = every[base]
        image += below
    from_checkout = [line for line in image if line.startswith("COPY ") and "--from" not in line]
    assert from_checkout == ["COPY docker/packages.sh /tmp/"]  # which root runs

    taken = [line.split()[2] for line in image if line.startswith("COPY --from=code")]
    own = every["code"][1]
    (made_readable,) = [index for index, line in enumerate(own) if line.startswith("RUN chmod -R u=rwX,go=rX ")]
    assert len(taken) == 4
    assert all(path.startswith(tuple(own[made_readable].split()[4:])) for path in taken)
    assert not any(line.startswith("COPY ") for line in own[made_readable:])
