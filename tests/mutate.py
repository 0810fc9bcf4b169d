"""Which functions could do nothing, and no test would notice?

    python -m tests.mutate record tests/unit     # which quick test runs which function; adds to what was recorded
    python -m tests.mutate run sparklet.aws      # each function a no-op, then raising; goes on where it was
    python -m tests.mutate report                # what no quick test noticed: JSON lines

A mutant is a function whose body is gone: it returns None at once (``none``), or it raises (``raise``). Only the tests
that run it are asked, the fastest first, until one fails. The files stay as they are: an import hook, which this module
installs as a plugin of pytest (``-p tests.mutate``), compiles the mutant. ``none`` survives where tests run a function
and assert nothing of it; ``raise`` where its failure is swallowed; ``unreached`` is what no quick test runs (perhaps a
slow one does, or a process that a test starts). Results lie in ``build/mutants``.
"""

import argparse
import ast
import hashlib
import importlib.machinery
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

RUNTIME = Path(__file__).parents[1] / "runtime"
RESULTS = Path("build") / "mutants"
CONTEXTS, MUTANTS = RESULTS / "contexts.json", RESULTS / "mutants.jsonl"
PACKAGES = [f"sparklet.{name}" for name in ("aws", "local", "runs", "worker", "planning", "job")]
QUICK = "not slow and not spark and not stack and not campaign and not container and not validate"
HOW = ("none", "raise")
MAX_TESTS, MAX_TESTS_S = 200, 20.0  # of a mutant: the fastest
LIMIT_S = 60.0
PLUGIN = ("-p", "tests.mutate", "-p", "no:cacheprovider", "-n", "0", "-q")
MUTANT, RECORD = "MUTANT", "MUTANT_RECORD"  # of the environment


@dataclass(frozen=True)
class Function:
    """A function of a module, by its name in it: ``S3Store.get``."""

    module: str
    name: str
    source: str  # a digest, so that what has changed is tried again
    empty: bool  # there is nothing that a no-op would leave out

    @property
    def key(self) -> str:
        """For people and files."""
        return f"{self.module}:{self.name}"


def file_of(module: str) -> Path:
    """Where a module's source is."""
    path = RUNTIME.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def functions(package: str, *, private: bool = False) -> Iterator[Function]:
    """The public functions and methods of a package or module, in order."""
    root = file_of(package)
    for file in sorted(root.parent.rglob("*.py")) if root.name == "__init__.py" else [root]:
        parts = file.relative_to(RUNTIME).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for name, node in nodes(ast.parse(file.read_text())):
            if private or not any(part.startswith("_") for part in name.split(".")):
                yield Function(module, name, _digest(node), not any(map(_does, node.body)))


def nodes(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods, not those within functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}", node
        elif isinstance(node, ast.ClassDef) and not any("Protocol" in ast.unparse(base) for base in node.bases):
            yield from nodes(node, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.If, ast.Try)):
            yield from nodes(node, prefix)


