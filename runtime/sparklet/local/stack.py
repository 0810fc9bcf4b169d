"""The embedded local default: start or join the stand-in for AWS, and use what is deployed in it.

::

    client ──shared lock──▶ clients.lock ◀──watches── host (own session, adopts orphans)
                                                       └─ stand-in (ministack, 127.0.0.1, own state folder)
                                                            └─ worker processes ─ JVMs, scripts

However a client ends, the kernel takes its lock back; when nobody holds it the host ends everything below it.
"""

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sparklet.errors import LocalStackError
from sparklet.local import environment
from sparklet.local.control import REGION, Control
from sparklet.local.disk import refuse_full
from sparklet.local.joining import (
    Progress,
    alone_at_the_door,
    differences_between,
    end_host,
    join_or_start,
    published,
    why_it_ended,
)
from sparklet.local.stack_options import StackInfo, StackOptions
from sparklet.local.state import Lock, StateDir

if TYPE_CHECKING:
    from sparklet.aws.clients import AwsClients
    from sparklet.fanout.deployment import Deployment
    from sparklet.ports import Compute, Ledger, ObjectStore, Orchestrator, TaskQueue

__all__ = ["LocalStack", "StackInfo", "StackOptions", "end_if_unused", "running", "stop"]

_POLL_S = 0.05


class LocalStack:
    """A client's hold on the running stack; leaving it gives the hold back.

    While it is held, this process' AWS settings and proxies are those of the stack: no credentials of the
    user's can be used by mistake. ``info`` says what runs; ``differences`` what was wanted otherwise.
    """

    def __init__(self, state: StateDir, info: StackInfo, differences: tuple[str, ...], holding: ExitStack) -> None:
        self._state = state
        self._holding = holding
        self._clients: AwsClients | None = None
        self.info = info
        self.differences = differences

    @classmethod
    def attach(cls, options: StackOptions, progress: Progress = lambda text: None) -> Self:
        """Join the stack of a state folder; start it first if it does not run.

        Clients that come at the same time share one stack. One that comes alone and wants it
        otherwise has it deployed anew; with others there, what runs is used and ``progress`` told so.

        Raises
        ------
        LocalStackError
            If it cannot be started; says why and where the log is.
        """
        state = StateDir(options.state_dir.expanduser().absolute())
        _make(state)
        with ExitStack() as holding:
            with alone_at_the_door(state, progress):
                hold = holding.enter_context(Lock(state.clients_lock))
                document = join_or_start(state, options, hold, progress)
            info = _info(state, document)
            differences = differences_between(options.order(), document["order"]) if options.processing else ()
            if differences:
                told = "; ".join(differences)
                progress(f"the local stack runs already and is used as it is ({told}); `sparklet stop` ends it")
            if options.processing:
                _control(document).start_processing()
            holding.enter_context(environment.adopted(info.env))
            return cls(state, info, differences, holding.pop_all())

    def check(self, within_s: float = 0.0) -> None:
        """Raise LocalStackError, with cause and remedy, if the stack has ended under this client.

        Whoever just met a refused connection should wait two seconds ``within_s``: so long the host may take to notice.
        """
        end_s = time.monotonic() + within_s
        while published(self._state) is not None:
            if time.monotonic() >= end_s:
                return
            time.sleep(_POLL_S)
        raise LocalStackError(why_it_ended(self._state))

    def store(self) -> "ObjectStore":
        """The stack's S3."""
        from sparklet.aws.s3 import S3Store

        return S3Store(self._aws())

    def queue(self) -> "TaskQueue":
        """The queue of shard messages."""
        from sparklet.aws.messaging import SqsQueue

        return SqsQueue(self._aws(), self.info.queue_url)

    def dlq(self) -> "TaskQueue":
        """The dead-letter queue."""
        from sparklet.aws.messaging import SqsQueue

        return SqsQueue(self._aws(), self.info.dlq_url)

    def ledger(self) -> "Ledger":
        """The ledger."""
        from sparklet.aws.dynamodb import DynamoLedger

        return DynamoLedger(self._aws(), self.info.ledger_table)

    def compute(self) -> "Compute":
        """The stack's functions."""
        from sparklet.aws.functions import LambdaCompute

        return LambdaCompute(self._aws())

    def orchestrator(self) -> "Orchestrator":
        """The stack's state machines; ``info`` names them."""
        from sparklet.aws.orchestration import StepFunctions

        return StepFunctions(self._aws())

    def deployment(self) -> "Deployment":
        """Everything that planning, checking and recovery work on."""
        from sparklet.aws.s3 import input_stores
        from sparklet.clock import SystemClock
        from sparklet.fanout.deployment import Deployment

        inputs = input_stores(self._aws())
        return Deployment(self.info.bucket, self.store(), self.ledger(), self.queue(), SystemClock(), inputs)

    def close(self) -> None:
        """Give the hold back; the host ends the stack if it was the last."""
        self._holding.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _aws(self) -> "AwsClients":
        from sparklet.aws.clients import AwsClients

        if self._clients is None:
            self._clients = AwsClients(endpoint_url=self.info.endpoint_url, region=self.info.region)
        return self._clients


