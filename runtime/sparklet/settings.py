"""Environment variables → frozen settings. This module has the names of all variables that Sparklet reads.

Only the operator sets them. A wrong value is refused before work starts, and shown only if it cannot be a secret.
"""

import json
import math
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from sparklet.errors import SettingsError
from sparklet.job.session import s3_environment, write_encryption
from sparklet.model import MIB
from sparklet.model.redaction import MIN_SECRET, SECRET

T = TypeVar("T")
Engines = Mapping[str, Mapping[str, Any]]
RunnerName = Literal["warm", "submit"]
KafkaFailures = Literal["raise", "report"]
BatchHandling = Literal["message", "batch"]
Codec = Literal["json", "pickle", "cloudpickle"]

PREFIX = "SPARKLET_"
OF_FUNCTIONS = frozenset(
    {
        *("SPARKLET_CORES", "SPARKLET_ENGINES", "SPARKLET_EVENT_VARIABLES", "SPARKLET_GRACE_S", "SPARKLET_HEAP_MB"),
        *("SPARKLET_JARS", "SPARKLET_JAVA_OPTIONS", "SPARKLET_KAFKA_FAILURES", "SPARKLET_KEEP_CONTEXT"),
        *("SPARKLET_BUCKET", "SPARKLET_LEDGER_TABLE", "SPARKLET_MAP_CONCURRENCY", "SPARKLET_METRICS_NAMESPACE"),
        *("SPARKLET_MIN_FREE_BYTES", "SPARKLET_NOTICE_BUS", "SPARKLET_NOTICE_TOPIC_ARN", "SPARKLET_OUTPUT_PREFIXES"),
        *("SPARKLET_ENGINE", "SPARKLET_QUEUE_URL", "SPARKLET_RUNNER", "SPARKLET_SCRATCH", "SPARKLET_SCRIPT_ENV"),
        *("SPARKLET_SCRIPT_PREFIXES", "SPARKLET_SPARK_CONF", "SPARKLET_SPARK_LINE", "SPARKLET_TASKS_PER_JVM"),
        *("SPARKLET_WORKER_FUNCTION", "SPARKLET_WORKER_MEMORY_MB", "SPARKLET_WORKER_SCRATCH_MB"),
        *("SPARKLET_BATCH_HANDLING", "SPARKLET_EXTERNAL_ID", "SPARKLET_WORKER_SETTINGS"),
        "SPARKLET_WRITE_ENCRYPTION",
    }
)
"""The variables that the template sets on functions, some within SPARKLET_WORKER_SETTINGS."""
NAMES = OF_FUNCTIONS | frozenset(
    {
        # read by the command line
        *("SPARKLET_CACHE_DIR", "SPARKLET_MAVEN_MIRROR", "SPARKLET_OFFLINE"),
        *("SPARKLET_STACK", "SPARKLET_STATE_DIR"),
        *("SPARKLET_FUNCTION_CODEC", "SPARKLET_FUNCTION_MODULES", "SPARKLET_FUNCTION_SECRET"),  # sam/functions.yaml
        "SPARKLET_CDS_ARCHIVE",  # set by the image
        *("SPARKLET_REMOTE_TOKEN", "SPARKLET_SHARD_MESSAGE"),  # for a container (sparklet.engines.one_shard)
        # set by Sparklet for its own processes
        *("SPARKLET_AS_IN_LAMBDA", "SPARKLET_CLAIMED", "SPARKLET_EVENT", "SPARKLET_EVENT_FILE", "SPARKLET_HOST"),
        *("SPARKLET_LOG_DIR", "SPARKLET_OUTCOME_FILE"),
    }
)
"""All variables that begin with ``SPARKLET_``. Any other name with this prefix is refused as a misspelling."""

