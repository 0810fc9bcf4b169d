"""The stack that a command works on: the embedded local one, or a deployed one. The command line's composition root."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer
from platformdirs import user_cache_path

from sparklet.app.costs import WorkerSize
from sparklet.app.local_files import LocalPaths
from sparklet.cli.console import Screen
from sparklet.errors import LocalStackError
from sparklet.local.class_data import ClassArchive
from sparklet.local.environment import of_host, resource
from sparklet.local.prepared_jars import compiled_jar, is_plain, linked_jars, unsigned_copies
from sparklet.local.state import default_state_dir
from sparklet.model.options import MIB
from sparklet.ports import Compute, Orchestrator, WorkerLogs
from sparklet.ports.deployment import Deployment
from sparklet.settings import engines, spark_settings
from sparklet.spark.spark_options import class_path, spark_home

if TYPE_CHECKING:
    from sparklet.local.stack import StackOptions

CLASSES = "docker/stacks/spark-3.5.classes.gz"
JAR_GROUPS = ("s3a", "delta", "iceberg", "hudi", "avro", "sqlite", "deequ", "postgresql")
PASSED = (  # from the user's shell
    *("SPARKLET_JAVA_OPTIONS", "SPARKLET_SPARK_CONF", "SPARKLET_HEAP_MB", "SPARKLET_CORES", "SPARKLET_CDS_ARCHIVE"),
    "SPARKLET_METRICS_NAMESPACE",
)
LOCAL_PATHS = "local-paths"  # a file for each run that was started from here
STACK_ENDS_S = 2.0  # the host may take this long to notice that the stand-in has ended


@dataclass(frozen=True)
class StackSelection:
    """Options of every command: which stack it works on, and how it prints."""

    PANEL: ClassVar[str] = "Where and how"

    stack: Annotated[
        str,
        typer.Option("--stack", envvar="SPARKLET_STACK", metavar="NAME", help="A deployed stack, not the local one."),
    ] = ""
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir",
            envvar="SPARKLET_STATE_DIR",
            metavar="FOLDER",
            help="Folder of the local stack (default: the user's state folder).",
        ),
    ] = None
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on standard output; progress goes to standard error.")
    ] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False
    # How the local stack is started if it is not running; options of some commands only.
    workers: int | None = None
    timeout_s: int | None = None
    memory_mb: int | None = None
    runner: str | None = None
    keep: bool = False
    replace_kept: bool = False

    @property
    def state(self) -> Path:
        """The local stack's folder."""
        return self.state_dir.expanduser().absolute() if self.state_dir else default_state_dir()

    @property
    def command_options(self) -> tuple[str, ...]:
        """The options that select the same stack, with the same workers."""
        given = {"--stack": self.stack, "--state-dir": self.state_dir, "--workers": self.workers}
        given |= {"--timeout": self.timeout_s, "--memory": self.memory_mb, "--runner": self.runner}
        named = (str(word) for option, value in given.items() if value for word in (option, value))
        return (*named, *(["--keep"] if self.keep else []))


@dataclass(frozen=True)
class WorkerSelection(StackSelection):
    """The same, with the local stack's workers; they apply if it is not running, or no other command uses it."""

    PANEL: ClassVar[str] = "Local workers"

    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="Worker processes (default: one for each core).")
    ] = None
    timeout_s: Annotated[
        int | None, typer.Option("--timeout", min=1, metavar="SECONDS", help="Time limit of one shard (default: 900).")
    ] = None
    memory_mb: Annotated[
        int | None,
        typer.Option("--memory", min=512, max=10240, metavar="MB", help="Memory of one worker (default: 3008)."),
    ] = None
    runner: Annotated[
        Literal["warm", "submit"] | None,
        typer.Option("--runner", help="warm: one JVM that is kept (default); submit: one spark-submit for each shard."),
    ] = None
    keep: Annotated[bool, typer.Option("--keep", help="Leave the local stack running until `sparklet stop`.")] = False


