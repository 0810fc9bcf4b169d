"""What every ``Engine`` promises: in memory, as a local process, and on AWS's services.

An engine starts workers for single shards that functions cannot do.
"""

import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.engines.create import CLUSTERS, KINDS, clusters_of, engines_of
from sparklet.engines.emr_serverless import EmrServerlessJobs
from sparklet.errors import RemoteTaskError
from sparklet.local.process_engine import LocalProcesses, ProcessRunner
from sparklet.local.state import StateDir
from sparklet.model.options import LARGE
from sparklet.ports import Engine
from tests.stand_ins.engines import EXAMPLES
from tests.stand_ins.memory import MemoryEngine
from tests.waiting import POLL_S, eventually

COMMAND = ("shard", "--run", "no-such-run", "--shard", "0", "--generation", "0")


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[ProcessRunner]:
    """A runner of local workers that looks for new tasks again and again, as the local stack's host does."""
    state, ended = StateDir(tmp_path / "state"), threading.Event()
    state.create()
    runner = ProcessRunner(state, dict(os.environ))

    def look() -> None:
        while not ended.wait(POLL_S):
            runner.handle_requests()

    thread = threading.Thread(target=look)
    thread.start()
    yield runner
    eventually(lambda: not runner.handle_requests())
    ended.set()
    thread.join()


OF_AWS = [pytest.param(name, marks=pytest.mark.stack) for name in EXAMPLES]


@pytest.fixture(params=["memory", "process", "standalone", "connect", *OF_AWS])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    if request.param == "memory":
        return MemoryEngine()
    if request.param in ("process", *CLUSTERS):
        request.getfixturevalue("runner")
        tasks = LocalProcesses(tmp_path / "state" / "tasks")
        named = {"standalone": {"master": "spark://127.0.0.1:1"}, "connect": {"remote": "sc://127.0.0.1:1"}}
        return {"process": tasks, **clusters_of(named, tasks)}[request.param]
    return of_aws(request.param, request.getfixturevalue("ministack_clients"))


def of_aws(name: str, clients: AwsClients) -> Engine:
    """An engine on the stand-in, under the name that SPARKLET_ENGINES has for it."""
    own = f"shards-{uuid.uuid4().hex[:8]}"
    clients, settings = EXAMPLES[name].make(clients, own)
    clients.s3.create_bucket(Bucket=own)
    return engines_of(clients, {name: settings}, {"SPARKLET_BUCKET": own, "SPARKLET_LEDGER_TABLE": "ledger"})[name]


def test_every_engine_is_in_this_suite() -> None:
    """The large function is not: it does not report that a worker has ended."""
    assert {*EXAMPLES, *CLUSTERS, LARGE} == {*KINDS}


def test_a_worker_that_is_stopped_has_stopped_with_a_cause(engine: Engine) -> None:
    task_id = engine.start("token-1", COMMAND)

    engine.stop(task_id)

    cause = eventually(lambda: engine.stopped([task_id]).get(task_id))
    assert cause.error_class
    assert cause.message
    assert engine.stopped([]) == {}  # only the tasks in the request are reported


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "fargate"])
@pytest.mark.stack
def test_the_same_token_starts_no_second_job(ministack_clients: AwsClients, name: str) -> None:
    """The stand-ins of EMR and Glue have no tokens, as the services have none."""
    engine = of_aws(name, ministack_clients)

    task_id = engine.start("token-1", COMMAND)

    assert engine.start("token-1", COMMAND) == task_id
    assert engine.start("token-2", COMMAND) != task_id


@pytest.mark.stack
def test_an_upgrade_between_two_starts_is_no_failure(ministack_clients: AwsClients) -> None:
    """The checker was replaced before it noted the job, so a second job starts; it will find its shard held."""
    engine = of_aws("emr-serverless", ministack_clients)
    assert isinstance(engine, EmrServerlessJobs)
    task_id = engine.start("token-1", COMMAND)

    upgraded = replace(engine, env={**engine.env, "SPARKLET_NEW": "1"})

    assert upgraded.start("token-1", COMMAND) != task_id


def test_the_same_token_is_the_same_local_worker(runner: ProcessRunner, tmp_path: Path) -> None:
    """Fargate is not tested here: its token goes to ECS, whose stand-in ignores it."""
    engine = LocalProcesses(tmp_path / "state" / "tasks")

    task_id = engine.start("token-1", COMMAND)
    eventually(lambda: engine.stopped([task_id]))

    assert engine.start("token-1", COMMAND) == task_id
    assert "exit status 2" in engine.stopped([task_id])[task_id].message  # the worker ended by itself
    assert len(list((tmp_path / "state" / "log").glob("worker-*.log"))) == 1


def test_a_second_local_worker_has_no_room(tmp_path: Path) -> None:
    engine = LocalProcesses(tmp_path)
    engine.start("token-1", COMMAND)

    with pytest.raises(RemoteTaskError) as raised:
        engine.start("token-2", COMMAND)

    assert raised.value.reason == "throttled"
    assert engine.start("token-1", COMMAND)


def test_a_worker_of_an_earlier_local_stack_has_stopped(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.create()
    task_id = LocalProcesses(state.tasks).start("token-1", COMMAND)

    state.delete_leftovers()

    assert task_id in LocalProcesses(state.tasks).stopped([task_id])


def test_a_local_worker_ends_when_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike those of the tests above, this worker does not end by itself."""
    (tmp_path / "sleeper.py").write_text("import time\ntime.sleep(3600)\n")
    monkeypatch.setattr("sparklet.local.process_engine.ONE_SHARD", "sleeper")
    state = StateDir(tmp_path / "state")
    state.create()
    runner, engine = ProcessRunner(state, {"PYTHONPATH": str(tmp_path)}), LocalProcesses(state.tasks)
    task_id = engine.start("token-1", COMMAND)
    assert runner.handle_requests()

    engine.stop(task_id)

    eventually(lambda: not runner.handle_requests())
    assert "exit status -15" in engine.stopped([task_id])[task_id].message
