"""Opens the stack that a user works on, the local one or a deployed one: the composition root of ``app``."""

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

STACK_ENDS_S = 2.0  # the host can take this long to notice that the emulator has ended


@dataclass(frozen=True)
class StackSelection:
    """The stack that a user works on, and how the local stack is started if it is not running."""

    stack: str = ""  # a deployed stack's name; "" for the local stack
    state_dir: Path | None = None  # the local stack's folder; None for the default in the user's state folder
    workers: int | None = None
    timeout_s: int | None = None
    memory_mb: int | None = None
    runner: Literal["warm", "submit"] | None = None
    keep: bool = False
    replace_kept: bool = False
    handlers: Mapping[str, str] = field(default_factory=dict)  # dotted names that replace the template's, by logical id

    @property
    def state(self) -> Path:
        """The local stack's folder."""
        return user_folder("state", self.state_dir)

    @property
    def command_options(self) -> tuple[str, ...]:
        """Return the options of a command line that select the same stack, with the same workers."""
        value_by_option = {"--stack": self.stack, "--state-dir": self.state_dir, "--workers": self.workers}
        value_by_option |= {"--timeout": self.timeout_s, "--memory": self.memory_mb, "--runner": self.runner}
        words = (str(word) for option, value in value_by_option.items() if value for word in (option, value))
        return (*words, *(["--keep-stack"] if self.keep else []))


@dataclass(frozen=True)
class OpenStack:
    """An open stack: its services, its settings, and how to select it again."""

    deployment: Deployment
    compute: Compute
    worker_function: str
    logs: WorkerLogs
    size: WorkerSize
    orchestrator: Orchestrator
    name: str = ""  # a deployed stack's name; "" for the local stack
    state: Path | None = None  # the local stack's folder; None for a deployed stack
    command_options: tuple[str, ...] = ()  # options of a command line that select this stack
    parameters: Mapping[str, str] = field(default_factory=dict)  # a deployed stack's parameters of CloudFormation
    machine: str = ""  # the ARN of the state machine that drives runs; "" for an older stack without one
    check: Callable[[], None] = lambda: None  # raises LocalStackError if the local stack has ended meanwhile


@contextmanager
def open_stack(
    selection: StackSelection, reporter: Reporter, *, reading: bool = False, looking: bool = False
) -> Iterator[OpenStack]:
    """Open the selected stack; the local stack is started if need be, and stops when its last user closes it.

    A local stack that is started for ``reading`` runs no shards. For ``looking`` no stack is started if the saved state
    of a stopped one suffices.
    """
    if selection.stack:
        yield replace(_deployed(selection.stack), command_options=selection.command_options)
        return
    from sparklet.aws.services import LambdaCompute
    from sparklet.local.saved import SavedStack
    from sparklet.local.spark_installation import PASSED, worker_environment
    from sparklet.local.stack import LocalStack, StackOptions
    from sparklet.local.state import FileLogs

    state = StateDir(selection.state)  # raises an error, before anything is done, for a folder that is not Sparklet's
    workers, reading = selection.workers or os.cpu_count() or 1, reading or looking
    saved = SavedStack.find(state, reporter.say) if looking else None
    settings = {name: getattr(selection, name) for name in ("workers", "timeout_s", "memory_mb", "runner")}
    chosen_settings = {name: value for name, value in settings.items() if value}
    options = StackOptions(
        state_dir=selection.state,
        **{"workers": workers, **chosen_settings},
        processing=not reading,
        keep=selection.keep,
        replace_kept=selection.replace_kept,
        handlers=selection.handlers,
        chosen=(*chosen_settings, *(name for name in PASSED if name in os.environ)),
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
    engine_settings = engines({"SPARKLET_ENGINES": outputs.get("Engines", "")})
    functions = partial(settings_of, clients, outputs["WorkerAliasArn"])
    deployment = compose(
        *(clients, outputs["BucketName"], outputs["LedgerTable"], outputs["QueueUrl"]),
        engines=engines_of(clients, engine_settings, env, functions),
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
    """Return the worker size that a stack's parameters set; a Map's concurrency is at most the reserved concurrency."""

    def number(parameter: str, default: int) -> int:
        return int(parameters.get(parameter) or default)

    defaults, reserve = WorkerSize(), parameters.get("ReserveConcurrency") or "no"
    concurrency = number("MaximumConcurrency", defaults.concurrency)
    map_concurrency = number("MapConcurrency", defaults.map_concurrency)
    if reserve != "no":
        reserved = concurrency if reserve == "yes" else int(reserve)
        map_concurrency = min(map_concurrency, reserved)
    return WorkerSize(
        memory_mb=number("FunctionMemoryMB", defaults.memory_mb),
        timeout_s=number("FunctionTimeoutS", defaults.timeout_s),
        scratch_bytes=number("EphemeralStorageMB", defaults.scratch_bytes // MIB) * MIB,
        concurrency=concurrency,
        map_concurrency=map_concurrency,
        architecture=parameters.get("Architecture") or defaults.architecture,
    )
