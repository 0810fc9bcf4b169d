"""The bundle of sparklet.job works without the rest of Sparklet, on Python 3.9."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sparklet
from sparklet.job.bundle import write_bundle

JOB = Path(sparklet.__file__).parent / "job"
NEWER = {"zip": {"strict"}, "dataclass": {"slots", "kw_only"}}  # arguments that Python 3.9 does not know


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundle") / "sparklet-job.zip"
    write_bundle(target)
    return target


def bare_python(bundle: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python without site-packages that can import only the bundle."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(bundle)}
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(command, env=environment, cwd=bundle.parent, capture_output=True, text=True, check=False)


def test_a_script_needs_only_the_bundle(bundle: Path) -> None:
    done = bare_python(
        bundle,
        "import sys; from sparklet.job import Job, EventError, SparkletError, stored_bytes\n"
        "job = Job.from_args(['--input', 'a', '--output', 'b'], {})\n"
        "job.report(rows=1)\n"
        "import sparklet.job; print(sparklet.job.__file__, job.inputs, sep='\\n')\n"
        "print(*{name.split('.')[0] for name in sys.modules})",
    )

    assert done.returncode == 0, done.stderr
    place, inputs, loaded = done.stdout.splitlines()
    assert (place, inputs) == (f"{bundle}/sparklet/job/__init__.py", "('a',)")
    foreign = {name for name in loaded.split() if name not in sys.stdlib_module_names}
    assert foreign <= {"sparklet", "__main__", "zipimport"}  # nothing heavy


def test_the_same_sources_give_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    names = write_bundle(tmp_path / "again.zip")
    subprocess.run([sys.executable, "-m", "sparklet.job.bundle"], cwd=tmp_path, check=True, capture_output=True)

    for made in ("again.zip", "sparklet-job.zip"):  # also from the command line
        assert (tmp_path / made).read_bytes() == bundle.read_bytes()
    assert zipfile.ZipFile(bundle).namelist() == names


@pytest.mark.parametrize("path", [JOB.parent / "__init__.py", *sorted(JOB.rglob("*.py"))], ids=lambda path: path.name)
def test_annotations_are_not_evaluated(path: Path) -> None:
    """Python 3.9 would fail at today's annotations."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))

    annotated = any(isinstance(node, ast.AnnAssign | ast.arg) and node.annotation for node in ast.walk(tree))
    assert not annotated or "from __future__ import annotations" in path.read_text(encoding="utf-8")


def test_the_bundle_keeps_to_python_3_9(bundle: Path) -> None:
    """EMR's default is Python 3.9: the syntax is checked, and newer arguments that were used before by mistake."""
    with zipfile.ZipFile(bundle) as content:
        trees = {name: ast.parse(content.read(name), feature_version=(3, 9)) for name in content.namelist()}
    calls = [(name, node) for name, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]

    for name, call in calls:
        function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        newer = NEWER.get(function, set()) & {keyword.arg for keyword in call.keywords}
        assert not newer, f"{name}, line {call.lineno}: {function} has no {newer}"
        pattern = call.args[0] if call.args else None
        if (
            ast.unparse(call.func).startswith("re.")
            and isinstance(pattern, ast.Constant)
            and isinstance(pattern.value, str)
        ):
            parsed = str(re._parser.parse(pattern.value))  # type: ignore[attr-defined]
            assert not re.search("POSSESSIVE|ATOMIC", parsed), f"{name}, line {call.lineno}: {pattern.value}"


def test_the_bundle_imports_nothing_that_it_lacks(bundle: Path) -> None:
    """Imports at the head of modules are checked; a function may import modules that only workers have."""
    with zipfile.ZipFile(bundle) as content:
        heads = {name: ast.parse(content.read(name)).body for name in content.namelist() if name.endswith(".py")}
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in heads}
    wanted = {
        (name, node.module)
        for name, body in heads.items()
        for node in body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sparklet")
    }

    assert {(name, module) for name, module in wanted if module not in modules} == set()


def test_a_bundle_that_is_not_named_as_a_zip_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparklet.job.bundle", "dist/"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 1 and "dist/ is not the name of a zip" in done.stderr
    assert not list(tmp_path.iterdir())
