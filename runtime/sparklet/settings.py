"""Environment variables → frozen settings; every name Sparklet reads is in this module.

Nothing from an event ends up here: what the operator sets on the function decides.
"""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from sparklet.errors import SettingsError

T = TypeVar("T")
RunnerName = Literal["warm", "submit"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker function is configured with."""

    ledger_table: str  # SPARKLET_LEDGER_TABLE; "" = shard messages are refused
    bucket: str  # SPARKLET_BUCKET: runs/<run_id>/ lie in it
    queue_url: str  # SPARKLET_QUEUE_URL
    runner: RunnerName  # SPARKLET_RUNNER: warm | submit
    default_script: str  # SCRIPT_LOCATION, or s3://SCRIPT_BUCKET/SPARK_SCRIPT; "" = none
    script_prefixes: tuple[str, ...]  # SPARKLET_SCRIPT_PREFIXES, comma-separated: what an event may choose from
    scratch: Path  # SPARKLET_SCRATCH, default /tmp
    min_free_bytes: int  # SPARKLET_MIN_FREE_BYTES that must be free in scratch before work starts
    grace_s: float  # SPARKLET_GRACE_S: the guard acts so long before the function's deadline
    tasks_per_jvm: int  # SPARKLET_TASKS_PER_JVM: a warm JVM is replaced after so many


@dataclass(frozen=True, slots=True)
class FanoutSettings:
    """What the functions and commands that plan and watch runs are configured with."""

    ledger_table: str  # SPARKLET_LEDGER_TABLE
    bucket: str  # SPARKLET_BUCKET
    queue_url: str  # SPARKLET_QUEUE_URL
    dlq_url: str  # SPARKLET_DLQ_URL


def worker_settings(env: Mapping[str, str] = os.environ) -> WorkerSettings:
    """Read a worker's settings; SettingsError names the variable, its value and what it may be."""
    bucket = env.get("SPARKLET_BUCKET", "")
    own = (f"s3://{bucket}/runs/", f"s3://{bucket}/scripts/") if bucket else ()
    named = tuple(p.strip() for p in env.get("SPARKLET_SCRIPT_PREFIXES", "").split(",") if p.strip())
    for prefix in named:
        if not prefix.startswith("s3://") or not prefix.endswith("/"):
            raise SettingsError(f"SPARKLET_SCRIPT_PREFIXES: {prefix!r} must look like s3://bucket/folder/")
    runner = env.get("SPARKLET_RUNNER", "warm")
    if runner not in ("warm", "submit"):
        raise SettingsError(f"SPARKLET_RUNNER is {runner!r}; it must be warm or submit")
    return WorkerSettings(
        ledger_table=env.get("SPARKLET_LEDGER_TABLE", ""),
        bucket=bucket,
        queue_url=env.get("SPARKLET_QUEUE_URL", ""),
        runner="warm" if runner == "warm" else "submit",
        default_script=_default_script(env),
        script_prefixes=own + named,
        scratch=Path(env.get("SPARKLET_SCRATCH", "/tmp")),  # noqa: S108 - Lambda's only writable place
        min_free_bytes=_number(env, "SPARKLET_MIN_FREE_BYTES", 64 * 1024 * 1024, int),
        grace_s=_number(env, "SPARKLET_GRACE_S", 10.0, float),
        tasks_per_jvm=_number(env, "SPARKLET_TASKS_PER_JVM", 200, int),
    )


def fanout_settings(env: Mapping[str, str] = os.environ) -> FanoutSettings:
    """Read the settings of planner, checker and recovery; SettingsError names what is missing."""
    return FanoutSettings(
        ledger_table=_required(env, "SPARKLET_LEDGER_TABLE"),
        bucket=_required(env, "SPARKLET_BUCKET"),
        queue_url=_required(env, "SPARKLET_QUEUE_URL"),
        dlq_url=_required(env, "SPARKLET_DLQ_URL"),
    )


def _default_script(env: Mapping[str, str]) -> str:
    """The function's own script, in the variables of spark-on-aws-lambda.

    ``SCRIPT_LOCATION`` may be a whole URI or, as there, the folder that ``SPARK_SCRIPT`` lies in.
    """
    location, name = env.get("SCRIPT_LOCATION", ""), env.get("SPARK_SCRIPT", "")
    if location:
        return location if location.endswith(".py") else f"{location.rstrip('/')}/{name}" if name else ""
    bucket = env.get("SCRIPT_BUCKET", "")
    return f"s3://{bucket.removeprefix('s3://').rstrip('/')}/{name}" if bucket and name else ""


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise SettingsError(f"{name} is not set; the deployed template sets it on every function")
    return value


def _number(env: Mapping[str, str], name: str, default: T, kind: Callable[[str], T]) -> T:
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = kind(text)
    except ValueError as error:
        raise SettingsError(f"{name} is {text!r}; it must be a number") from error
    if value < kind("0"):  # type: ignore[operator]
        raise SettingsError(f"{name} is {text!r}; it must not be negative")
    return value


@dataclass(frozen=True, slots=True)
class SparkSettings:
    """Where Spark and Java are, and how much of the machine they may have."""

    spark_home: Path | None  # SPARK_HOME; None: the folder of the installed pyspark
    java_home: Path | None  # JAVA_HOME; None: java on the PATH
    jars: tuple[Path, ...]  # SPARKLET_JARS: files, or folders of jars, separated as in PATH
    memory_mb: int  # AWS_LAMBDA_FUNCTION_MEMORY_SIZE, 2048 where nobody says
    heap_mb: int  # SPARKLET_HEAP_MB; 0: as much as the memory allows
    cores: int  # SPARKLET_CORES; 0: as many as the memory buys
    java_options: tuple[str, ...]  # SPARKLET_JAVA_OPTIONS, quoted as for a shell
    conf: Mapping[str, str]  # SPARKLET_SPARK_CONF, a JSON object: wins over Sparklet's own defaults
    s3_endpoint: str  # AWS_ENDPOINT_URL_S3, or AWS_ENDPOINT_URL; "" = AWS itself
    region: str  # AWS_REGION, or AWS_DEFAULT_REGION


def spark_settings(env: Mapping[str, str] = os.environ) -> SparkSettings:
    """Read what the runners need; SettingsError names the variable, its value and what it may be."""
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL", "")
    ignored = env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
    return SparkSettings(
        spark_home=_folder(env, "SPARK_HOME"),
        java_home=_folder(env, "JAVA_HOME"),
        jars=tuple(Path(part) for part in env.get("SPARKLET_JARS", "").split(os.pathsep) if part),
        memory_mb=_number(env, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", 2048, int),
        heap_mb=_number(env, "SPARKLET_HEAP_MB", 0, int),
        cores=_number(env, "SPARKLET_CORES", 0, int),
        java_options=_words(env, "SPARKLET_JAVA_OPTIONS"),
        conf=_spark_conf(env),
        s3_endpoint="" if ignored else endpoint,
        region=env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION", ""),
    )


def _folder(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]) if env.get(name) else None


def _words(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(env.get(name, "")))
    except ValueError as error:
        raise SettingsError(f"{name} is {env[name]!r}; its quotes do not match") from error


def _spark_conf(env: Mapping[str, str]) -> Mapping[str, str]:
    text = env.get("SPARKLET_SPARK_CONF", "")
    try:
        document = json.loads(text or "{}")
    except ValueError:
        document = None
    if not isinstance(document, dict) or not all(
        key.startswith("spark.") and isinstance(value, str) for key, value in document.items()
    ):
        raise SettingsError(f'SPARKLET_SPARK_CONF is {text!r}; it must be a JSON object of strings: {{"spark.…": "…"}}')
    return document