@dataclass(frozen=True)
class Environment:
    """A stack, opened for a command."""

    at: Deployment
    compute: Compute
    worker_function: str
    logs: WorkerLogs
    size: WorkerSize
    orchestrator: Orchestrator
    stack: str = ""  # a deployed stack's name
    state: Path | None = None  # the local stack's folder; None: a deployed stack
    command_options: tuple[str, ...] = ()  # that select this stack
    parameters: Mapping[str, str] = field(default_factory=dict)  # of a deployed stack
    machines: Mapping[str, str] = field(default_factory=dict)  # ARNs by name: loop, map
    check: Callable[[], None] = lambda: None  # raises LocalStackError if the local stack has ended under this command

    @property
    def local(self) -> bool:
        """Whether this is the embedded stack."""
        return self.state is not None

    @property
    def paths_dir(self) -> Path:
        """Where the local stack keeps the local paths of runs."""
        assert self.state is not None
        return self.state / LOCAL_PATHS

    def local_paths(self, run_id: str) -> LocalPaths:
        """The local paths of a run; none if it was not started from local paths, or in a deployed stack."""
        return LocalPaths.load(self.paths_dir, run_id) if self.local else LocalPaths()


@contextmanager
def environment(selection: StackSelection, screen: Screen, *, reading: bool = False) -> Iterator[Environment]:
    """Open the selected stack; the local one is started if need be, and ends with its last user.

    A local stack that is started only for ``reading`` does no work.
    """
    if selection.stack:
        yield replace(_deployed(selection.stack), command_options=selection.command_options)
        return
    from sparklet.aws.compute import LambdaCompute
    from sparklet.aws.orchestrator import StepFunctionsOrchestrator
    from sparklet.local.logs import FileLogs
    from sparklet.local.stack import LocalStack

    with LocalStack.attach(_stack_options(selection, screen, reading), screen.say) as stack:
        yield Environment(
            stack.deployment(),
            LambdaCompute(stack.clients),
            stack.info.worker_function,
            FileLogs(stack.info.log_dir),
            WorkerSize(
                memory_mb=stack.info.memory_mb,
                timeout_s=stack.info.timeout_s,
                scratch_bytes=shutil.disk_usage(selection.state).free,
                concurrency=stack.info.workers,
                map_concurrency=stack.info.workers,
                is_local=True,
            ),
            StepFunctionsOrchestrator(stack.clients),
            state=selection.state,
            command_options=selection.command_options,
            machines={"loop": stack.info.loop_machine, "map": stack.info.map_machine},
            check=partial(stack.check, STACK_ENDS_S),
        )