OF_SCRIPTS = re.compile(
    "SPARKLET_(EXTERNAL_ID|JAVA_OPTIONS|SCRIPT_ENV|SPARK_CONF|SPARK_LINE|WRITE_ENCRYPTION)$|PYICEBERG_"
)
MAX_SHOWN = 60  # characters of a wrong value
GRACE_S, MAX_GRACE_S = 10.0, 600.0
MAX_MAP_CONCURRENCY = 10_000  # children that a Distributed Map runs at once
CREDENTIAL_VALUE = re.compile(r"A[KS]IA[A-Z0-9]{12,}|[A-Za-z0-9/+=_-]{32,}|secret|passw|token", re.IGNORECASE)
NOT_A_SCRIPTS = (
    r"(AWS|SPARKLET|SPARK|PYSPARK|HADOOP|HUDI|JAVA|JDK|LD|LAMBDA)_|PYTHON|(PATH|HOME|PWD|TMPDIR|CLASSPATH|TZ)$"
)
VARIABLE_OF_A_SCRIPT = re.compile(rf"(?!{NOT_A_SCRIPTS})[A-Za-z][A-Za-z0-9_]*")
"""The names that a script's variables can have: none that the worker, Spark, Python, Java or Lambda use."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """A worker function's settings."""

    ledger_table: str  # SPARKLET_LEDGER_TABLE; "" = shard messages are refused
    bucket: str  # SPARKLET_BUCKET, which has the folders runs/<run_id>/
    queue_url: str  # SPARKLET_QUEUE_URL
    runner: RunnerName  # SPARKLET_RUNNER: warm | submit
    default_script: str  # SCRIPT_LOCATION, or s3://SCRIPT_BUCKET/SPARK_SCRIPT; "" = none
    script_prefixes: tuple[
        str, ...
    ]  # SPARKLET_SCRIPT_PREFIXES, by commas: folders from which events can choose scripts
    scratch: Path  # SPARKLET_SCRATCH, default /tmp
    min_free_bytes: int  # SPARKLET_MIN_FREE_BYTES: what must be free in scratch before work starts
    grace_s: float  # SPARKLET_GRACE_S: how long before the function's deadline the script is ended
    tasks_per_jvm: int  # SPARKLET_TASKS_PER_JVM: a warm JVM is replaced after this many tasks
    kafka_failures: KafkaFailures = "raise"  # SPARKLET_KAFKA_FAILURES; report only if the mapping reads responses
    batch_handling: BatchHandling = "message"  # SPARKLET_BATCH_HANDLING: a task is an SQS message, or a whole batch
    output_prefixes: tuple[str, ...] = ()  # SPARKLET_OUTPUT_PREFIXES and others: folders to which this function writes
    notice_topic_arn: str = ""  # SPARKLET_NOTICE_TOPIC_ARN: the SNS topic for notices of ended tasks and runs
    notice_bus: str = ""  # SPARKLET_NOTICE_BUS: the EventBridge bus for notices, by name or ARN
    keep_context: bool = True  # SPARKLET_KEEP_CONTEXT: on | off: whether a SparkContext can outlive its task
    script_env: Mapping[str, str] = field(default_factory=dict)  # SPARKLET_SCRIPT_ENV, as JSON: variables of scripts
    event_variables: tuple[str, ...] = ()  # SPARKLET_EVENT_VARIABLES: keys of events that become a script's variables
    engine: str = ""  # SPARKLET_ENGINE: the engine to which this worker belongs; lambda-large in the large function


@dataclass(frozen=True, slots=True)
class FanoutSettings:
    """The settings of the functions that plan and watch runs."""

    ledger_table: str  # SPARKLET_LEDGER_TABLE
    bucket: str  # SPARKLET_BUCKET
    queue_url: str  # SPARKLET_QUEUE_URL
    notice_topic_arn: str = ""  # as for workers: these functions end tasks (by dead letters) and runs, too
    notice_bus: str = ""
    engines: Engines = field(default_factory=dict)  # SPARKLET_ENGINES, as JSON
    worker_function: str = ""  # SPARKLET_WORKER_FUNCTION: the function whose settings the engines' workers get


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """Further settings of the planner function."""

    script_prefixes: tuple[str, ...]  # as for workers: folders from which a request can choose its script
    worker_memory_mb: int  # SPARKLET_WORKER_MEMORY_MB; 0 = not known
    worker_scratch_bytes: int  # SPARKLET_WORKER_SCRATCH_MB; 0 = not known


