"""Stands in for Lambda's event source mapping: pollers that receive, invoke and delete, with its rules.

A poller receives up to ten messages, invokes its environment with each (the template's batch size is 1), deletes those
that ``batchItemFailures`` does not name, and leaves the others, and those whose environment died, to their visibility.
It is not hurt by a worker's death: it gets a new environment. For a run whose dispatch is a map the pollers first walk
through its index: one direct invocation for each line, tried again where the answer was an error.

    python -m benchmarks.scale.mapping WORLD
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from mmap import mmap
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmarks.scale import environment
from benchmarks.scale.faults import Faults
from benchmarks.scale.notes import STARVED, TWICE, Notes
from benchmarks.scale.world import MAX_RECEIVES, REGION, World, set_environment
from sparklet.aws.clients import AwsClients
from sparklet.aws.object_store import S3ObjectStore
from sparklet.spark.processes import die_with_parent

Answer = Any  # None: the environment died
FORK = multiprocessing.get_context("fork")
WAIT_S = 1
TRIES, RETRY_S = 3, 0.2  # of a walker
INDEX = "index"  # a note with the address of the run's index, once the Map has begun
QUEUE_ARN = f"arn:aws:sqs:{REGION}:000000000000:"


class Environment:
    """A worker's process; replaced after its death."""

    def __init__(self, world: World, clients: AwsClients, met: mmap) -> None:
        self._world, self._clients, self._met = world, clients, met
        self._fork()

    def _fork(self) -> None:
        ours, theirs = FORK.Pipe()
        self._process = FORK.Process(target=self._serve, args=(theirs, ours), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe: Connection = ours

    def _serve(self, pipe: Connection, other: Connection) -> None:
        other.close()
        die_with_parent(os.getppid())
        environment.serve(self._world, self._clients, self._met, pipe)

    def invoke(self, event: Any) -> Answer:
        """Begin an invocation and wait for its answer."""
        self.begin(event)
        return self.answer()

    def begin(self, event: Any) -> None:
        """Begin an invocation."""
        self._pipe.send(event)

    def answer(self) -> Answer:
        """The answer to what was begun; None if the worker died of it, and there is a new one then."""
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._pipe.close()
            self._process.join()
            if self._process.exitcode != environment.KILLED:
                raise
            self._fork()
            return None

    def close(self) -> None:
        """End it, when it is at rest."""
        self._pipe.send(None)
        self._process.join()
        self._pipe.close()


class Poller:
    """Receives, invokes, deletes."""

    def __init__(self, world: World, met: mmap) -> None:
        self._world, self._met = world, met
        self._faults = Faults(world.seed, world.faults)
        self._notes = Notes(world.notes, "poller")
        self._at_rest = environment.clients_at_rest(world)
        self._clients = world.clients()
        self._url = world.queue_url(self._clients)
        self._environment = Environment(world, self._at_rest, met)
        self._twin: Environment | None = None

    def turn(self) -> int:
        """Up to ten messages; how many there were."""
        answer = self._clients.sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=WAIT_S,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        messages: Sequence[Any] = answer.get("Messages", [])
        done = [message for message in messages if self._done(message)]
        if done:
            entries: Any = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(done)]
            self._clients.sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
        return len(messages)

    def _done(self, message: Mapping[str, Any]) -> bool:
        """Invoke the worker with one message; whether it is to be deleted."""
        body = json.loads(message["Body"])
        if self._starves(message, body["shard"]):
            return False
        event = self._event(message)
        double = twice(self._faults, self._notes, self._met, body["shard"])
        if double == "later":
            self._clients.sqs.send_message(QueueUrl=self._url, MessageBody=message["Body"])
        answers = [self._environment.invoke(event)] if double != "at once" else self._invoke_twice(event)
        return any(answer is not None and acknowledged(answer) for answer in answers)

    def _invoke_twice(self, event: Any) -> list[Answer]:
        """One message to two environments at one time."""
        self._twin = self._twin or Environment(self._world, self._at_rest, self._met)
        self._environment.begin(event)
        self._twin.begin(event)
        return [self._environment.answer(), self._twin.answer()]

    def _starves(self, message: Mapping[str, Any], shard: int) -> bool:
        """Give a message of a starved shard back uninvoked, until it is a dead letter: what throttling does."""
        if not self._faults.starved(shard) or self._met[shard] & environment.STARVED_OUT:
            return False
        self._notes.add(STARVED, shard)
        if int(message["Attributes"]["ApproximateReceiveCount"]) >= MAX_RECEIVES:
            self._met[shard] |= environment.STARVED_OUT
        self._clients.sqs.change_message_visibility(
            QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )
        return True

    def _event(self, message: Mapping[str, Any]) -> Any:
        """The event as Lambda makes it of one message."""
        record = {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": f"{QUEUE_ARN}{self._world.run_id}",
            "awsRegion": REGION,
        }
        return {"Records": [record]}

    def close(self) -> None:
        """End the environments."""
        for each in (self._environment, self._twin):
            if each is not None:
                each.close()


