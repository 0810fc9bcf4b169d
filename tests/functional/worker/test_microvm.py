"""MicroVMs: the stand-in's control plane, and behind each machine the image's program in a process of its own."""

import hashlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.microvms import MicroVms
from sparklet.aws.s3 import S3Store
from sparklet.clock import SystemClock
from sparklet.model import InputObject, PartRecord, Position, Run, ScriptRef, Shard, ShardRecord, ShardState
from sparklet.planning.deployment import Deployment
from sparklet.runs.engines import start_workers
from sparklet.worker.microvm import HOOKS
from tests.functional.local.conftest import eventually
from tests.functional.worker.conftest import small_env
from tests.functional.worker.worker_process import CREDENTIALS, stand_in
from tests.stand_ins.ledger_table import table_definition
from tests.stand_ins.memory import MemoryTaskQueue
from tests.stand_ins.ministack import free_port

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

BUCKET, TABLE, ENGINE, RUN = "runs", "ledger", "microvm", "flights-1"
IMAGE = "arn:aws:lambda:us-east-1:123456789012:microvm-image:sparklet"
ROLE = "arn:aws:iam::123456789012:role/machines"
SHARDS = 3
SCRIPT = b"""
import pathlib, time
from sparklet.job import Job

job = Job.from_args()
rows = job.spark().range(7).count()
first = pathlib.Path(job.params["first"])
with first.with_name("jvms").open("a") as jvms:
    print(job.spark()._jvm.java.lang.ProcessHandle.current().pid(), file=jvms)
if not first.exists():
    first.touch()
    time.sleep(600)
job.report(rows=rows)
"""


class Machines:
    """The control plane's client; what Firecracker and Lambda would do at a start and at an end, it does itself."""

    def __init__(self, client: Any, folder: Path, env: dict[str, str]) -> None:
        self._client, self._folder, self._env = client, folder, env
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.jvms: dict[str, list[int]] = {}  # when the snapshot would be taken
        self._ports: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def run_microvm(self, **asked: Any) -> Any:
        """Start the program, as the image's build does, then have it run."""
        found = self._client.run_microvm(**asked)
        machine_id = found["microvmId"]
        self._ports[machine_id] = free_port()
        command = [sys.executable, "-P", "-m", "sparklet.worker.microvm", str(self._ports[machine_id])]
        with self.log(machine_id).open("wb") as log:
            self.processes[machine_id] = subprocess.Popen(command, env=self._env, stdout=log, stderr=log)
        eventually(lambda: self._hook(machine_id, "ready") == 200, 300)
        children = psutil.Process(self.processes[machine_id].pid).children(recursive=True)
        self.jvms[machine_id] = [each.pid for each in children if each.name() == "java"]
        asked_of_it = {"microvmId": machine_id, "runHookPayload": asked["runHookPayload"]}
        assert self._hook(machine_id, "run", asked_of_it) == 200
        return found

    def terminate_microvm(self, **asked: Any) -> Any:
        """Tell the program first."""
        assert self._hook(asked["microvmIdentifier"], "terminate") == 200
        return self._client.terminate_microvm(**asked)

    def log(self, machine_id: str) -> Path:
        return self._folder / f"{machine_id}.log"

    def _hook(self, machine_id: str, hook: str, body: Any = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[machine_id], timeout=60)
        try:
            connection.request("POST", f"{HOOKS}{hook}", json.dumps(body or {}))
            return connection.getresponse().status
        except ConnectionRefusedError:
            return 0


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[AwsClients]:
    with stand_in(tmp_path) as (_, clients):
        clients.s3.create_bucket(Bucket=BUCKET)
        clients.dynamodb.create_table(**table_definition(TABLE))
        yield clients


@pytest.fixture
def machines(clients: AwsClients, tmp_path: Path) -> Iterator[Machines]:
    foreign = ("AWS_", "SPARKLET_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    own = {
        "AWS_ENDPOINT_URL": clients.s3.meta.endpoint_url,
        "AWS_REGION": "us-east-1",
        "SPARKLET_SCRATCH": str(tmp_path),
    }
    machines = Machines(clients.microvms, tmp_path, {**environ, **CREDENTIALS, **small_env(**own)})
    clients._made["microvms"] = machines
    yield machines
    for process in machines.processes.values():
        process.kill()
        process.wait()


def planned(clients: AwsClients, first: Path) -> Deployment:
    """A stack with a fleet of one machine, and a run whose shards wait for it; the first script waits, too."""
    store, ledger = S3Store(clients), DynamoLedger(clients, TABLE)
    digest = hashlib.sha256(SCRIPT).hexdigest()
    store.put(uri := f"s3://{BUCKET}/runs/{RUN}/script/{digest}/job.py", SCRIPT)
    script, output = ScriptRef(uri, digest, "s3://mine/job.py"), f"s3://{BUCKET}/output/{RUN}/"
    ledger.runs.create(Run(RUN, ("s3://in/",), output, (script,), params={"first": str(first)}))
    lines = [Shard(number, (InputObject(f"s3://{BUCKET}/in/{number}", 4),)).to_line() for number in range(SHARDS)]
    store.put(f"s3://{BUCKET}/runs/{RUN}/plan/part.jsonl", b"".join(lines))
    ledger.runs.add_part(RUN, PartRecord(0, "part.jsonl", 0, SHARDS, SHARDS, 12, Position()))
    places = [(sum(map(len, lines[:number])), len(line)) for number, line in enumerate(lines)]
    ledger.shards.add(
        ShardRecord(RUN, number, "part.jsonl", *place, 1, 4, engine=ENGINE) for number, place in enumerate(places)
    )
    ledger.runs.seal_plan(RUN, SHARDS, SHARDS, 12)
    env = {"SPARKLET_BUCKET": BUCKET, "SPARKLET_LEDGER_TABLE": TABLE}
    engines = {ENGINE: MicroVms(clients=clients, env=env, image=IMAGE, role=ROLE, workers=1)}
    return Deployment(BUCKET, store, ledger, MemoryTaskQueue(), SystemClock(), engines=engines)


def test_a_stopped_machine_is_followed_by_one_that_ends(
    clients: AwsClients, machines: Machines, tmp_path: Path
) -> None:
    """The first gives back its shard and takes no other; the second does all, and terminates itself."""
    at = planned(clients, tmp_path / "first")
    run, engine = at.ledger.runs.get(RUN), at.engines[ENGINE]

    assert start_workers(at, run).started == 1
    [first] = machines.processes
    eventually((tmp_path / "first").exists, 120)
    assert start_workers(at, run).started == 0  # the fleet is full
    engine.stop(first)

    assert machines.processes[first].wait(60) == 0
    assert first in engine.stopped([first])
    assert [record.state for record in at.ledger.shards.list(RUN)] == [ShardState.PENDING] * SHARDS

    assert start_workers(at, run).started == 1
    second = list(machines.processes)[-1]
    assert machines.processes[second].wait(120) == 0, machines.log(second).read_text()
    records = [*at.ledger.shards.list(RUN)]
    assert [(record.state, record.rows) for record in records] == [(ShardState.SUCCEEDED, 7)] * SHARDS
    assert {record.task_id for record in records} == {second}
    assert {record.log_stream for record in records} == {record.log_stream for record in records[:1]}  # its machine's
    assert second in engine.stopped([second])  # nobody had to tell it
    jvms = [int(pid) for pid in (tmp_path / "jvms").read_text().split()]
    assert [jvms[:1], [*{*jvms[1:]}]] == [machines.jvms[first], machines.jvms[second]]  # the snapshot's, for all shards
