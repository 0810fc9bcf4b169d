"""A local stack with the real state machine and handlers, shared by the tests of a module; its waits are short."""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparklet.aws.services import StepFunctionsOrchestrator
from sparklet.local.stack import LocalStack
from sparklet.model import COUNTED, ExecutionStatus, Run
from sparklet.ports.deployment import Deployment
from tests.functional.local.conftest import Lab, make_lab
from tests.waiting import eventually

PROBES = Path(__file__).with_name("probes")
HANDLERS = {
    "WorkerFunction": "orchestrated.worker",
    "PlannerFunction": "orchestrated.planner",
    "StepFunction": "orchestrated.step",
}
WORKERS = 2
ENV = {"SFN_WAIT_SCALE": "0.02", "SPARKLET_GRACE_S": "2"}
OPTIONS: dict[str, Any] = {"workers": WORKERS, "timeout_s": 6, "handlers": HANDLERS, "worker_env": ENV}
ABOVE_INLINE = 42
WAYS = ("loop", "map", "inline")


@dataclass
class Stage:
    """A stack, and helpers that start runs in it and read their outcomes."""

    stack: LocalStack
    shown: Path
    deployment: Deployment

    def inputs(self, mode: str, *names: str) -> str:
        """Put objects of these names into a folder; for "map" so many more that the Map becomes a distributed one."""
        folder = f"s3://{self.deployment.bucket}/input/{uuid.uuid4().hex[:8]}/"
        more = ABOVE_INLINE - len(names) if mode == "map" else 0
        for name in (*names, *(f"{number:03d}" for number in range(more))):
            self.deployment.store.put(f"{folder}{name}.csv", b"1\n")
        return folder

    def script(self) -> str:
        uri = f"s3://{self.deployment.bucket}/scripts/job.py"
        self.deployment.store.put(uri, b"pass\n")
        return uri

    def request(self, mode: str, *names: str, **more: Any) -> dict[str, Any]:
        """The machine's input for a run with one shard per object."""
        output = f"s3://{self.deployment.bucket}/output/{uuid.uuid4().hex[:8]}/"
        request = {"script": self.script(), "inputs": [self.inputs(mode, *names)], "output": output, "max_objects": 1}
        dispatch = {} if mode == "loop" else {"dispatch": "map"}
        return {**request, **dispatch, "run_id": f"run-{uuid.uuid4().hex[:8]}", **more}

    @property
    def orchestrator(self) -> StepFunctionsOrchestrator:
        return StepFunctionsOrchestrator(self.stack.clients)

    @property
    def machine(self) -> str:
        return self.stack.info.run_machine

    def start(self, request: Mapping[str, Any], name: str = "") -> str:
        """Start the machine with a request; return the execution."""
        return self.orchestrator.start(self.machine, name or f"test-{uuid.uuid4().hex[:8]}", request)

    def execution_named(self, name: str) -> ExecutionStatus | None:
        """The status of the execution with that name; None if there is none."""
        return self.orchestrator.find(self.machine, name)

    def ended(self, execution: str) -> ExecutionStatus:
        eventually(lambda: self.orchestrator.status(execution).state.ended, f"{execution} has ended", 40)
        return self.orchestrator.status(execution)

    def run_through(self, request: Mapping[str, Any]) -> ExecutionStatus:
        return self.ended(self.start(request))

    def run(self, run_id: str) -> Run:
        """The run; an assertion fails if the counts of its shards do not add up."""
        run = self.deployment.ledger.runs.get(run_id)
        assert self.deployment.ledger.shards.count(run_id).total == run.shard_count
        return run

    def by_state(self, run_id: str) -> dict[str, int]:
        counts = self.deployment.ledger.shards.count(run_id)
        every = {state.value: getattr(counts, state.value.lower()) for state in COUNTED}
        return {state: count for state, count in every.items() if count}

    def map_kinds(self) -> list[str]:
        """How the Map's step answered in this test, in order: "inline", "distributed" or "none"."""
        file = self.shown / "hows"
        return file.read_text().split() if file.exists() else []

    def records(self, run_id: str = "") -> list[dict[str, Any]]:
        """The records of failed executions: those of a run, or those without a run."""
        prefix = f"runs/{run_id}/executions/" if run_id else "executions/"
        return [
            json.loads(self.deployment.store.get(info.uri))
            for info in self.deployment.store.list(f"s3://{self.deployment.bucket}/{prefix}")
        ]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose processes can import the probes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(PROBES), os.environ.get("PYTHONPATH")])))
        with make_lab(tmp_path_factory.mktemp("orchestration")) as lab:
            yield lab


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Iterator[Stage]:
    with lab.attach(**OPTIONS) as stack:
        yield Stage(stack, lab.shown, stack.deployment())


@pytest.fixture(autouse=True)
def _orders_are_deleted(lab: Lab) -> Iterator[None]:
    """Delete a test's orders to the probes, so that they do not affect the next test."""
    yield
    for path in lab.shown.iterdir():
        path.unlink(missing_ok=True)