class Walker(Poller):
    """One of the concurrent iterations of a Map state, a child for each of its lines of the index; a poller then."""

    def __init__(self, world: World, met: mmap, place: int) -> None:
        super().__init__(world, met)
        self._place, self._walked = place, False
        self._store = S3ObjectStore(world.clients())

    def turn(self) -> int:
        """Its lines of the index, once that is there; later up to ten messages; how many there were."""
        index = self._world.notes / INDEX
        if self._walked:
            return super().turn()
        if not index.exists():
            time.sleep(0.1)
            return 0
        lines = self._store.get(index.read_text()).splitlines()[self._place :: self._world.pollers]
        for line in lines:
            self._child(json.loads(line))
        self._walked = True
        return len(lines)

    def _child(self, event: Mapping[str, Any]) -> None:
        """One invocation, tried again as the state's Retry does; what is not done then gets a message."""
        if twice(self._faults, self._notes, self._met, event["shard"]):
            self._environment.invoke(event)
        for tries in range(TRIES):
            answer = self._environment.invoke(event)
            if answer is not None and acknowledged(answer):
                return
            time.sleep(RETRY_S * 2**tries)


def twice(faults: Faults, notes: Notes, met: mmap, shard: int) -> str:
    """How a shard is delivered twice just now: at most once."""
    how = faults.twice(shard)
    if not how or met[shard] & environment.DOUBLED:
        return ""
    met[shard] |= environment.DOUBLED
    notes.add(TWICE, shard, how)
    return how


def acknowledged(answer: Any) -> bool:
    """Whether an invocation's answer lets the message be forgotten."""
    return "errorType" not in answer and not answer.get("batchItemFailures")


def main() -> None:
    """Poll until told to end (SIGTERM)."""
    set_environment()
    die_with_parent(os.getppid(), signal.SIGTERM)
    world = World.from_json(sys.argv[1])
    os.environ |= world.function_environment(world.clients(), world.notes)
    met = mmap(-1, world.shards + 1)
    running = [FORK.Process(target=_poll, args=(world, met, place)) for place in range(world.pollers)]
    for process in running:
        process.start()
    signal.signal(signal.SIGTERM, lambda *_: _end(met))
    while waiting := [process for process in running if process.is_alive()]:
        wait([process.sentinel for process in waiting])
        if any(process.exitcode for process in running):  # an error of this stand-in: nothing would be as it should
            for process in running:
                process.kill()
            sys.exit(1)


def _end(met: mmap) -> None:
    met[len(met) - 1] = 1


def _poll(world: World, met: mmap, place: int) -> None:
    die_with_parent(os.getppid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    poller = Poller(world, met) if world.dispatch == "queue" else Walker(world, met, place)
    while not met[len(met) - 1]:
        poller.turn()
    poller.close()


if __name__ == "__main__":
    main()
