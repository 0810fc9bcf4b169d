"""Where a command works: the embedded local stack, or a deployed one. One composition root of the command line."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from sparklet.cli.console import Screen
from sparklet.errors import LocalStackError, SettingsError
from sparklet.local.class_data import ClassArchive
from sparklet.local.environment import of_host
from sparklet.local.installation import missing, resource
from sparklet.local.prepared_jars import compiled_jar, is_plain, linked_jars, unsigned_copies
from sparklet.local.state import default_state_dir
from sparklet.planning.deployment import Deployment
from sparklet.ports import Compute, Orchestrator, WorkerLogs
from sparklet.settings import spark_settings
from sparklet.spark.spark_options import class_path, spark_home

if TYPE_CHECKING:
    from sparklet.local.stack import StackOptions

CLASSES = "docker/stacks/spark-3.5.classes.gz"
JAR_GROUPS = ("s3a", "delta", "iceberg", "hudi", "avro")
PASSED = (  # from the user's shell
    *("SPARKLET_JAVA_OPTIONS", "SPARKLET_SPARK_CONF", "SPARKLET_HEAP_MB", "SPARKLET_CORES", "SPARKLET_CDS_ARCHIVE"),
    "SPARKLET_METRICS_NAMESPACE",
)
DEFAULT_TIMEOUT_S = 900
DEFAULT_MEMORY_MB = 3008
DEFAULT_CONCURRENCY = 50  # of a deployed stack's queue, as in the template
DEFAULT_MAP_CONCURRENCY = 100  # of a deployed stack's maps
MIB = 1024 * 1024
LOCAL_PATHS = "local-paths"  # a file for each run that was started from here
STACK_ENDS_S = 2.0  # so long the host may take to notice that the stand-in is gone


@dataclass(frozen=True)
class Choice:
    """Which stack, and how the local one is started if it is not running yet."""

    stack: str = ""  # name of a deployed CloudFormation stack; "" = the local one
    state_dir: Path | None = None
    workers: int | None = None
    timeout_s: int | None = None
    memory_mb: int | None = None
    runner: str | None = None
    keep: bool = False
    reading: bool = False  # only look: a stack started for this begins no work

    @property
    def state(self) -> Path:
        """The local stack's folder."""
        return self.state_dir.expanduser().absolute() if self.state_dir else default_state_dir()

    @property
    def words(self) -> tuple[str, ...]:
        """The options that lead to the same stack, with the same workers."""
        given = {"--stack": self.stack, "--state-dir": self.state_dir, "--workers": self.workers}
        given |= {"--timeout": self.timeout_s, "--memory": self.memory_mb, "--runner": self.runner}
        named = (str(word) for option, value in given.items() if value for word in (option, value))
        return (*named, *(["--keep"] if self.keep else []))


@dataclass(frozen=True)
class WorkerSize:
    """What one worker has, and how many work at once."""

    memory_mb: int = DEFAULT_MEMORY_MB
    timeout_s: int = DEFAULT_TIMEOUT_S
    scratch_bytes: int = 4096 * MIB
    concurrency: int = DEFAULT_CONCURRENCY  # shards that the queue may have in work
    map_concurrency: int = DEFAULT_MAP_CONCURRENCY  # shards that a map may
    architecture: str = "x86_64"


@dataclass(frozen=True)
class Environment:
    """What commands work on."""

    at: Deployment
    compute: Compute
    worker_function: str
    logs: WorkerLogs
    size: WorkerSize
    stack: str = ""  # a deployed stack's name
    state: Path | None = None  # the local stack's folder; None: a deployed stack
    words: tuple[str, ...] = ()  # the options that lead here
    differences: tuple[str, ...] = ()  # what was asked of the local stack, but others use it as it is
    parameters: Mapping[str, str] = field(default_factory=dict)  # of a deployed stack
    orchestrator: Orchestrator | None = None  # None: no state machines here
    machines: Mapping[str, str] = field(default_factory=dict)  # by what they are called here: loop, map
    check: Callable[[], None] = lambda: None  # raises LocalStackError if the local stack has ended under this command

    @property
    def local(self) -> bool:
        """Whether this is the embedded stack."""
        return self.state is not None

    @property
    def paths_dir(self) -> Path:
        """Where the local paths of runs are kept."""
        if self.state is None:
            raise SettingsError("a deployed stack has no local paths")
        return self.state / LOCAL_PATHS


@dataclass(frozen=True)
class LocalPaths:
    """Which local folders belong to a run; kept beside the local stack's state, so that a redrive finds them."""

    inputs: Mapping[str, str] = field(default_factory=dict)  # S3 folder or object → local path
    output: str = ""  # local folder to be filled; "" = none
    replaces: Sequence[str] = ()  # names in it of what earlier runs wrote, to be deleted when it is filled

    def save(self, folder: Path, run_id: str) -> None:
        """Keep them for ``run_id``."""
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f".{run_id}.json"
        new.write_text(json.dumps(asdict(self), indent=2))
        new.replace(folder / f"{run_id}.json")

    @classmethod
    def load(cls, folder: Path, run_id: str) -> "LocalPaths":
        """Those kept for ``run_id``; none if it was not started from local paths."""
        path = folder / f"{run_id}.json"
        if not path.exists():
            return cls()
        return cls(**json.loads(path.read_text()))


