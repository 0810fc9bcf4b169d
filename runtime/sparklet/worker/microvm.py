"""The program of a Lambda MicroVM: before the snapshot it rehearses, after it it does shards of one run.

Lambda calls hooks: ``ready`` until the snapshot may be taken, ``run`` in each machine restored from it, with its id and
what ``aws.microvms`` gave it, ``terminate`` at its end. Any other answer than 200, or 503 from ``ready``, ends the
machine. Up to ``run`` nothing of a stack is known here (docs/decisions/0045-microvms-as-an-engine.md).
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any

from sparklet.errors import RemoteTaskError, SettingsError, SparkletError
from sparklet.model import ShardState
from sparklet.settings import spark_settings, worker_settings
from sparklet.spark.runner import Runner
from sparklet.spark.warm_gateway import WarmRunner, runner_for
from sparklet.worker.handler import worker_over_aws
from sparklet.worker.log import Log
from sparklet.worker.one_shard import ShardCommand, container_memory_mb, parse, run_one
from sparklet.worker.rehearsal import rehearse, renew
from sparklet.worker.shards import ShardClaims
from sparklet.worker.worker import Worker

PORT = 9000  # the image's hooks name it
HOOKS = "/aws/lambda-microvms/runtime/v1/"
WARMS_UP_WITHIN_S = 300.0
TERMINATES_WITHIN_S = 50.0  # of the 60 that the hook may take


@dataclass
class Machine:
    """What the hooks have said, and are told."""

    ready: threading.Event = field(default_factory=threading.Event)
    asked: "SimpleQueue[Mapping[str, Any]]" = field(default_factory=SimpleQueue)  # the body of ``run``
    stopping: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def answer(self, hook: str, body: bytes) -> int:
        """Do what a hook says; its status."""
        if hook in ("ready", "validate"):
            return 200 if self.ready.is_set() else 503
        if hook == "run":
            self.asked.put(json.loads(body))
        elif hook == "terminate" and not self.done.is_set():
            self.stopping.set()
            os.kill(os.getpid(), signal.SIGTERM)  # the script ends, its shard is given back: see ``one_shard``
            self.done.wait(TERMINATES_WITHIN_S)
        return 200

    def serve(self, port: int = PORT) -> ThreadingHTTPServer:
        """Answer hooks from now on, in threads of their own."""
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hook = self.path.removeprefix(HOOKS)
                self.send_response(404 if hook == self.path else answer(hook, body))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
                pass

        server = ThreadingHTTPServer(("0.0.0.0", port), Handler)  # noqa: S104 - hooks come from outside
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


def drain(shards: ShardClaims, worker: Worker, command: ShardCommand, machine_id: str, machine: Machine) -> None:
    """Do the shard, then others of its run and engine that no worker is started for, in the first half of the time.

    Each is first noted as this machine's, as the checker does it (``runs.engines``).
    """
    ledger, clock = shards.ledger, shards.clock
    ends_s, life_s = clock.now_s() + command.timeout_s, command.timeout_s
    goes_on = not ledger.runs.get(command.run_id).options.max_concurrency
    first = ledger.shards.get(command.run_id, command.shard)
    if first.state is ShardState.PENDING and first.task_id != machine_id:
        ledger.attempts.count_requeue(first, task_id=machine_id)
    run_one(shards, worker, command)
    while goes_on and not machine.stopping.is_set() and (left_s := ends_s - clock.now_s()) >= life_s / 2:
        waiting = ledger.shards.for_engines(command.run_id)
        mine = (each for each in waiting if each.engine == first.engine and each.requeues <= each.attempts)
        taken = next(filter(None, (ledger.attempts.count_requeue(each, task_id=machine_id) for each in mine)), None)
        if taken is None:
            return
        run_one(shards, worker, replace(command, shard=taken.number, generation=taken.generation, timeout_s=left_s))


def main(port: int = PORT) -> int:
    """Entry point of the machine, which terminates itself at the end. Raises if no JVM has rehearsed."""
    from sparklet.aws.clients import rehearse_clients

    log, machine = Log(), Machine()
    machine.serve(port)
    settings = worker_settings()
    runner = runner_for(settings, replace(spark_settings(), memory_mb=container_memory_mb()))
    runner.start()
    assert isinstance(runner, WarmRunner)
    if not rehearse(runner, settings.scratch, limit_s=WARMS_UP_WITHIN_S, clients=rehearse_clients):
        raise SettingsError("no JVM has rehearsed, so there is nothing to take a snapshot of")
    machine.ready.set()
    asked = machine.asked.get()  # the snapshot is taken while this waits
    renew(runner)
    try:
        work(machine, runner, asked)
    except SparkletError as error:
        log.error(str(error), error_class=type(error).__name__)
    finally:
        runner.close()
        machine.done.set()
        terminate(log, asked["microvmId"])
    return 0


def work(machine: Machine, runner: Runner, asked: Mapping[str, Any]) -> None:
    """Do what the payload says."""
    given = json.loads(asked["runHookPayload"])
    os.environ.update(given["env"])
    worker = worker_over_aws(worker_settings(), runner)
    if worker.shards is None:
        raise SettingsError("the payload names no ledger and bucket")
    worker.shards.log_stream = given["log_stream"]
    drain(worker.shards, worker, parse(given["command"][1:]), asked["microvmId"], machine)


def terminate(log: Log, machine_id: str) -> None:
    """End this machine, and what it costs."""
    from sparklet.aws.clients import AwsClients, failing_as

    try:
        with failing_as(RemoteTaskError, f"{machine_id} could not be terminated"):
            AwsClients().microvms.terminate_microvm(microvmIdentifier=machine_id)
    except SparkletError as error:
        log.error(f"{error}; it costs money until its time is over")


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