@dataclass(frozen=True, slots=True)
class FunctionSettings:
    """The settings of the workers of Python functions."""

    ledger_table: str  # SPARKLET_LEDGER_TABLE: the table of answers to asynchronous calls
    bucket: str  # SPARKLET_BUCKET, which has large contents in its folder functions/
    secret: str  # SPARKLET_FUNCTION_SECRET: name or ARN of the secret whose text is the deployment's key
    codec: Codec  # SPARKLET_FUNCTION_CODEC: the most powerful codec that calls are allowed to use
    modules: tuple[str, ...]  # SPARKLET_FUNCTION_MODULES: patterns of modules whose functions can be called by name


def ledger_table(env: Mapping[str, str] = os.environ) -> str:
    """Read SPARKLET_LEDGER_TABLE; SettingsError if it is not set."""
    check_names(env)
    return _required(env, "SPARKLET_LEDGER_TABLE")


def function_settings(env: Mapping[str, str] = os.environ) -> FunctionSettings:
    """Read the settings of a worker of functions; SettingsError names what is missing or wrong."""
    return FunctionSettings(
        ledger_table=ledger_table(env),
        bucket=_required(env, "SPARKLET_BUCKET"),
        secret=_required(env, "SPARKLET_FUNCTION_SECRET"),
        codec=cast(Codec, _one_of(env, "SPARKLET_FUNCTION_CODEC", *get_args(Codec))),
        modules=tuple(env.get("SPARKLET_FUNCTION_MODULES", "").split(",")),
    )


def worker_settings(env: Mapping[str, str] = os.environ) -> WorkerSettings:
    """Read a worker's settings; SettingsError names the variable, its value, and the values that it can have."""
    check_names(env := with_worker_settings(env))
    bucket = env.get("SPARKLET_BUCKET", "")
    script_env = script_environment(strings(env, "SPARKLET_SCRIPT_ENV"), "SPARKLET_SCRIPT_ENV")
    event_keys = {key.strip(): "" for key in env.get("SPARKLET_EVENT_VARIABLES", "").split(",") if key.strip()}
    return WorkerSettings(
        ledger_table=env.get("SPARKLET_LEDGER_TABLE", ""),
        bucket=bucket,
        queue_url=env.get("SPARKLET_QUEUE_URL", ""),
        runner=cast(RunnerName, _one_of(env, "SPARKLET_RUNNER", *get_args(RunnerName))),
        default_script=_default_script(env),
        script_prefixes=_script_prefixes(env),
        scratch=Path(env.get("SPARKLET_SCRATCH") or "/tmp"),  # noqa: S108 - Lambda's only writable place
        min_free_bytes=_number(env, "SPARKLET_MIN_FREE_BYTES", 64 * MIB, int),
        grace_s=_number(env, "SPARKLET_GRACE_S", GRACE_S, float, most=MAX_GRACE_S),
        tasks_per_jvm=_number(env, "SPARKLET_TASKS_PER_JVM", 200, int, least=1),
        kafka_failures=cast(KafkaFailures, _one_of(env, "SPARKLET_KAFKA_FAILURES", *get_args(KafkaFailures))),
        batch_handling=cast(BatchHandling, _one_of(env, "SPARKLET_BATCH_HANDLING", *get_args(BatchHandling))),
        output_prefixes=_output_prefixes({**env, **script_env}, bucket),
        notice_topic_arn=env.get("SPARKLET_NOTICE_TOPIC_ARN", ""),
        notice_bus=env.get("SPARKLET_NOTICE_BUS", ""),
        keep_context=_one_of(env, "SPARKLET_KEEP_CONTEXT", "on", "off") == "on",
        script_env=script_env,
        event_variables=tuple(script_environment(event_keys, "SPARKLET_EVENT_VARIABLES", "SPARK", "JAVA")),
        engine=env.get("SPARKLET_ENGINE", ""),
    )


def script_environment(variables: Mapping[str, str], source: str, *reserved: str) -> Mapping[str, str]:
    """Return a script's ``variables``; SettingsError if a name is not allowed, or begins with one of ``reserved``.

    ``source`` is the setting in which the operator named them.
    """
    for name in variables:
        if not VARIABLE_OF_A_SCRIPT.fullmatch(name) or name.startswith(reserved):
            raise SettingsError(
                f"{source} cannot set {_shown_value(variables, name)}: it is no variable's name, or it is reserved: "
                "AWS_*, SPARKLET_*, SPARK_*, HADOOP_*, JAVA_*, PYTHON*, LD_*, PATH and the like; choose another name"
            )
    return variables


