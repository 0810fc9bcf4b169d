"""Find the functions that could do nothing without a test noticing.

    python -m tests.mutate record tests/unit     # note which quick test runs which function; adds to earlier notes
    python -m tests.mutate run sparklet.aws      # each function as a no-op, then raising; continues an earlier run
    python -m tests.mutate run --draw 40 sparklet.planning.inputs   # 40 details of functions, drawn by ``--seed``
    python -m tests.mutate report                # the mutants that no quick test noticed, as JSON lines

A mutant is a function whose body is replaced: it returns None at once (``none``), or it raises (``raise``). Only the
tests that run the function are run, until one fails. The files stay as they are: an import hook compiles the mutant,
in a process that is forked for it. ``none`` survives if tests run a function and assert nothing of its effect;
``raise`` survives if its failure is swallowed; a function is ``unreached`` if no recorded test runs it (a process that
a test starts might). ``--how same`` is the control, which must survive.

A detail is a finer mutant, of private functions, too: an operator flipped, a condition negated, a constant changed or a
statement dropped. Some details change nothing that can be observed, so a person has to look at the survivors. Results
are in ``build/mutants``: move them away to compare other tests with the same draw.
"""

import argparse
import ast
import hashlib
import importlib
import importlib.machinery
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
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
DETAIL = "detail-"  # followed by the detail's number in the function
FLIPPED: dict[type[ast.AST], type[ast.AST]] = {ast.Eq: ast.NotEq, ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.In: ast.NotIn}
FLIPPED |= {ast.Is: ast.IsNot, ast.And: ast.Or, ast.Add: ast.Sub, ast.Mult: ast.FloorDiv}
FLIPPED |= {new: old for old, new in FLIPPED.items()}
DROPPED = (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Return, ast.Delete)
MAX_TESTS, MAX_TESTS_S = 200, 15.0  # for one mutant
LIMIT_S = 90.0
OPTIONS = ("-p", "no:cacheprovider", "-n", "0", "-q", "--assert=plain")  # pytest's import hook would win over ours
RECORD = "MUTANT_RECORD"  # an environment variable
PRELOADED = ("boto3", "botocore.stub", "hypothesis.stateful", "pyarrow.parquet", "yaml")  # what nearly all tests import


@dataclass(frozen=True)
class Function:
    """A function of a module, by its name in it: ``S3ObjectStore.get``."""

    module: str
    name: str
    source: str  # a digest of the source, so that a changed function is tried again

    @property
    def key(self) -> str:
        """How results and people name the function: ``sparklet.aws.object_store:S3ObjectStore.get``."""
        return f"{self.module}:{self.name}"


def file_of(module: str) -> Path:
    """The file of a module's source."""
    path = RUNTIME.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def functions(package: str, *, private: bool = False) -> Iterator[Function]:
    """The functions and methods of a package or module that do something, in order; private ones with ``private``."""
    root = file_of(package)
    for file in sorted(root.parent.rglob("*.py")) if root.name == "__init__.py" else [root]:
        parts = file.relative_to(RUNTIME).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for name, node in nodes(ast.parse(file.read_text())):
            public = not any(part.startswith("_") for part in name.split("."))
            if (public or private) and any(map(_does, node.body)):
                yield Function(module, name, hashlib.sha256(ast.unparse(node).encode()).hexdigest()[:12])


def nodes(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods by their names, without those that are defined within functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}", node
        elif isinstance(node, ast.ClassDef) and not any("Protocol" in ast.unparse(base) for base in node.bases):
            yield from nodes(node, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.If, ast.Try)):
            yield from nodes(node, prefix)


def _does(statement: ast.stmt) -> bool:
    """Whether a statement does something: it is not a docstring, ``...``, ``pass`` or ``return None``."""
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return not is_constant and ast.unparse(statement) not in ("pass", "return", "return None")


