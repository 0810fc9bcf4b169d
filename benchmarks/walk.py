"""How much code a few ways pass through, from start to effect: modules and functions, over in-memory ports.

``python -m benchmarks.walk`` prints a line for each walk; ``--names`` adds the functions in the order of their first
call.

- ``event``: one SQS event with one shard, until the ledger says SUCCEEDED.
- ``engine``: a shard on EMR, from the check that adds its step, then from ``main`` of the program in that step, until
  the ledger says SUCCEEDED. Modules that an event passes do not count.
- ``run``: ``sparklet run`` of three objects, until the first message is in the queue.
- ``check``: the check that ends a run with a check and a next script, once the check's script has succeeded, until it
  returns.
- ``commit``: the script of a commit run, from its ``main`` until a Delta table has the rows of one shard.

A function counts once; comprehensions, lambdas and what dataclasses generate do not count, nor do the ledger, adapters
of AWS and what they call, nor settings, which are read before an event comes.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from deltalake import DeltaTable

import sparklet
import sparklet.spark.jvm_calls
from sparklet.app.costs import WorkerSize
from sparklet.app.stack import OpenStack, open_stack
from sparklet.cli import main as sparklet_command
from sparklet.cli.app import command
from sparklet.connectors.tables import delta
from sparklet.connectors.tables.commit import main as commit_main
from sparklet.connectors.tables.declaration import Declaration
from sparklet.engines import on_platform, one_shard, worker_package
from sparklet.engines.emr import EmrSteps
from sparklet.job import Job
from sparklet.job.fields import Table
from sparklet.job.session import JARS
from sparklet.local.jars import ensure_jars
from sparklet.local.spark_installation import jar_cache, stack_file
from sparklet.local.state import StateDir
from sparklet.model import Failure, RunState, ShardState
from sparklet.ports.deployment import Deployment
from sparklet.runs.dispatch import start_workers
from sparklet.settings import worker_settings
from sparklet.spark.warm_runner import PORT, SECRET
from sparklet.worker.worker import Worker
from tests.stand_ins.memory import MemoryCompute, MemoryOrchestrator
from tests.unit.cli.conftest import Lines
from tests.unit.worker.conftest import BUCKET, make_bench
from tests.world import SCRIPT, World

ROOT = Path(sparklet.__file__).parent
ADAPTERS = (
    *("stand_ins/memory_store.py", "stand_ins/memory.py", "sparklet/settings.py"),
    *(f"sparklet/ledger/{name}.py" for name in ("runs", "shards", "store")),
)
SOURCE, JUDGE = "s3://data/in/", "s3://data/jobs/judge.py"


class Walk:
    """Sparklet's functions in the order of their first call."""

    def __init__(self) -> None:
        self.functions: dict[str, None] = {}
        self._ended = False

    def end(self) -> None:
        """Count no further."""
        self._ended = True

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the calls of this block, on all threads."""
        threading.setprofile(self._called)
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _called(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or self._ended or code.co_name.startswith("<") or not code.co_filename.startswith(str(ROOT)):
            return
        if not _of_adapter(frame):
            self.functions.setdefault(f"{_module(code)}:{code.co_qualname}")


def _of_adapter(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.endswith(ADAPTERS) or "/sparklet/aws/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def _module(code: CodeType) -> str:
    return Path(code.co_filename).relative_to(ROOT).with_suffix("").as_posix()


def walk_event(walk: Walk, folder: Path) -> None:
    """One SQS event with one shard, until the ledger says SUCCEEDED."""
    names = {"SPARKLET_BUCKET": BUCKET, "SPARKLET_LEDGER_TABLE": "t", "SPARKLET_SCRATCH": str(folder / "scratch")}
    bench = make_bench(worker_settings(names))
    (ref,) = bench.plan()
    _after(bench.ledger.attempts, "succeed", walk.end)
    with walk.recorded():
        bench.deliver()
    assert bench.ledger.shards.get(ref.run_id, ref.shard).state is ShardState.SUCCEEDED


def walk_engine(walk: Walk, folder: Path) -> None:
    """A shard on EMR: its step is added by a check, and the step's program does it until the ledger says SUCCEEDED."""
    names = {"SPARKLET_BUCKET": BUCKET, "SPARKLET_LEDGER_TABLE": "t", "SPARKLET_SCRATCH": str(folder / "scratch")}
    bench, cluster = make_bench(worker_settings(names)), Cluster(folder)
    [ref] = bench.plan(too_large="engine", engine="emr")
    bench.ledger.attempts.claim(ref, "of a function", 60.0, 3)
    bench.ledger.attempts.escalate(ref.run_id, ref.shard, "of a function", Failure("OutOfMemoryError", ""), "emr")
    _after(bench.ledger.attempts, "succeed", walk.end)
    engines = {"emr": EmrSteps(clients=cluster, env=names, cluster="j-1")}  # type: ignore[arg-type]
    ports = bench.store, bench.ledger, bench.queue, bench.clock
    with walk.recorded():
        start_workers(Deployment(BUCKET, *ports, engines=engines), bench.ledger.runs.get(ref.run_id))
    with cluster.driver(bench.worker), walk.recorded():
        on_platform.main()
    assert bench.ledger.shards.get(ref.run_id, ref.shard).state is ShardState.SUCCEEDED


