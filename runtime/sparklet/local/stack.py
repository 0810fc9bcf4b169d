"""The local stack for clients: start the emulator of AWS or attach to it, and use its deployment.

::

    client ──shared lock──▶ clients.lock ◀──watches── host (own session, reaps orphans)
                                                       └─ emulator (ministack, 127.0.0.1, own state folder)
                                                            └─ worker processes ─ JVMs, scripts

However a client ends, the kernel releases its lock. When no client holds the lock, the host stops all processes below.
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
    published_document,
    start_lock,
    why_it_ended,
)
from sparklet.local.deploy import Deployed
from sparklet.local.environment import LEAST_WAIT_S, PROCESSING_PATH, REGION, send_request
from sparklet.local.lock import POLL_S, Lock
from sparklet.local.process_engine import LocalProcesses
from sparklet.local.spark_installation import stack_file
from sparklet.local.state import StateDir
from sparklet.model.options import PROCESS
from sparklet.planning.routes import SPARK_LINE
from sparklet.ports.deployment import Deployment
from sparklet.settings import engines, script_variables


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """The settings that a client wants for the stack. A running stack can have others: see ``LocalStack.attach``."""

    state_dir: Path
    workers: int = 2
    timeout_s: int = 900  # of one shard
    memory_mb: int = 3008  # of one worker
    runner: str = "warm"
    processing: bool = True  # False: messages and schedules wait until another client starts their processing
    keep: bool = False  # the stack outlives its clients, until it is stopped
    replace_kept: bool = False  # if a kept stack differs and has no other client, deploy it anew
    max_receive_count: int = 20
    worker_env: Mapping[str, str] = field(default_factory=dict)
    chosen: Collection[str] = ()  # the names of the settings, and of the workers' variables, that the user chose
    handlers: Mapping[str, str] = field(default_factory=dict)  # dotted names by logical id, for the template's handlers

    def __post_init__(self) -> None:
        for name, maximum in (("workers", 1000), ("timeout_s", 7200), ("memory_mb", 10240), ("max_receive_count", 60)):
            if not 1 <= (value := getattr(self, name)) <= maximum:
                raise SettingsError(f"{name} is {value}; it must be from 1 to {maximum}")
        if self.runner not in ("warm", "submit"):
            raise SettingsError(f"runner is {self.runner!r}; it must be warm or submit")

    def chosen_settings(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the request's settings and of the workers' variables that the user chose, and the version."""
        settings = {**request, **self.worker_env}
        return {name: value for name, value in settings.items() if name in {"version", *self.chosen}}

    def shared_settings(self) -> dict[str, Any]:
        """The settings that the stack's host is started with. Clients that share a stack compare theirs with these."""
        from sparklet.local.deploy import load_template, to_json

        template = hashlib.sha256(to_json(load_template()).encode()).hexdigest()[:12]
        own_names = ("state_dir", "keep", "replace_kept", "chosen")  # settings of the client, not of the stack
        settings = {name: value for name, value in asdict(self).items() if name not in own_names}
        return {**settings, "version": f"{__version__}, template {template}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StackInfo(Deployed):
    """What clients need to know of a stack: its resources, its address, and some of its settings."""

    endpoint_url: str
    host_pid: int
    workers: int
    timeout_s: int
    memory_mb: int
    env: Mapping[str, str]  # variables by which every AWS library uses this stack, and nothing else


class LocalStack(AbstractContextManager["LocalStack"]):
    """A client's hold on the running stack, released at the end of the block. The host stops without any client.

    During the block this process' AWS settings and proxies are those of the stack, so that the user's credentials
    cannot be used by mistake. ``info`` describes the stack; ``clients`` are AWS clients of its services.
    """

    def __init__(self, state: StateDir, info: StackInfo, resources: ExitStack) -> None:
        self._state = state
        self._resources = resources  # released when this client ends
        self.clients = AwsClients(endpoint_url=info.endpoint_url, region=REGION, least_wait_s=LEAST_WAIT_S).load()
        self.info = info

    @cached_property
    def orchestrator(self) -> StepFunctionsOrchestrator:
        """The stack's state machines."""
        return StepFunctionsOrchestrator(self.clients)

    @classmethod
    def attach(cls, options: StackOptions, progress: Progress = lambda text: None) -> Self:
        """Attach to the stack of a state folder, and start it first if it does not run. LocalStackError if that fails.

        Clients share one stack. If the settings differ, a single client has the stack deployed anew. With other clients
        it uses the stack as it is, and ``progress`` gets the differences from the settings that its user chose.
        """
        state, request = StateDir(options.state_dir), options.shared_settings()
        _create(state)
        with ExitStack() as resources:
            with start_lock(state, progress):
                clients_lock = resources.enter_context(Lock(state.clients_lock))
                document = attach_or_start(
                    state, request, clients_lock, progress, keep=options.keep, replace_kept=options.replace_kept
                )
            info = stack_info(document)
            if options.processing:
                running_settings = {**document["request"], **document["request"]["worker_env"]}
                if differences := "; ".join(differences_between(options.chosen_settings(request), running_settings)):
                    progress(
                        f"the local stack runs already and is used as it is ({differences}); `sparklet stop` ends it"
                    )
                # If a client that only reads started the stack, its messages and schedules still wait.
                send_request(document["endpoint_url"], document["token"], PROCESSING_PATH)
            resources.enter_context(environment.applied(info.env))
            # After an error before this line, ``resources`` releases the lock; from here on the instance does.
            return cls(state, info, resources.pop_all())

    def check(self, within_s: float = 0.0) -> None:
        """Raise LocalStackError, with cause and remedy, if the stack has ended while this client holds it.

        After a refused connection, wait with a ``within_s`` of 2 seconds: the host can take so long to notice.
        """
        end_s = time.monotonic() + within_s
        while published_document(self._state) is not None:
            if time.monotonic() >= end_s:
                return
            time.sleep(POLL_S)
        raise LocalStackError(why_it_ended(self._state))

    def deployment(self) -> Deployment:
        """The stack's ports for planning, checking and recovery."""
        names = self.info.bucket, self.info.ledger_table, self.info.queue_url
        processes = LocalProcesses(self._state.tasks)
        functions = partial(script_variables, {**os.environ, SPARK_LINE: stack_file().stem})
        clusters = clusters_of(engines(), processes, functions)
        template_engines = engines_of(self.clients, engines({"SPARKLET_ENGINES": self.info.engines}), {}, functions)
        all_engines = {**clusters, PROCESS: processes, **template_engines}
        catalog = GlueCatalog(self.clients).objects
        return compose(self.clients, *names, engines=all_engines, functions=functions, catalog=catalog)

    def __exit__(self, *_: object) -> None:
        self._resources.close()


def running(state_dir: Path) -> StackInfo | None:
    """The stack that runs in a state folder; None if none runs."""
    document = published_document(StateDir(state_dir))
    return None if document is None else stack_info(document)


def stop(state_dir: Path, progress: Progress = lambda text: None) -> bool:
    """Stop the stack of a state folder, even while clients use it, and save its state. Returns whether one ran."""
    state = StateDir(state_dir)
    if not state.root.is_dir():
        return False
    with start_lock(state, progress):
        state.keep_file.unlink(missing_ok=True)
        return end_host(state)


def _create(state: StateDir) -> None:
    """Create the state folder. LocalStackError if the disk is full and no stack runs in the folder already."""
    try:
        if published_document(state) is None:
            state.refuse_full_disk()
        state.create()
    except OSError as error:
        raise LocalStackError(
            f"the state folder {state.root} cannot be used: {error.strerror}; "
            "name another with --state-dir or SPARKLET_STATE_DIR"
        ) from error


def stack_info(document: Any) -> StackInfo:
    """The stack that is described by the document that its host published."""
    request = document["request"]
    return StackInfo(
        **document["deployed"],
        **{name: request[name] for name in ("workers", "timeout_s", "memory_mb")},
        endpoint_url=document["endpoint_url"],
        host_pid=document["host_pid"],
        env=environment.client_env(document["endpoint_url"], document["token"]),
    )