def details(function: ast.FunctionDef) -> Iterator[tuple[str, Callable[[], None]]]:
    """The details of a function that can be changed: each in words, and a callback that changes the tree in place.

    Texts with spaces are for people; they are not changed.
    """
    for node in chain.from_iterable(map(_walk, function.body)):
        line = f"line {getattr(node, 'lineno', 0)}"
        match node:
            case ast.Compare(ops=[operator, *_]) | ast.BoolOp(op=operator) | ast.BinOp(op=operator):
                if new := FLIPPED.get(type(operator)):
                    field, value = ("ops", [new(), *node.ops[1:]]) if isinstance(node, ast.Compare) else ("op", new())
                    yield f"{line}: {new.__name__} in {ast.unparse(node)}", partial(setattr, node, field, value)
            case ast.Constant(value=bool() | int() | float() as old):
                other = not old if isinstance(old, bool) else old + 1
                yield f"{line}: {other!r} for {old!r}", partial(setattr, node, "value", other)
            case ast.Constant(value=str() as text) if " " not in text:
                yield f"{line}: another text than {text!r}", partial(setattr, node, "value", f"{text}~")
        if isinstance(node, (ast.If, ast.IfExp, ast.While)) and not isinstance(node.test, (ast.Compare, ast.BoolOp)):
            negated = ast.UnaryOp(ast.Not(), node.test)
            yield f"{line}: {ast.unparse(negated)}", partial(setattr, node, "test", negated)
    for block in _blocks(function):
        for index, statement in enumerate(block):
            if isinstance(statement, DROPPED) and _does(statement):
                words = f"line {statement.lineno}: without {ast.unparse(statement).splitlines()[0]}"
                yield words, partial(block.__setitem__, index, ast.copy_location(ast.Pass(), statement))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all nodes below it, without types, formatted texts and docstrings."""
    yield node
    for name, value in ast.iter_fields(node):
        inner = value if isinstance(value, list) else [value]
        for child in inner if name not in ("annotation", "returns") else ():
            is_docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr) and not is_docstring:
                yield from _walk(child)


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for each in ast.walk(node):
        for name in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(each, name, None), list):
                yield block


# --- within pytest's process ---


class Mutating(importlib.machinery.SourceFileLoader):
    """Imports one module with one function mutated."""

    def __init__(self, mutant: str) -> None:
        self.module, self.function, self.how = mutant.split(":")
        self.used = False
        super().__init__(self.module, str(file_of(self.module)))

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        """Find the mutated module; None for every other module."""
        if name != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec:
            spec.loader = self
        return spec

    def get_code(self, fullname: str) -> Any:
        """Compile the mutant; bytecode is neither read from a cache nor written to one."""
        self.used, tree = True, ast.parse(Path(self.path).read_text())
        node = dict(nodes(tree))[self.function]
        yields = any(isinstance(each, (ast.Yield, ast.YieldFrom)) for each in ast.walk(node))
        if self.how.startswith(DETAIL):
            list(details(node))[int(self.how.removeprefix(DETAIL))][1]()
        elif self.how != "same":
            body = "return None" if self.how == "none" else "raise RuntimeError('a mutant')"
            node.body = ast.parse(f"{body}\nyield" if yields else body).body
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


_reached: dict[str, set[str]] = defaultdict(set)
_seconds: dict[str, float] = defaultdict(float)
_now: set[tuple[str, str]] = set()
_failed: set[str] = set()


def _note(frame: FrameType, event: str, _: Any) -> None:
    if event == "call":
        _now.add((frame.f_globals.get("__name__", ""), frame.f_code.co_qualname))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Record which functions a test and its fixtures run, in all threads."""
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
    """Remember failed tests: a test that fails without a mutant proves nothing."""
    if report.failed:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    """Write the records to the file, beside the earlier records of other tests."""
    if RECORD in os.environ:
        RESULTS.mkdir(parents=True, exist_ok=True)
        earlier = json.loads(CONTEXTS.read_text()) if CONTEXTS.exists() else {"seconds": {}, "reached": {}}
        for function, tests in earlier["reached"].items():
            _reached[function] |= set(tests) - _seconds.keys()
        reached = {function: sorted(tests) for function, tests in sorted(_reached.items())}
        CONTEXTS.write_text(json.dumps({"seconds": earlier["seconds"] | _seconds, "reached": reached}))


# --- in the process that starts pytest ---


@dataclass
class Trial:
    """A process that runs a mutant's tests."""

    function: Function
    how: str
    tests: Sequence[str]

    def __post_init__(self) -> None:
        self.output, self.begun_s = tempfile.TemporaryFile("w+"), time.monotonic()  # noqa: SIM115 - until it has ended
        self.pid = os.fork()
        if self.pid:
            self.ended = os.pidfd_open(self.pid)
        else:
            os.setsid()
            os.dup2(self.output.fileno(), 1)
            os.dup2(self.output.fileno(), 2)
            code = 3  # pytest's exit code for an internal error
            try:
                sys.meta_path.insert(0, mutating := Mutating(f"{self.function.key}:{self.how}"))
                pytest_code = int(pytest.main([*OPTIONS, "-x", *self.tests]))
                code = pytest_code if mutating.used else code
            finally:
                sys.stdout.flush()
                os._exit(code)

    def result(self) -> dict[str, Any] | None:
        """How the trial ended; None while it runs. A trial that takes too long is killed."""
        late = time.monotonic() > self.begun_s + LIMIT_S
        if late:
            os.killpg(self.pid, signal.SIGKILL)
        pid, status = os.waitpid(self.pid, 0 if late else os.WNOHANG)
        if not pid:
            return None
        os.close(self.ended)
        self.output.seek(0)
        lines = [line.split(" ", 1)[1].strip() for line in self.output if line.startswith(("FAILED ", "ERROR "))]
        code = os.waitstatus_to_exitcode(status)
        word = {0: "survived", 1: "noticed", -signal.SIGKILL: "noticed, by its time"}.get(code, f"error {code}")
        took_s = round(time.monotonic() - self.begun_s, 1)
        by = lines[0].partition(" - ")[0] if lines else ""
        return {"result": word, "by": by, "tests": len(self.tests), "seconds": took_s}