def running(state_dir: Path) -> StackInfo | None:
    """The stack that runs in a state folder, if one does."""
    state = StateDir(state_dir.expanduser().absolute())
    document = published(state)
    return None if document is None else _info(state, document)


def stop(state_dir: Path, progress: Progress = lambda text: None) -> bool:
    """End the stack of a state folder, whoever uses it; False if none ran. Its state is saved."""
    state = StateDir(state_dir.expanduser().absolute())
    if not state.root.is_dir():
        return False
    with alone_at_the_door(state, progress):
        state.keep_file.unlink(missing_ok=True)
        return end_host(state)


def end_if_unused(state_dir: Path, progress: Progress = lambda text: None) -> bool:
    """End a stack that is kept though nobody uses it just now; False if somebody does, or none runs."""
    state = StateDir(state_dir.expanduser().absolute())
    if not state.root.is_dir():
        return False
    with alone_at_the_door(state, progress), Lock(state.clients_lock) as clients:
        if not clients.try_exclusive():
            return False
        clients.release()  # the host needs it to its end; nobody comes in meanwhile
        state.keep_file.unlink(missing_ok=True)
        return end_host(state)


def _make(state: StateDir) -> None:
    """Make the state folder, if there is room for it, and nobody needs more of it already."""
    try:
        if published(state) is None:
            refuse_full(state.root)
        state.create()
    except OSError as error:
        told = f"the state folder {state.root} cannot be used: {error.strerror}"
        raise LocalStackError(f"{told}; name another with --state-dir or SPARKLET_STATE_DIR") from error


def _info(state: StateDir, document: Any) -> StackInfo:
    deployed, order = document["deployed"], document["order"]
    endpoint_url = document["endpoint_url"]
    return StackInfo(
        endpoint_url=endpoint_url,
        region=REGION,
        bucket=deployed["bucket"],
        # The stand-in names queues by an address that no port changes; only account and name count.
        queue_url="/".join([endpoint_url, *deployed["queue_url"].split("/")[-2:]]),
        dlq_url="/".join([endpoint_url, *deployed["dlq_url"].split("/")[-2:]]),
        ledger_table=deployed["ledger_table"],
        worker_function=deployed["worker_function"],
        checker_function=deployed["checker_function"],
        dlq_function=deployed["dlq_function"],
        loop_machine=deployed["loop_machine"],
        map_machine=deployed["map_machine"],
        host_pid=document["host_pid"],
        workers=order["workers"],
        timeout_s=order["timeout_s"],
        memory_mb=order["memory_mb"],
        runner=order["runner"],
        log_dir=state.log,
        env=environment.of_client(endpoint_url, document["token"]),
    )


def _control(document: Any) -> Control:
    return Control(document["endpoint_url"], document["token"])