def with_worker_settings(env: Mapping[str, str]) -> Mapping[str, str]:
    """The environment, with the variables that SPARKLET_WORKER_SETTINGS has as JSON. A variable set by itself wins."""
    return {**strings(env, "SPARKLET_WORKER_SETTINGS", PREFIX), **env}


def check_names(env: Mapping[str, str]) -> None:
    """Raise SettingsError for a variable with Sparklet's prefix and an unknown name; it names the most similar name."""
    unknown = sorted(name for name in env if name.startswith(PREFIX) and name not in NAMES)
    if unknown:
        import difflib  # needed only for this error

        name = unknown[0][:MAX_SHOWN]
        settings = [setting.removeprefix(PREFIX) for setting in sorted(NAMES)]
        similar = difflib.get_close_matches(name.removeprefix(PREFIX), settings, 1)
        hint = f"is {PREFIX}{similar[0]} meant?" if similar else "unset it"
        raise SettingsError(f"there is no setting {name}; {hint}")


def fanout_settings(env: Mapping[str, str] = os.environ) -> FanoutSettings:
    """Read the settings of planner, checker and recovery; SettingsError names what is missing."""
    check_names(env)
    return FanoutSettings(
        ledger_table=_required(env, "SPARKLET_LEDGER_TABLE"),
        bucket=_required(env, "SPARKLET_BUCKET"),
        queue_url=_required(env, "SPARKLET_QUEUE_URL"),
        notice_topic_arn=env.get("SPARKLET_NOTICE_TOPIC_ARN", ""),
        notice_bus=env.get("SPARKLET_NOTICE_BUS", ""),
        engines=engines(env),
        worker_function=env.get("SPARKLET_WORKER_FUNCTION", ""),
    )


def engines(env: Mapping[str, str] = os.environ) -> Engines:
    """Read SPARKLET_ENGINES: the settings of each engine, by its name.

    An entry whose first value is empty is left out: the template makes it from an empty parameter. ``conf`` beside the
    names has Spark settings for all engines; those of an engine itself win.
    """
    try:
        entries = json.loads(env.get("SPARKLET_ENGINES") or "{}")
        conf = entries.pop("conf", {})
        configured = {name: entry for name, entry in entries.items() if next(iter(entry.values()), "")}
        return {name: {**entry, "conf": {**conf, **entry.get("conf", {})}} for name, entry in configured.items()}
    except (TypeError, ValueError, AttributeError, RecursionError):
        raise SettingsError('SPARKLET_ENGINES is not a JSON object of objects: {"emr": {"cluster": "j-…"}}') from None


def script_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of a worker function's variables that affect scripts. The workers of engines get them, too."""
    return {name: value for name, value in with_worker_settings(variables).items() if value and OF_SCRIPTS.match(name)}


def metrics_namespace(env: Mapping[str, str] = os.environ) -> str:
    """Read SPARKLET_METRICS_NAMESPACE, the namespace of the metrics; "" if nothing is to be measured."""
    return env.get("SPARKLET_METRICS_NAMESPACE", "")


def planner_settings(env: Mapping[str, str] = os.environ) -> PlannerSettings:
    """Read the planner function's further settings; SettingsError names the variable and the values it can have."""
    check_names(env)
    return PlannerSettings(
        script_prefixes=_script_prefixes(env),
        worker_memory_mb=_number(env, "SPARKLET_WORKER_MEMORY_MB", 0, int),
        worker_scratch_bytes=_number(env, "SPARKLET_WORKER_SCRATCH_MB", 0, int) * MIB,
    )


def _script_prefixes(env: Mapping[str, str]) -> tuple[str, ...]:
    """The folders from which an event can choose its script: the deployment's own, and those the operator allows."""
    bucket = env.get("SPARKLET_BUCKET", "")
    bucket_prefixes = (f"s3://{bucket}/runs/", f"s3://{bucket}/scripts/") if bucket else ()
    return bucket_prefixes + _prefixes(env, "SPARKLET_SCRIPT_PREFIXES")


