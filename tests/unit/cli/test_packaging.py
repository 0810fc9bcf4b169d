"""``sparklet package`` makes a folder or layer from which a worker can import code and libraries."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sparklet.cli import main
from sparklet.cli.commands import deploying
from sparklet.model import LIBRARIES
from tests.unit.cli.conftest import Terminal


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A package, a module beside it, and a .pyc file that must not be packaged."""
    folder = tmp_path / "src"
    (folder / "shop" / "__pycache__").mkdir(parents=True)
    (folder / "shop" / "__init__.py").write_text("from shop.prices import price\n")
    (folder / "shop" / "prices.py").write_text("def price(): return 7\n")
    (folder / "shop" / "__pycache__" / "old.pyc").write_bytes(b"old")
    (folder / "tool.py").write_text("NAME = 'tool'\n")
    return folder


def imported(folder: Path, expression: str) -> str:
    """The value of an expression in a new Python that imports from this folder first."""
    module = expression.partition(".")[0]
    program = f"import sys; sys.path = [{str(folder)!r}, *sys.path]; import {module}; print({expression})"
    command = [sys.executable, "-I", "-c", program]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@pytest.mark.parametrize("which", ["folder", "package and module"])
def test_the_code_can_be_imported_from_the_package(code: Path, tmp_path: Path, which: str) -> None:
    given = [code] if which == "folder" else [code / "shop", code / "tool.py"]

    assert main(["package", *map(str, given), "-o", str(tmp_path / "out")]) == 0

    assert imported(tmp_path / "out" / "python", "shop.price()") == "7"
    assert imported(tmp_path / "out" / "python", "tool.NAME") == "tool"
    assert not list((tmp_path / "out").rglob("old.pyc"))
    assert "COPY python/ /opt/python/" in (tmp_path / "out" / "Dockerfile").read_text()


def test_a_layer_is_a_zip_with_lambdas_folder(code: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["package", str(code), "--as", "layer", "-o", str(tmp_path / "out"), "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    with zipfile.ZipFile(document["path"]) as layer:
        files = [info for info in layer.infolist() if not info.is_dir()]
    assert {"python/shop/prices.py", "python/tool.py"} <= {info.filename for info in files}
    assert document["size_bytes"] == sum(info.file_size for info in files)
    assert document["path"] in document["next"]


def test_requirements_are_installed_for_the_workers_platform(tmp_path: Path) -> None:
    """They come from a local wheel that only an ARM machine with Python 3.13 can use."""
    wheel = tmp_path / "stones-1.0-cp313-cp313-manylinux_2_28_aarch64.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("stones.py", "COLOUR = 'grey'\n")
        file.writestr("stones-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: stones\nVersion: 1.0\n")
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp313-cp313-manylinux_2_28_aarch64\n"
        file.writestr("stones-1.0.dist-info/WHEEL", tag)
        file.writestr("stones-1.0.dist-info/RECORD", "")
    (tmp_path / "requirements.txt").write_text(f"--no-index\n--find-links {tmp_path.as_uri()}\nstones==1.0\n")
    (tmp_path / "own.py").touch()
    own, needed, out = (str(tmp_path / name) for name in ("own.py", "requirements.txt", "out"))
    command = ["package", own, "-r", needed, "-o", out]

    assert main([*command, "--architecture", "x86_64", "--python", "3.13"]) == 1
    assert main([*command, "--architecture", "arm64", "--python", "3.11"]) == 1
    assert main([*command, "--architecture", "arm64", "--python", "3.13"]) == 0
    assert imported(tmp_path / "out" / "python", "stones.COLOUR") == "grey"


def test_a_layer_that_lambda_would_refuse_is_refused(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploying, "MAX_LAYER_BYTES", 10)

    assert main(["package", str(code), "--as", "layer", "-o", str(tmp_path / "out")]) == 1
    assert main(["package", str(code), "-o", str(tmp_path / "out")]) == 0


def test_missing_code_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["package", str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 1
    assert "none" in capsys.readouterr().err


def test_a_run_brings_the_libraries_of_its_requirements(terminal: Terminal, tmp_path: Path) -> None:
    """They come from a local wheel; equal libraries are stored as the same file."""
    with zipfile.ZipFile(tmp_path / "stones-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("stones/__init__.py", "COLOUR = 'grey'\n")
        wheel.writestr("stones-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: stones\nVersion: 1.0\n")
        wheel.writestr("stones-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("stones-1.0.dist-info/RECORD", "")
    (tmp_path / "requirements.txt").write_text(f"--no-index\n--find-links {tmp_path.as_uri()}\nstones==1.0\n")
    (tmp_path / "job.py").write_text("import stones\n")
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "a.csv").write_text("x\n1\n")
    command = ["run", "job.py", "-i", "in", "-o", "out", "--append", "--requirements", "requirements.txt", "--run-id"]

    assert terminal.types(*command, "first").code == 0
    assert terminal.types(*command, "second").code == 0

    (first,), (second,) = (terminal.world.ledger.runs.get(run_id).scripts[0].py_files for run_id in ("first", "second"))
    assert first.rpartition("/")[2] == LIBRARIES and first.split("/")[-2] == second.split("/")[-2]
    with zipfile.ZipFile(io.BytesIO(terminal.world.store.get(first))) as archive:
        assert "stones/__init__.py" in archive.namelist()


@pytest.mark.parametrize(
    ("line", "why"), [("--no-index\nabsent==1.0", "pip could not install"), (None, "there is no such file")]
)
def test_a_run_whose_libraries_cannot_be_installed_is_refused(
    terminal: Terminal, tmp_path: Path, line: str | None, why: str
) -> None:
    if line is not None:
        (tmp_path / "requirements.txt").write_text(line)
    (tmp_path / "job.py").write_text("print(1)\n")
    (tmp_path / "a.csv").write_text("x\n1\n")

    command = ["run", "job.py", "-i", "a.csv", "-o", "out", "--requirements", "requirements.txt"]
    refused = terminal.types(*command, "--run-id", "never")

    assert refused.code == 1 and why in refused.err
    assert terminal.world.deployment.known_run("never") is None
