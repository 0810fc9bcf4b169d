"""Modules that a script imports from its own folder are stored with the script, as Python would find them."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparklet.errors import PlanError
from sparklet.planning import new_run
from sparklet.planning.new_run import modules_beside

FILES = {
    "helpers.py": "import lib.deep\n",
    "lib/__init__.py": "",
    "lib/deep.py": "from . import near\nimport other\n",
    "lib/near.py": "",
    "lib/table.json": "{}",
    "lib/__pycache__/deep.cpython-311.pyc": "",
    "other.py": "import helpers\n",  # a circular import
    "loose/part.py": "",  # a package without __init__
    "data/x.csv": "1",
    "unused.py": "",
    "pyspark/__init__.py": "",
}
OF_LIB = ["lib/__init__.py", "lib/deep.py", "lib/near.py", "lib/table.json"]
OF_HELPERS = ["helpers.py", *OF_LIB, "other.py"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def names_of(body: bytes | None) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(body)).namelist() if body else []


@pytest.mark.parametrize(
    ("source", "brought", "names"),
    [
        ("import helpers", [], OF_HELPERS),
        ("def f():\n    from lib.deep import x", [], ["helpers.py", *OF_LIB, "other.py"]),
        ("import os, loose.part as p", [], ["loose/part.py"]),
        ("import importlib\nimportlib.import_module('lib.near')", [], OF_HELPERS),
        ("import helpers", ["helpers"], []),
        ("import json, pyspark, data, numpy", [], []),
        ("print('helpers')", [], []),
        ("import (", [], []),
    ],
)
def test_imported_modules_are_collected_recursively(
    folder: Path, source: str, brought: list[str], names: list[str]
) -> None:
    assert names_of(modules_beside(folder / "job.py", source.encode(), brought)) == names


def test_the_same_modules_have_the_same_digest(folder: Path) -> None:
    first = modules_beside(folder / "job.py", b"import lib")
    (folder / "lib" / "deep.py").touch()

    assert modules_beside(folder / "job.py", b"import lib") == first


@pytest.mark.parametrize(("limit", "says"), [("MAX_FILES", "more than 1 files"), ("MAX_MIB", "more than 0 MiB")])
def test_too_many_or_too_large_modules_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: str, says: str
) -> None:
    monkeypatch.setattr(new_run, limit, int(says.split()[2]))

    with pytest.raises(PlanError, match=f"{says}, for example .*--py-files"):
        modules_beside(folder / "job.py", b"import lib")


NAMES = ["a", "b", "c"]
SOURCES = st.lists(
    st.sampled_from([f"{how}{name}" for name in NAMES for how in ("import ", "from json import loads; import ")]),
    max_size=2,
).map("\n".join)


@settings(max_examples=25, deadline=None)
@example(files={"c.py": "import a", "c/x.py": ""}, job="import c")
@given(
    files=st.dictionaries(st.sampled_from([*(f"{n}.py" for n in NAMES), "b/__init__.py", "c/x.py"]), SOURCES),
    job=SOURCES,
)
def test_a_script_finds_the_same_modules_as_in_its_folder(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, str], job: str
) -> None:
    own, other = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("other")
    for name, text in files.items():
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_text(text)
    (own / "job.py").write_text(job)
    if body := modules_beside(own / "job.py", job.encode()):
        zipfile.ZipFile(io.BytesIO(body)).extractall(other)
    (other / "job.py").write_text(job)

    codes = [
        subprocess.run([sys.executable, "-S", place / "job.py"], capture_output=True).returncode
        for place in (own, other)
    ]

    assert codes[0] == codes[1]