def _does(statement: ast.stmt) -> bool:
    """It is no docstring, ``...``, ``pass`` or ``return None``."""
    if isinstance(statement, ast.Return):
        return statement.value is not None and ast.unparse(statement) != "return None"
    return not isinstance(statement, ast.Pass) and not (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _digest(node: ast.AST) -> str:
    return hashlib.sha256(ast.unparse(node).encode()).hexdigest()[:12]


# --- within pytest ---


class Mutating(importlib.machinery.SourceFileLoader):
    """Imports one module with one function's body gone."""

    def __init__(self, mutant: str) -> None:
        self.module, self.function, self.how = mutant.split(":")
        super().__init__(self.module, str(file_of(self.module)))

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        """Of this module alone."""
        if name != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec:
            spec.loader = self
        return spec

    def get_code(self, fullname: str) -> Any:
        """Compiled anew, never from a cache, nor into one."""
        tree = ast.parse(Path(self.path).read_text())
        node = dict(nodes(tree))[self.function]
        yields = any(isinstance(each, (ast.Yield, ast.YieldFrom)) for each in ast.walk(node))
        body = "return None" if self.how == "none" else "raise RuntimeError('a mutant')"
        node.body = ast.parse(f"{body}\nyield" if yields else body).body
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


if mutant := os.environ.get(MUTANT):
    sys.meta_path.insert(0, Mutating(mutant))

_reached: dict[str, set[str]] = defaultdict(set)
_seconds: dict[str, float] = defaultdict(float)
_now: set[tuple[str, str]] = set()
_failed: set[str] = set()


def _note(frame: FrameType, event: str, _: Any) -> None:
    if event == "call":
        _now.add((frame.f_globals.get("__name__", ""), frame.f_code.co_qualname))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Note what a test runs, with its fixtures, in all threads."""
    if RECORD not in os.environ:
        return (yield)
    _now.clear()
    threading.setprofile(_note)
    sys.setprofile(_note)
    begun_s = time.monotonic()
    try:
        return (yield)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        _seconds[item.nodeid] = round(time.monotonic() - begun_s, 3)
        for module, name in list(_now) if item.nodeid not in _failed else ():
            if module.startswith("sparklet."):
                _reached[f"{module}:{name}"].add(item.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that fails anyway says nothing of a mutant."""
    if report.failed:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    """Keep it, beside what was recorded of other tests."""
    if RECORD in os.environ:
        RESULTS.mkdir(parents=True, exist_ok=True)
        known = json.loads(CONTEXTS.read_text()) if CONTEXTS.exists() else {"seconds": {}, "reached": {}}
        for function, tests in known["reached"].items():
            _reached[function] |= set(tests) - _seconds.keys()
        reached = {function: sorted(tests) for function, tests in sorted(_reached.items())}
        CONTEXTS.write_text(json.dumps({"seconds": known["seconds"] | _seconds, "reached": reached}))


# --- outside ---


def trial(function: Function, how: str, tests: Sequence[str]) -> dict[str, Any]:
    """Does one of the tests notice?"""
    command = [sys.executable, "-m", "pytest", *PLUGIN, "-x", "--durations=0", "-m", QUICK, *tests]
    env = {**os.environ, MUTANT: f"{function.key}:{how}"}
    begun_s = time.monotonic()
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            said = process.communicate(timeout=LIMIT_S)[0]
        except subprocess.TimeoutExpired:
            said = ""
            os.killpg(process.pid, signal.SIGKILL)
    result = {0: "survived", 1: "noticed", -signal.SIGKILL: "noticed, by its time"}.get(process.returncode, "error")
    by = next((line.split()[1] for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    return {"result": result, "by": by, "tests": len(tests), "seconds": round(time.monotonic() - begun_s, 1)}


def run(options: argparse.Namespace) -> None:
    """Try the packages' mutants that were not tried."""
    contexts = json.loads(CONTEXTS.read_text())
    seconds: dict[str, float] = contexts["seconds"]
    done = {(each["function"], each["source"], each["how"]) for each in _results()}
    todo = [(f, how) for how in options.how or HOW for package in options.packages or PACKAGES
            for f in functions(package, private=options.private) if not f.empty]  # fmt: skip
    lock = threading.Lock()

    def tried(each: tuple[Function, str]) -> None:
        function, how = each
        if (function.key, function.source, how) in done:
            return
        tests = sorted(contexts["reached"].get(function.key, ()), key=lambda test: seconds[test])[:MAX_TESTS]
        taken_s = accumulate(seconds[test] for test in tests)
        tests = [test for test, taken in zip(tests, taken_s, strict=True) if taken < MAX_TESTS_S] or tests[:1]
        outcome = trial(function, how, tests) if tests else {"result": "unreached"}
        line = {"function": function.key, "source": function.source, "how": how, **outcome}
        with lock, MUTANTS.open("a") as out:
            print(json.dumps(line), file=out, flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(tried, todo))


def report(options: argparse.Namespace) -> None:
    """The survivors of the code as it is."""
    now = {(f.key, f.source) for p in options.packages or PACKAGES for f in functions(p, private=True)}
    latest = {(each["function"], each["how"]): each for each in _results() if (each["function"], each["source"]) in now}
    for each in latest.values():
        if not each["result"].startswith("noticed"):
            print(json.dumps(each))
    survived = sum(not each["result"].startswith("noticed") for each in latest.values())
    print(f"{len(latest)} mutants, {survived} not noticed", file=sys.stderr)


def _results() -> list[dict[str, Any]]:
    return [json.loads(line) for line in MUTANTS.read_text().splitlines()] if MUTANTS.exists() else []


def main() -> None:
    """Record, run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "run", "report"))
    parser.add_argument("packages", nargs="*", help=f"of record: tests; else packages or modules ({PACKAGES})")
    parser.add_argument("--how", action="append", choices=HOW, help="one of the two alone")
    parser.add_argument("--private", action="store_true", help="private functions, too")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once")
    options = parser.parse_intermixed_args()
    if options.what == "record":
        command = [sys.executable, "-m", "pytest", *PLUGIN, "-m", QUICK, *options.packages]
        sys.exit(subprocess.run(command, env={**os.environ, RECORD: "1"}, check=False).returncode)
    {"run": run, "report": report}[options.what](options)


if __name__ == "__main__":
    main()