def install_command() -> str:
    """The command that installs the local stack's packages, from where Sparklet came: a file, git, or an index."""
    try:
        origin = json.loads(distribution("sparklet").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {}
    vcs = origin.get("vcs_info", {}).get("vcs", "")
    url = f"{vcs}+{origin['url']}" if vcs else origin.get("url", "")
    return shlex.join(["pip", "install", "sparklet[local]" + (f" @ {url}" if url else "")])


def missing(package: str) -> str:
    """The message for a user who lacks a package of the local mode."""
    return f"the package {package} is missing, which the local stack needs: {install_command()}"


def worker_environment(screen: Screen, workers: int) -> dict[str, str]:
    """The variables by which local workers find Java, Spark and the jars; fetches what is missing, with progress."""
    from importlib.util import find_spec

    from sparklet.local.java import find_java

    spark = find_spec("pyspark")
    if spark is None or spark.origin is None:
        raise LocalStackError(missing("pyspark"))
    spark_settings()  # report a mistake in the user's shell here, not by workers that do not start
    java = find_java()
    offline = bool(os.environ.get("SPARKLET_OFFLINE"))
    jars = worker_jars(java, screen.say, offline)
    archive = worker_archive(java, jars)
    if "SPARKLET_CDS_ARCHIVE" not in os.environ and archive.begin(of_host()):
        screen.say("making an archive of Java's classes in the background, once: later runs start faster")
    return {
        "JAVA_HOME": str(java.parent.parent),
        "SPARK_HOME": str(Path(spark.origin).parent),
        "SPARKLET_JARS": os.pathsep.join(map(str, jars)),
        "SPARKLET_CDS_ARCHIVE": str(archive.path),
        "PYSPARK_PYTHON": sys.executable,
        "SPARKLET_CORES": str(max(1, (os.cpu_count() or 1) // workers)),
        **{name: value for name, value in os.environ.items() if name in PASSED},
    }


def fetched_jars(say: Callable[[str], None], offline: bool) -> list[Path]:
    """The jars that pyspark does not bring; fetches what is missing."""
    from sparklet.local.jars import ensure_jars

    return ensure_jars(resource("docker/stacks/spark-3.5.toml"), jar_cache(), JAR_GROUPS, say, offline)


def worker_jars(java: Path, say: Callable[[str], None], offline: bool) -> list[Path]:
    """The jars of local workers beside Spark's own; fetches or makes what is missing."""
    fetched = fetched_jars(say, offline)
    spark = spark_home(spark_settings({})) / "jars"
    own = compiled_jar(java, [spark, *fetched], jar_cache().with_name("compiled"))
    jars = [*unsigned_copies(spark, jar_cache().with_name("unsigned")), own, *fetched]
    if "SPARKLET_CDS_ARCHIVE" in os.environ or all(is_plain(path.resolve()) for path in (spark, *jars)):
        return jars
    return linked_jars(_class_path(jars), jar_cache().with_name("linked"))  # includes Spark's own


def worker_archive(java: Path, jars: Sequence[Path]) -> ClassArchive:
    """The class-data archive of local workers, whether it exists yet or not."""
    return ClassArchive.of(jar_cache().with_name("class-data"), resource(CLASSES), java, _class_path(jars))


def _class_path(jars: Sequence[Path]) -> list[str]:
    return class_path(spark_settings({"SPARKLET_JARS": os.pathsep.join(map(str, jars))}))


def jar_cache() -> Path:
    """The user's cache of jars; SPARKLET_CACHE_DIR moves it."""
    return Path(os.environ.get("SPARKLET_CACHE_DIR") or user_cache_path("sparklet")).resolve() / "jars"


def _stack_options(selection: StackSelection, screen: Screen, reading: bool) -> "StackOptions":
    from sparklet.local.stack import StackOptions

    workers = selection.workers or os.cpu_count() or 1
    return StackOptions(
        state_dir=selection.state,
        workers=workers,
        timeout_s=selection.timeout_s or WorkerSize.timeout_s,
        memory_mb=selection.memory_mb or WorkerSize.memory_mb,
        runner=selection.runner or "warm",
        processing=not reading,
        keep=selection.keep,
        replace_kept=selection.replace_kept,
        worker_env={} if reading else worker_environment(screen, workers),
    )


def _deployed(name: str) -> Environment:
    """The stack that CloudFormation knows under ``name``, by its outputs."""
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.compute import LambdaCompute
    from sparklet.aws.orchestrator import StepFunctionsOrchestrator
    from sparklet.aws.stacks import settings_of, stack_outputs, stack_parameters
    from sparklet.aws.worker_logs import CloudWatchWorkerLogs
    from sparklet.engines.create import engines_of
    from sparklet.local.stack import deployment

    clients = AwsClients()
    outputs, given = stack_outputs(clients, name), stack_parameters(clients, name)
    at = deployment(clients, outputs["BucketName"], outputs["LedgerTable"], outputs["QueueUrl"])
    env = {"SPARKLET_BUCKET": outputs["BucketName"], "SPARKLET_LEDGER_TABLE": outputs["LedgerTable"]}
    named = engines({"SPARKLET_ENGINES": outputs.get("Engines", "")})
    functions = partial(settings_of, clients, outputs["WorkerAliasArn"])
    machines = {"loop": outputs.get("LoopMachineArn", ""), "map": outputs.get("MapMachineArn", "")}
    return Environment(
        replace(at, engines=engines_of(clients, named, env, functions), starts_workers=False, functions=functions),
        LambdaCompute(clients),
        outputs["WorkerAliasArn"],
        CloudWatchWorkerLogs(clients, outputs["WorkerLogGroup"]),
        _deployed_size(given),
        StepFunctionsOrchestrator(clients),
        stack=name,
        parameters=given,
        machines={name: arn for name, arn in machines.items() if arn},
    )


def _deployed_size(given: Mapping[str, str]) -> WorkerSize:
    """The size that a stack's parameters say; reserved concurrency is also a ceiling for maps."""

    def number(parameter: str, usual: int) -> int:
        return int(given.get(parameter) or usual)

    usual, reserve = WorkerSize(), given.get("ReserveConcurrency") or "no"
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
        architecture=given.get("Architecture") or usual.architecture,
    )