def map_concurrency(env: Mapping[str, str] = os.environ) -> int:
    """Read SPARKLET_MAP_CONCURRENCY: how many child executions a Map state runs at once."""
    check_names(env)
    return _number(env, "SPARKLET_MAP_CONCURRENCY", 100, int, least=1, most=MAX_MAP_CONCURRENCY)


def _default_script(env: Mapping[str, str]) -> str:
    """The URI of the function's own script, by the variables of the project spark-on-aws-lambda; "" if it has none.

    ``SCRIPT_LOCATION`` is a whole URI or, as in that project, the folder of ``SPARK_SCRIPT``.
    """
    location, name = env.get("SCRIPT_LOCATION", ""), env.get("SPARK_SCRIPT", "")
    if location.endswith(".py"):
        return location
    if location:
        return f"{location.rstrip('/')}/{name}" if name else ""
    bucket = env.get("SCRIPT_BUCKET", "")
    return f"s3://{bucket.removeprefix('s3://').rstrip('/')}/{name}" if bucket and name else ""


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise SettingsError(f"{name} is not set; the deployed template sets it on every function")
    return value


def _number(
    env: Mapping[str, str], name: str, default: T, parse: Callable[[str], T], *, least: int = 0, most: float = math.inf
) -> T:
    """The number in a variable, ``default`` if it is not set; SettingsError unless it is from ``least`` to ``most``."""
    text = env.get(name, "")
    if not text:
        return default
    type_name = "whole number" if parse is int else "number"
    try:
        value: Any = parse(text)
    except ValueError:  # not chained, since its message repeats the value, which may be a secret
        raise SettingsError(f"{name} is {_shown_value(env, text)}; it must be a {type_name}") from None
    if not (math.isfinite(value) and least <= value <= most):
        least_words = "not be negative" if least == 0 else f"be at least {least}"
        most_words = "" if most == math.inf else f" and at most {most:g}"
        raise SettingsError(f"{name} is {_shown_value(env, text)}; it must {least_words}{most_words}")
    return cast(T, value)


def _one_of(env: Mapping[str, str], name: str, *allowed: str) -> str:
    """The value of a variable, or the first allowed value if it is not set; SettingsError if it is not allowed."""
    value = env.get(name) or allowed[0]
    if value not in allowed:
        raise SettingsError(f"{name} is {_shown_value(env, value)}; it must be {' or '.join(allowed)}")
    return value


