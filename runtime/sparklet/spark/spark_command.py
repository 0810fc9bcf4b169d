"""``pyspark``, ``spark-submit`` and ``spark-sql`` in the image, with Sparklet's jars, S3A and class-data archive.

Java starts directly, with the command line of the worker's runners, without bash and ``/dev/fd``; Spark's own launcher
parses the options. The image has this under Spark's names in ``/opt/spark/bin``, so that a plain ``python`` in which
PySpark starts its JVM gets the same.
"""

import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from sparklet.errors import SettingsError, SparkletError
from sparklet.job.session import table_conf
from sparklet.settings import SparkSettings, check_names, spark_settings
from sparklet.spark.script_host import conf_apart
from sparklet.spark.spark_options import (
    SHELL,
    SUBMIT,
    class_path,
    java_command,
    java_path,
    process_env,
    spark_defaults,
    spark_home,
)

LAUNCHER = "org.apache.spark.launcher.Main"
SQL_CLASS = "org.apache.spark.sql.hive.thriftserver.SparkSQLCLIDriver"
SHELL_VARIABLE = "SPARKLET_SHELL"  # set if PySpark's shell starts spark-submit
SWITCHES = ("--help", "--supervise", "--usage-error", "--verbose", "--version")  # options without a value


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Replace this process by the command that the first argument names."""
    command, *rest = sys.argv[1:] if arguments is None else arguments
    try:
        if command == "pyspark" and not {"--help", "-h", "--version"}.intersection(rest):
            _become(*shell(rest, os.environ))
        settings = spark_settings()
        scratch = Path(os.environ.get("SPARKLET_SCRATCH") or "/tmp")  # noqa: S108 - the image's only writable place
        words = ["--class", SQL_CLASS, *rest] if command == "spark-sql" else rest
        interactive = command == "spark-sql" or SHELL_VARIABLE in os.environ
        _become(submit(settings, scratch, normalised(settings, words), interactive), process_env(settings, os.environ))
    except SparkletError as error:
        sys.exit(f"{command}: {error}")


def shell(arguments: Sequence[str], env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """The command and environment of PySpark's shell, whatever its standard input is."""
    check_names(env)
    home = spark_home(spark_settings(env))
    startup = next(path for path in (home / "python/pyspark/shell.py", home / "shell.py") if path.is_file())
    ours = {"PYTHONSTARTUP": str(startup), "PYSPARK_SUBMIT_ARGS": shlex.join([*arguments, SHELL])}
    return [sys.executable, "-i"], {**env, **ours, SHELL_VARIABLE: "1", "SPARK_HOME": str(home)}


def normalised(settings: SparkSettings, arguments: Sequence[str]) -> list[str]:
    """The arguments from Spark's launcher: options first, each setting as ``--conf``; its errors are SettingsErrors."""
    home = spark_home(settings)
    java = [java_path(settings), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData"]
    answer = subprocess.run(
        [*java, "-cp", f"{home / 'jars'}{os.sep}*", LAUNCHER, SUBMIT, *arguments],
        env={**os.environ, "SPARK_HOME": str(home), "SPARK_SCALA_VERSION": "any"},
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or ["Spark's launcher failed without a message"]
        raise SettingsError(lines[-1])
    words = answer.stdout.split("\0\n", 1)[-1].split("\0")
    return words[words.index(SUBMIT) + 1 : -1]


def submit(settings: SparkSettings, scratch: Path, arguments: Sequence[str], interactive: bool) -> list[str]:
    """Java's command line for arguments from the launcher; a script runs as in the worker.

    ``interactive``: with the extensions and catalogs of the table formats, and no Hive metastore unless SQL needs it.
    """
    given = _conf(arguments)
    jars = class_path(settings)
    conf = spark_defaults(settings, scratch, jars)
    if interactive:
        there = _class_names(settings)
        formats = table_conf(lambda name: f"{name.replace('.', '/')}.class" in there, str(scratch / "warehouse"))
        conf = {"spark.sql.catalogImplementation": "in-memory", **formats, **conf}
    command = java_command(
        settings,
        # ours first: an archive is bound to the beginning of the class path
        [*jars, *filter(None, [given.get("spark.driver.extraClassPath")])],
        tmp=scratch,
        properties={"derby.system.home": str(scratch)},
        conf=conf,
        given=given,
    )
    return [*command, *arguments]


def _conf(arguments: Sequence[str]) -> dict[str, str]:
    """The settings among arguments in the launcher's order."""
    conf, words = {}, iter(arguments)
    for word in words:
        if not word.startswith("--"):
            break  # the script and its own arguments
        if word not in SWITCHES and (option := next(words, "")) and word == "--conf":
            key, _, value = option.partition("=")
            conf[key] = value
    return conf


def _class_names(settings: SparkSettings) -> frozenset[str]:
    """The files in the jars that pyspark does not bring."""
    own, names = spark_home(settings) / "jars", set()
    for jar in (jar for jar in class_path(settings) if Path(jar).parent != own):
        with zipfile.ZipFile(jar) as content:
            names.update(content.namelist())
    return frozenset(names)


def _become(command: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    if SUBMIT in command:
        command, conf = conf_apart(command)
        os.set_inheritable(conf, True)
    os.execve(command[0], list(command), dict(env))  # noqa: S606 - no shell is what we want


if __name__ == "__main__":
    main()
