"""Opens the stack that a user works on, the embedded local one or a deployed one: the composition root of ``app``."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from sparklet.app.costs import WorkerSize
from sparklet.app.reporter import Reporter
from sparklet.local.state import StateDir, user_folder
from sparklet.model.options import MIB
from sparklet.ports import Compute, Orchestrator, WorkerLogs
from sparklet.ports.deployment import Deployment
from sparklet.settings import engines, planner_settings

STACK_ENDS_S = 2.0  # the host may take this long to notice that the emulator has ended


@dataclass(frozen=True)
class StackSelection:
    """Which stack a user works on, and how the local one is started if it is not running."""

    stack: str = ""  # a deployed stack's name; "": the local one
    state_dir: Path | None = None  # of the local stack; None: the user's state folder
    workers: int | None = None
    timeout_s: int | None = None
    memory_mb: int | None = None
    runner: Literal["warm", "submit"] | None = None
    keep: bool = False
    replace_kept: bool = False
    handlers: Mapping[str, str] = field(default_factory=dict)  # dotted, by logical id, instead of the template's

    @property
    def state(self) -> Path:
        """The local stack's folder."""
        return user_folder("state", self.state_dir)

    @property
    def command_options(self) -> tuple[str, ...]:
        """The command line's options that select the same stack, with the same workers."""
        value_by_option = {"--stack": self.stack, "--state-dir": self.state_dir, "--workers": self.workers}
        value_by_option |= {"--timeout": self.timeout_s, "--memory": self.memory_mb, "--runner": self.runner}
        named = (str(word) for option, value in value_by_option.items() if value for word in (option, value))
        return (*named, *(["--keep-stack"] if self.keep else []))


@dataclass(frozen=True)
class OpenStack:
    """A stack that can be worked on."""

    deployment: Deployment
    compute: Compute
    worker_function: str
    logs: WorkerLogs
    size: WorkerSize
    orchestrator: Orchestrator
    name: str = ""  # a deployed stack's
    state: Path | None = None  # the local stack's folder; None: a deployed stack
    command_options: tuple[str, ...] = ()  # that select this stack
    parameters: Mapping[str, str] = field(default_factory=dict)  # of a deployed stack
    machine: str = ""  # the ARN of the state machine that drives runs; "": an older stack has none
    check: Callable[[], None] = lambda: None  # raises LocalStackError if the local stack has ended meanwhile


@contextmanager
def open_stack(
    selection: StackSelection, reporter: Reporter, *, reading: bool = False, looking: bool = False
) -> Iterator[OpenStack]:
    """Open the selected stack; the local one is started if need be, and ends with its last user.

    A local stack started for ``reading`` alone does no work; for ``looking`` alone the state of an ended one serves.
    """
    if selection.stack:
        yield replace(_deployed(selection.stack), command_options=selection.command_options)
        return
    from sparklet.aws.services import LambdaCompute
    from sparklet.local.saved import SavedStack
    from sparklet.local.spark_installation import PASSED, worker_environment
    from sparklet.local.stack import LocalStack, StackOptions
    from sparklet.local.state import FileLogs

    state = StateDir(selection.state)  # refused before anything is done if it is somebody else's folder
    workers, reading = selection.workers or os.cpu_count() or 1, reading or looking
    saved = SavedStack.find(state, reporter.say) if looking else None
    settings = {name: getattr(selection, name) for name in ("workers", "timeout_s", "memory_mb", "runner")}
    chosen = {name: value for name, value in settings.items() if value}
    options = StackOptions(
        state_dir=selection.state,
        **{"workers": workers, **chosen},
        processing=not reading,
        keep=selection.keep,
        replace_kept=selection.replace_kept,
        handlers=selection.handlers,
        chosen=(*chosen, *(name for name in PASSED if name in os.environ)),
        worker_env={} if reading else worker_environment(workers, reporter.say),
    )
    with saved or LocalStack.attach(options, reporter.say) as local:
        yield OpenStack(
            local.deployment(),
            LambdaCompute(local.clients),
            local.info.worker_function,
            FileLogs(state.log),
            WorkerSize(
                memory_mb=local.info.memory_mb,
                timeout_s=local.info.timeout_s,
                scratch_bytes=planner_settings().worker_scratch_bytes or shutil.disk_usage(selection.state).free,
                concurrency=local.info.workers,
                map_concurrency=local.info.workers,
                is_local=True,
            ),
            local.orchestrator,
            state=selection.state,
            command_options=selection.command_options,
            machine=local.info.run_machine,
            check=partial(local.check, STACK_ENDS_S),
        )


def _deployed(name: str) -> OpenStack:
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.services import CloudWatchWorkerLogs, LambdaCompute, StepFunctionsOrchestrator, compose
    from sparklet.aws.stacks import described_stack, settings_of
    from sparklet.connectors.data_catalog.glue import GlueCatalog
    from sparklet.engines.create import engines_of

    clients = AwsClients()
    outputs, parameters = described_stack(clients, name)
    env = {"SPARKLET_BUCKET": outputs["BucketName"], "SPARKLET_LEDGER_TABLE": outputs["LedgerTable"]}
    named = engines({"SPARKLET_ENGINES": outputs.get("Engines", "")})
    functions = partial(settings_of, clients, outputs["WorkerAliasArn"])
    deployment = compose(
        *(clients, outputs["BucketName"], outputs["LedgerTable"], outputs["QueueUrl"]),
        engines=engines_of(clients, named, env, functions),
        # On AWS the checker function alone starts engines' workers.
        starts_workers=False,
        functions=functions,
        catalog=GlueCatalog(clients).objects,
    )
    return OpenStack(
        deployment,
        LambdaCompute(clients),
        outputs["WorkerAliasArn"],
        CloudWatchWorkerLogs(clients, outputs["WorkerLogGroup"]),
        deployed_size(parameters),
        StepFunctionsOrchestrator(clients),
        name=name,
        parameters=parameters,
        machine=outputs.get("RunMachineArn", ""),
    )


def deployed_size(parameters: Mapping[str, str]) -> WorkerSize:
    """The size that a stack's parameters say; reserved concurrency is also a ceiling for maps."""

    def number(parameter: str, usual: int) -> int:
        return int(parameters.get(parameter) or usual)

    usual, reserve = WorkerSize(), parameters.get("ReserveConcurrency") or "no"
    concurrency = number("MaximumConcurrency", usual.concurrency)
    map_concurrency = number("MapConcurrency", usual.map_concurrency)
    if reserve != "no":
        map_concurrency = min(map_concurrency, concurrency if reserve == "yes" else int(reserve))
    return WorkerSize(
        memory_mb=number("FunctionMemoryMB", usual.memory_mb),
        timeout_s=number("FunctionTimeoutS", usual.timeout_s),
        scratch_bytes=number("EphemeralStorageMB", usual.scratch_bytes // MIB) * MIB,
        concurrency=concurrency,
        map_concurrency=map_concurrency,
        architecture=parameters.get("Architecture") or usual.architecture,
    )
