"""The local stack for clients: start the emulator of AWS or attach to it, and use its deployment.

::

    client ──shared lock──▶ clients.lock ◀──watches── host (own session, reaps orphans)
                                                       └─ emulator (ministack, 127.0.0.1, own state folder)
                                                            └─ worker processes ─ JVMs, scripts

However a client ends, the kernel releases its lock; when no client holds it, the host ends everything below itself.
"""

import hashlib
import os
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from sparklet import __version__
from sparklet.aws.clients import AwsClients
from sparklet.aws.services import StepFunctionsOrchestrator, compose
from sparklet.connectors.data_catalog.glue import GlueCatalog
from sparklet.engines.create import clusters_of, engines_of
from sparklet.errors import LocalStackError, SettingsError
from sparklet.local import environment
from sparklet.local.attach import (
    Progress,
    attach_or_start,
    differences_between,
    end_host,
    published,
    start_lock,
    why_it_ended,
)
from sparklet.local.deploy import Deployed
from sparklet.local.environment import LEAST_WAIT_S, PROCESSING_PATH, REGION, ask
from sparklet.local.lock import POLL_S, Lock
from sparklet.local.process_engine import LocalProcesses
from sparklet.local.spark_installation import stack_file
from sparklet.local.state import StateDir
from sparklet.model.options import PROCESS
from sparklet.planning.routes import SPARK_LINE
from sparklet.ports.deployment import Deployment
from sparklet.settings import engines, of_workers


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """A client's settings of the stack; a running stack may have others, see ``LocalStack.attach``."""

    state_dir: Path
    workers: int = 2
    timeout_s: int = 900  # of one shard
    memory_mb: int = 3008  # of one worker
    runner: str = "warm"
    processing: bool = True  # False: messages and schedules wait until another client processes them
    keep: bool = False  # the stack outlives its clients, until it is stopped
    replace_kept: bool = False  # deploy even a kept stack anew, if it has no clients
    max_receive_count: int = 20
    worker_env: Mapping[str, str] = field(default_factory=dict)
    asked: Collection[str] = ()  # which of these, or of the workers' variables, the user chose
    handlers: Mapping[str, str] = field(default_factory=dict)  # dotted, by logical id, instead of the template's

    def __post_init__(self) -> None:
        for name, most in (("workers", 1000), ("timeout_s", 7200), ("memory_mb", 10240), ("max_receive_count", 60)):
            if not 1 <= (value := getattr(self, name)) <= most:
                raise SettingsError(f"{name} is {value}; it must lie between 1 and {most}")
        if self.runner not in ("warm", "submit"):
            raise SettingsError(f"runner is {self.runner!r}; it must be warm or submit")

    def asked_for(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a request that the user chose, and the version; each variable of the workers by its own name."""
        return {
            name: setting
            for name, setting in {**request, **self.worker_env}.items()
            if name in {"version", *self.asked}
        }

    def request(self) -> dict[str, Any]:
        """The host's request, which clients that share a stack have in common."""
        from sparklet.local.deploy import load_template, to_json

        template = hashlib.sha256(to_json(load_template()).encode()).hexdigest()[:12]
        local_names = ("state_dir", "keep", "replace_kept", "asked")
        shared_options = {name: value for name, value in asdict(self).items() if name not in local_names}
        return {**shared_options, "version": f"{__version__}, template {template}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StackInfo(Deployed):
    """A running stack: its resources and its addresses."""

    endpoint_url: str
    host_pid: int
    workers: int
    timeout_s: int
    memory_mb: int
    env: Mapping[str, str]  # makes any AWS library speak to this stack and nothing else


class LocalStack(AbstractContextManager["LocalStack"]):
    """A client's hold on the running stack, given back at the end of its block; the host ends the stack after the last.

    Meanwhile this process' AWS settings and proxies are the stack's: the user's credentials cannot be used by mistake.
    ``info`` describes the stack, ``clients`` are clients of its services.
    """

    def __init__(self, state: StateDir, info: StackInfo, holding: ExitStack) -> None:
        self._state = state
        self._holding = holding
        self.clients = AwsClients(endpoint_url=info.endpoint_url, region=REGION, least_wait_s=LEAST_WAIT_S).load()
        self.info = info

    @cached_property
    def orchestrator(self) -> StepFunctionsOrchestrator:
        """The stack's state machines."""
        return StepFunctionsOrchestrator(self.clients)

    @classmethod
    def attach(cls, options: StackOptions, progress: Progress = lambda text: None) -> Self:
        """Attach to the stack of a state folder; start it first if it does not run, else LocalStackError.

        Clients share one stack. If the settings differ, a single client has it deployed anew; beside others it uses the
        stack as it is, and ``progress`` gets the differences from what its user asked for.
        """
        state, request = StateDir(options.state_dir), options.request()
        _make(state)
        with ExitStack() as holding:
            with start_lock(state, progress):
                hold = holding.enter_context(Lock(state.clients_lock))
                document = attach_or_start(
                    state, request, hold, progress, keep=options.keep, replace_kept=options.replace_kept
                )
            info = stack_info(document)
            if options.processing:
                runs = {**document["request"], **document["request"]["worker_env"]}
                if listed := "; ".join(differences_between(options.asked_for(request), runs)):
                    progress(f"the local stack runs already and is used as it is ({listed}); `sparklet stop` ends it")
                # A client that only reads may have started the stack, and then it rests.
                ask(document["endpoint_url"], document["token"], PROCESSING_PATH)
            holding.enter_context(environment.applied(info.env))
            # An error before this line gives the lock back; from here on the instance does.
            return cls(state, info, holding.pop_all())

    def check(self, within_s: float = 0.0) -> None:
        """Raise LocalStackError, with cause and remedy, if the stack has ended under this client.

        After a refused connection set ``within_s`` to 2: the host may take so long to notice.
        """
        end_s = time.monotonic() + within_s
        while published(self._state) is not None:
            if time.monotonic() >= end_s:
                return
            time.sleep(POLL_S)
        raise LocalStackError(why_it_ended(self._state))

    def deployment(self) -> Deployment:
        """The stack's ports for planning, checking and recovery."""
        names = self.info.bucket, self.info.ledger_table, self.info.queue_url
        tasks, named = LocalProcesses(self._state.tasks), engines()
        functions = partial(of_workers, {**os.environ, SPARK_LINE: stack_file().stem})
        of_template = engines_of(self.clients, engines({"SPARKLET_ENGINES": self.info.engines}), {}, functions)
        engines_here = {**clusters_of(named, tasks, functions), PROCESS: tasks, **of_template}
        catalog = GlueCatalog(self.clients).objects
        return compose(self.clients, *names, engines=engines_here, functions=functions, catalog=catalog)

    def __exit__(self, *_: object) -> None:
        self._holding.close()


def running(state_dir: Path) -> StackInfo | None:
    """The stack that runs in a state folder, if one does."""
    document = published(StateDir(state_dir))
    return None if document is None else stack_info(document)


def stop(state_dir: Path, progress: Progress = lambda text: None) -> bool:
    """End the stack of a state folder, even while clients use it; False if none ran. Its state is saved."""
    state = StateDir(state_dir)
    if not state.root.is_dir():
        return False
    with start_lock(state, progress):
        state.keep_file.unlink(missing_ok=True)
        return end_host(state)


def _make(state: StateDir) -> None:
    """Make the state folder; refuse a full disk, unless a stack runs there already."""
    try:
        if published(state) is None:
            state.refuse_full_disk()
        state.create()
    except OSError as error:
        raise LocalStackError(
            f"the state folder {state.root} cannot be used: {error.strerror}; "
            "name another with --state-dir or SPARKLET_STATE_DIR"
        ) from error


def stack_info(document: Any) -> StackInfo:
    """A stack, by the document that its host published."""
    request = document["request"]
    return StackInfo(
        **document["deployed"],
        **{name: request[name] for name in ("workers", "timeout_s", "memory_mb")},
        endpoint_url=document["endpoint_url"],
        host_pid=document["host_pid"],
        env=environment.of_client(document["endpoint_url"], document["token"]),
    )