def _prefixes(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The S3 folders in a variable, which are separated by commas."""
    prefixes = tuple(part.strip() for part in env.get(name, "").split(",") if part.strip())
    for prefix in prefixes:
        if not prefix.startswith("s3://") or not prefix.endswith("/"):
            raise SettingsError(f"{name}: {_shown_value(env, prefix)} must look like s3://bucket/folder/")
    return prefixes


def _output_prefixes(env: Mapping[str, str], bucket: str) -> tuple[str, ...]:
    """The folders to which this function writes: an S3 event about an object in them would start it again."""
    # Scripts can write to s3a:// or s3n://; addresses in S3 events begin with s3://.
    output = re.sub(r"^s3[an]:", "s3:", env.get("output_path") or env.get("OUTPUT_PATH", ""))
    output_prefix = (f"{output.rstrip('/')}/",) if output.startswith("s3://") else ()
    bucket_prefixes = tuple(f"s3://{bucket}/{folder}/" for folder in ("runs", "staged", "output")) if bucket else ()
    return bucket_prefixes + output_prefix + _prefixes(env, "SPARKLET_OUTPUT_PREFIXES")


def _shown_value(env: Mapping[str, str], text: str) -> str:
    """A wrong value for an error message; only its length if it is a secret, or looks like one."""
    # A secret can be put into the wrong variable, so the values of variables with a secret's name are not shown either.
    secrets = (value for name, value in env.items() if re.search(SECRET, name) and len(value) >= MIN_SECRET)
    holds_secret = any(secret in text or (len(text) >= MIN_SECRET and text in secret) for secret in secrets)
    if CREDENTIAL_VALUE.search(text) or holds_secret:
        return f"a text of {len(text)} characters (not shown: it may be a secret)"
    return repr(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…")


@dataclass(frozen=True, slots=True)
class SparkSettings:
    """The paths of Spark and Java, and how much of the machine they can use."""

    spark_home: Path | None  # SPARK_HOME; None: the folder of the installed pyspark
    java_home: Path | None  # JAVA_HOME; None: java on the PATH
    jars: tuple[Path, ...]  # SPARKLET_JARS: files, or folders of jars, separated as in PATH
    memory_mb: int  # AWS_LAMBDA_FUNCTION_MEMORY_SIZE, 2048 where it is not set
    heap_mb: int  # SPARKLET_HEAP_MB; 0: computed from the memory
    cores: int  # SPARKLET_CORES; 0: computed from the memory, as Lambda does
    java_options: tuple[str, ...]  # SPARKLET_JAVA_OPTIONS, quoted as for a shell
    conf: Mapping[str, str]  # SPARKLET_SPARK_CONF, a JSON object: wins over Sparklet's own defaults
    s3_endpoint: str  # AWS_ENDPOINT_URL_S3, or AWS_ENDPOINT_URL; "" = AWS itself
    region: str  # AWS_REGION, or AWS_DEFAULT_REGION
    temporary_keys: bool  # whether AWS_SESSION_TOKEN is set
    cds_archive: Path | None = None  # SPARKLET_CDS_ARCHIVE: class-data archive of this class path; the image has one
    write_encryption: tuple[str, str] = ("", "")
    remote_token: str = field(default="", repr=False)  # SPARKLET_REMOTE_TOKEN: the token for the server at spark.remote


def spark_settings(env: Mapping[str, str] = os.environ) -> SparkSettings:
    """Read the runners' settings; SettingsError names the variable, its value, and the values that it can have."""
    check_names(env := with_worker_settings(env))
    memory_mb = _number(env, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 2048, int, least=1)
    heap_mb = _number(env, "SPARKLET_HEAP_MB", 0, int)
    if env.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE") and heap_mb > memory_mb:
        raise SettingsError(
            f"SPARKLET_HEAP_MB is {heap_mb}, but the function has {memory_mb} MB; set 0 to compute it from the memory"
        )
    s3_endpoint, region = s3_environment(env)
    return SparkSettings(
        spark_home=_path(env, "SPARK_HOME"),
        java_home=_path(env, "JAVA_HOME"),
        jars=tuple(Path(part) for part in env.get("SPARKLET_JARS", "").split(os.pathsep) if part),
        memory_mb=memory_mb,
        heap_mb=heap_mb,
        cores=_number(env, "SPARKLET_CORES", 0, int),
        java_options=_words(env, "SPARKLET_JAVA_OPTIONS"),
        conf=strings(env, "SPARKLET_SPARK_CONF", "spark."),
        s3_endpoint=s3_endpoint,
        region=region,
        temporary_keys=bool(env.get("AWS_SESSION_TOKEN")),
        cds_archive=_path(env, "SPARKLET_CDS_ARCHIVE"),
        write_encryption=write_encryption(env),
        remote_token=env.get("SPARKLET_REMOTE_TOKEN", ""),
    )


def _path(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]) if env.get(name) else None


def _words(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(env.get(name, "")))
    except ValueError:
        raise SettingsError(f"{name} cannot be split into words; its quotes do not match") from None


def strings(env: Mapping[str, str], name: str, key_prefix: str = "") -> Mapping[str, str]:
    """Read a variable with a JSON object of strings, whose keys begin with ``key_prefix``; {} if it is not set.

    Values can be secrets, so a SettingsError names at most a key.
    """
    text = env.get(name, "")
    try:
        document = json.loads(text or "{}")
    # Not chained: the JSON error contains the text, which may contain secrets.
    except (ValueError, RecursionError):
        raise SettingsError(f'{name} is not a JSON object of strings, such as {{"{key_prefix}…": "…"}}') from None
    if not isinstance(document, dict):
        raise SettingsError(f"{name} is a JSON {type(document).__name__}; it must be a JSON object of strings")
    for key, value in document.items():
        if not key.startswith(key_prefix) or not isinstance(value, str):
            rule = f"values are strings, keys begin with {key_prefix}" if key_prefix else "values are strings"
            raise SettingsError(
                f"{name} is not a JSON object of strings: {_shown_value(env, key)} is a {type(value).__name__}; {rule}"
            )
    return document
