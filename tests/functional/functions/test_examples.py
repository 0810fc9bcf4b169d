"""The examples of functions run as a user runs them: as programs, so that their functions are in ``__main__``."""

import math
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from examples.nested_map import primes_between
from examples.thumbnails import thumbnail
from tests.functional.local.conftest import make_lab
from tests.waiting import deadline_s

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(name: str, *arguments: str) -> str:
    """Run an example; return its output."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s(100), env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("backend", ["processes", "threads"])
def test_pi_is_estimated_by_many_workers(backend: str) -> None:
    output = run("monte_carlo_pi.py", "--tasks", "4", "--points", "20000", "--backend", backend)

    assert abs(float(output.split()[3]) - math.pi) < 0.05
    assert "'succeeded': 4" in output


def test_a_task_can_map_further_tasks() -> None:
    output = run("nested_map.py", "--ranges", "2", "--length", "1000")

    assert output.split() == ["0:", "168", "1000:", "135"]  # π(1000), π(2000) - π(1000)
    assert primes_between(0, 1000) == 168


def test_a_thumbnails_pixels_are_means() -> None:
    ppm = b"P6 4 2 255\n" + bytes([0, 10, 20] * 2 + [100, 0, 0] * 2) + bytes([2, 10, 20] * 2 + [50, 0, 0] * 2)

    png = thumbnail(ppm, width=2)

    body = zlib.decompress(png[png.index(b"IDAT") + 4 : png.index(b"IEND") - 8])
    assert (png[:8], png[16:24]) == (b"\x89PNG\r\n\x1a\n", bytes([0, 0, 0, 2, 0, 0, 0, 1]))
    assert body == bytes([0, 1, 10, 20, 75, 0, 0])
    with pytest.raises(ValueError, match="PPM"):
        thumbnail(b"GIF89a", 2)


@pytest.mark.stack
def test_a_model_is_trained_stored_and_used(tmp_path: Path) -> None:
    with make_lab(tmp_path) as lab, lab.attach() as stack:
        output = run("train_and_predict.py", f"s3://{stack.info.bucket}/models/iris.pickle")

    right, _, flowers, *_ = output.split()
    assert int(flowers) == 150 and int(right) > 140