def run(options: argparse.Namespace) -> None:
    """Try the packages' mutants that were not tried before, each in a process of its own."""
    for name in PRELOADED:
        importlib.import_module(name)
    contexts = json.loads(CONTEXTS.read_text())
    tried = (each for each in _results() if each["result"] != "unreached")  # slow tests may have been recorded since
    done = {(each["function"], each["source"], each["how"]) for each in tried}
    running: list[Trial] = []
    for function, how in _mutants(options):
        if (function.key, function.source, how) in done:
            continue
        if tests := _chosen(function, contexts["reached"].get(function.key, ()), contexts["seconds"]):
            running.append(Trial(function, how, tests))
        else:
            _note_result(function, how, {"result": "unreached"})
        _reap(running, options.jobs - 1)
    _reap(running, 0)


def _mutants(options: argparse.Namespace) -> list[tuple[Function, str]]:
    """The mutants to try: functions, each with a way to change it."""
    packages = options.packages or PACKAGES
    if not options.draw:
        return [(function, how) for how in options.how or HOW for each in packages for function in functions(each)]
    every = []
    for function in chain.from_iterable(functions(package, private=True) for package in packages):
        count = sum(1 for _ in details(_node(function)))
        every += [(function, f"{DETAIL}{number}") for number in range(count)]
    return random.Random(options.seed).sample(every, min(options.draw, len(every)))


def _node(function: Function) -> ast.FunctionDef:
    return dict(nodes(ast.parse(file_of(function.module).read_text())))[function.name]


def _words(function: Function, how: str) -> str:
    return list(details(_node(function)))[int(how.removeprefix(DETAIL))][0] if how.startswith(DETAIL) else ""


def _chosen(function: Function, tests: Sequence[str], seconds: Mapping[str, float]) -> list[str]:
    """The tests to run for a mutant: as many as there is time for, at least one.

    Tests in files with the module's name come first, then the fastest.
    """
    name = function.module.rpartition(".")[2]
    ranked = sorted(tests, key=lambda test: (name not in test.partition("::")[0], seconds[test]))[:MAX_TESTS]
    taken_s = list(accumulate(seconds[test] for test in ranked))
    return [test for test, taken in zip(ranked, taken_s, strict=True) if taken < MAX_TESTS_S] or ranked[:1]


def _reap(running: list[Trial], most: int) -> None:
    """Wait until at most ``most`` trials are running, and note the results of the others."""
    while len(running) > most:
        select.select([trial.ended for trial in running], [], [], 1.0)  # until a trial ends, or takes too long
        for trial in list(running):
            if result := trial.result():
                running.remove(trial)
                _note_result(trial.function, trial.how, result)


def _note_result(function: Function, how: str, result: Mapping[str, Any]) -> None:
    with MUTANTS.open("a") as out:
        mutant = {"function": function.key, "source": function.source, "how": how, "what": _words(function, how)}
        print(json.dumps({**mutant, **result}), file=out)


def report(options: argparse.Namespace) -> None:
    """Print the surviving mutants of the code as it is now."""
    now = {(f.key, f.source) for p in options.packages or PACKAGES for f in functions(p, private=True)}
    latest = {(each["function"], each["how"]): each for each in _results() if (each["function"], each["source"]) in now}
    survivors = [each for each in latest.values() if not each["result"].startswith("noticed")]
    print("\n".join(map(json.dumps, survivors)))
    print(f"{len(latest)} mutants, {len(survivors)} not noticed", file=sys.stderr)


def _results() -> list[dict[str, Any]]:
    return [json.loads(line) for line in MUTANTS.read_text().splitlines()] if MUTANTS.exists() else []


def main() -> None:
    """Parse the command line, and record, run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "run", "report"))
    parser.add_argument("packages", nargs="*", help=f"of record: tests; else packages or modules ({PACKAGES})")
    parser.add_argument("--how", action="append", choices=(*HOW, "same"), help="one alone")
    parser.add_argument("--draw", type=int, default=0, help="so many details of functions, instead of whole functions")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--slow", action="store_true", help="record slow tests, too, with Spark and the local stack")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once")
    options = parser.parse_intermixed_args()
    if options.what == "record":
        command = [sys.executable, "-m", "pytest", *OPTIONS, "-p", "tests.mutate", *options.packages]
        command += [] if options.slow else ["-m", QUICK]
        sys.exit(subprocess.run(command, env={**os.environ, RECORD: "1"}, check=False).returncode)
    {"run": run, "report": report}[options.what](options)


if __name__ == "__main__":
    main()