@contextmanager
def environment(choice: Choice, screen: Screen) -> Iterator[Environment]:
    """Open the chosen stack; the local one is started if need be, and ends with its last user."""
    if choice.stack:
        yield replace(_deployed(choice.stack), words=choice.words)
        return
    from sparklet.local.logs import FileLogs
    from sparklet.local.stack import LocalStack

    with LocalStack.attach(_stack_options(choice, screen), screen.say) as stack:
        yield Environment(
            stack.deployment(),
            stack.compute(),
            stack.info.worker_function,
            FileLogs(stack.info.log_dir),
            WorkerSize(
                stack.info.memory_mb,
                stack.info.timeout_s,
                shutil.disk_usage(choice.state).free,
                stack.info.workers,
                stack.info.workers,
            ),
            state=choice.state,
            words=choice.words,
            differences=stack.differences,
            orchestrator=stack.orchestrator(),
            machines={"loop": stack.info.loop_machine, "map": stack.info.map_machine},
            check=partial(stack.check, STACK_ENDS_S),
        )


def worker_environment(screen: Screen, workers: int) -> dict[str, str]:
    """What local workers need to find Java, Spark and the jars; what is missing is fetched, with progress.

    Each gets its part of the machine's cores.
    """
    from importlib.util import find_spec

    from sparklet.local.java import find_java

    spark = find_spec("pyspark")
    if spark is None or spark.origin is None:
        raise LocalStackError(missing("pyspark"))
    spark_settings()  # what is wrong in the user's shell is reported here, not by workers that do not start
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


def worker_jars(java: Path, say: Callable[[str], None], offline: bool) -> list[Path]:
    """The jars of local workers beside Spark's own; what is missing is fetched, or made."""
    from sparklet.local.jars import ensure_jars

    fetched = ensure_jars(resource("docker/stacks/spark-3.5.toml"), jar_cache(), JAR_GROUPS, say, offline)
    spark = spark_home(spark_settings({})) / "jars"
    own = compiled_jar(java, spark, jar_cache().with_name("compiled"))
    jars = [*unsigned_copies(spark, jar_cache().with_name("unsigned")), own, *fetched]
    if "SPARKLET_CDS_ARCHIVE" in os.environ or all(is_plain(path.resolve()) for path in (spark, *jars)):
        return jars
    return linked_jars(_class_path(jars), jar_cache().with_name("linked"))  # Spark's own, too, in the places of these


def worker_archive(java: Path, jars: Sequence[Path]) -> ClassArchive:
    """The class-data archive of local workers: where it is or will be, and what for."""
    return ClassArchive.of(jar_cache().with_name("class-data"), resource(CLASSES), java, _class_path(jars))


def _class_path(jars: Sequence[Path]) -> list[str]:
    return class_path(spark_settings({"SPARKLET_JARS": os.pathsep.join(map(str, jars))}))


def jar_cache() -> Path:
    """The user's cache of jars; SPARKLET_CACHE_DIR moves it."""
    return Path(os.environ.get("SPARKLET_CACHE_DIR") or user_cache_path("sparklet")).resolve() / "jars"


def _stack_options(choice: Choice, screen: Screen) -> "StackOptions":
    from sparklet.local.stack import StackOptions

    workers = choice.workers or os.cpu_count() or 1
    return StackOptions(
        state_dir=choice.state,
        workers=workers,
        timeout_s=choice.timeout_s or DEFAULT_TIMEOUT_S,
        memory_mb=choice.memory_mb or DEFAULT_MEMORY_MB,
        runner=choice.runner or "warm",
        processing=not choice.reading,
        keep=choice.keep,
        worker_env={} if choice.reading else worker_environment(screen, workers),
    )


def _deployed(name: str) -> Environment:
    """The stack that CloudFormation knows under ``name``, by its outputs."""
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.functions import CloudWatchLogs, LambdaCompute
    from sparklet.aws.orchestration import StepFunctions
    from sparklet.aws.stacks import stack_outputs, stack_parameters
    from sparklet.local.stack import deployment

    clients = AwsClients()
    outputs, given = stack_outputs(clients, name), stack_parameters(clients, name)
    at = deployment(clients, outputs["BucketName"], outputs["LedgerTable"], outputs["QueueUrl"])
    machines = {"loop": outputs.get("LoopMachineArn", ""), "map": outputs.get("MapMachineArn", "")}
    return Environment(
        at,
        LambdaCompute(clients),
        outputs["WorkerAliasArn"],
        CloudWatchLogs(clients, outputs["WorkerLogGroup"]),
        _deployed_size(given),
        stack=name,
        parameters=given,
        orchestrator=StepFunctions(clients),
        machines={name: arn for name, arn in machines.items() if arn},
    )


def _deployed_size(given: Mapping[str, str]) -> WorkerSize:
    """What a stack's parameters say; a concurrency that is reserved is a ceiling for maps, too."""
    concurrency = int(given.get("MaximumConcurrency") or DEFAULT_CONCURRENCY)
    map_concurrency = int(given.get("MapConcurrency") or DEFAULT_MAP_CONCURRENCY)
    reserved = given.get("ReserveConcurrency") == "yes"
    return WorkerSize(
        int(given.get("FunctionMemoryMB") or DEFAULT_MEMORY_MB),
        int(given.get("FunctionTimeoutS") or DEFAULT_TIMEOUT_S),
        int(given.get("EphemeralStorageMB") or 4096) * MIB,
        concurrency,
        min(concurrency, map_concurrency) if reserved else map_concurrency,
        given.get("Architecture") or "x86_64",
    )