class Cluster:
    """EMR and S3, as far as one step needs them, and the driver that runs the step's program."""

    def __init__(self, folder: Path) -> None:
        self.package, self.command = folder / worker_package.PACKAGE, list[str]()
        self.meta = SimpleNamespace(region_name="us-east-1")
        self.emr = self.s3 = self

    def get_paginator(self, _: str) -> Any:
        """No step is there yet."""
        return SimpleNamespace(paginate=lambda **_: SimpleNamespace(search=lambda _: iter(())))

    def put_object(self, Key: str, Body: bytes, **_: Any) -> Any:  # noqa: N803
        """Keep the worker's package for the driver."""
        if Key.endswith(self.package.name):
            self.package.write_bytes(Body)
        return {"ETag": '"1"'}

    def add_job_flow_steps(self, Steps: Any, **_: Any) -> Any:  # noqa: N803
        """Take the step."""
        self.command = Steps[0]["HadoopJarStep"]["Args"]
        return {"StepIds": ["s-1"]}

    @contextmanager
    def driver(self, worker: Worker) -> Iterator[None]:
        """The process that spark-submit makes of this one, with a worker over in-memory ports."""
        place = {PORT: "1", SECRET: "-"}
        given = ["on_platform.py", *self.command[self.command.index("--sparklet") :]]
        with (
            patch.dict(os.environ, place),
            patch.object(sys, "argv", given),
            patch.object(sys, "path", [*sys.path, str(self.package)]),
            patch.object(sys, "stdout"),
            patch.object(one_shard, "worker_over_aws", lambda *_: worker),
        ):
            yield


def walk_run(walk: Walk, folder: Path) -> None:
    """``sparklet run`` of three objects, until the first message is in the queue."""
    world = World()
    world.put(3)
    state = folder / "state"
    StateDir(state).create()
    command("run")  # so that nothing is imported on the way

    @contextmanager
    def open_memory(*_: Any, **__: Any) -> Iterator[OpenStack]:
        orchestrator = MemoryOrchestrator({}, world.clock)
        yield OpenStack(
            world.deployment, MemoryCompute({}), "worker", Lines(), WorkerSize(), orchestrator, state=folder / "state"
        )

    for name, module in list(sys.modules.items()):
        if name.startswith("sparklet.cli") and getattr(module, "open_stack", None) is open_stack:
            module.__dict__["open_stack"] = open_memory
    _after(world.queue, "send", _stop(walk))
    silent = io.StringIO()  # that the run is cut short here is no news
    with walk.recorded(), redirect_stdout(silent), redirect_stderr(silent):
        sparklet_command(["run", SCRIPT, "--input", SOURCE, "--output", "s3://data/out/"])


def walk_check(walk: Walk, folder: Path) -> None:
    """The check that ends a run, whose check run has succeeded, and that enters its next run."""
    world = World()
    world.put(1)
    world.store.put(JUDGE, b"print()")
    run = world.plan(check=JUDGE, next=JUDGE, next_output="s3://data/next/")
    world.work_and_check()
    world.work()
    with walk.recorded():
        ended = world.check().run
    walk.end()
    assert (run.run_id, ended.state) == (ended.run_id, RunState.SUCCEEDED)


def walk_commit(walk: Walk, folder: Path) -> None:
    """The script of a commit run, until a Delta table has the rows of one shard."""
    jars = ensure_jars(stack_file(), jar_cache(), ["delta"], progress=print)
    os.environ.setdefault(JARS, os.pathsep.join(map(str, jars)))
    with _silent_processes():
        spark = Job().spark("walk", {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"})
    table = Table.parse(f"delta:{folder}/table")
    write = delta.stage(spark.range(2), Declaration(table, "append", "1", "", ())).to_document()
    lines = [{"identity": "run", "commit": 0}, {"shard": 0, "writes": [write]}]
    (folder / "commit").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    event = {"inputs": [f"file://{folder}/commit"], "sparklet": {"run": "run-commit", "shard": 0}}
    with patch.object(sys, "argv", ["commit.py", "--event", json.dumps(event)]), suppress(KeyboardInterrupt):
        _after(delta.DeltaLakeTable, "write", _stop(walk))
        with walk.recorded():
            commit_main()
    spark.stop()
    assert DeltaTable(str(folder / "table")).to_pyarrow_table().num_rows == 2


@contextmanager
def _silent_processes() -> Iterator[None]:
    """What a JVM that is started in the block logs is no news."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _stop(walk: Walk) -> Callable[[], None]:
    def stop() -> None:
        walk.end()
        raise KeyboardInterrupt  # as a user would

    return stop


def _after(port: Any, method: str, then: Callable[[], None]) -> None:
    real = getattr(port, method)

    def called(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        then()
        return answer

    setattr(port, method, called)


WALKS = {"event": walk_event, "engine": walk_engine, "run": walk_run, "check": walk_check, "commit": walk_commit}


def main() -> None:
    """Print each walk."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", action="store_true", help="print each function, too")
    parser.add_argument("walks", nargs="*", default=[*WALKS], choices=WALKS, help="an engine's comes after an event's")
    options = parser.parse_args()
    of_events: set[str] = set()
    for name in options.walks:
        walk, take = Walk(), WALKS[name]
        with tempfile.TemporaryDirectory() as folder:
            take(walk, Path(folder))
        functions = [each for each in walk.functions if name != "engine" or each.partition(":")[0] not in of_events]
        modules = {function.partition(":")[0] for function in functions}
        packages = {module.rpartition("/")[0] for module in modules}
        print(f"walk={name} modules={len(modules)} functions={len(functions)} packages={len(packages)}")
        if options.names:
            print("\n".join(f"  {function}" for function in functions))
        of_events |= modules if name == "event" else set()


if __name__ == "__main__":
    main()
