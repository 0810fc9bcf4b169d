"""``spark-submit`` in the image, with Sparklet's jars, S3A and class-data archive.

Java starts directly, with the command line of the worker's runners: the archive only fits their class path, and
Spark's ``spark-class`` needs ``/dev/fd``, which Lambda lacks. Spark's own launcher parses the options. Spark's own
``pyspark`` and ``spark-sql`` call this module, and so does a plain ``python`` in which PySpark starts its JVM.
"""

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sparklet.errors import SettingsError, SparkletError
from sparklet.job.session import table_conf
from sparklet.settings import SparkSettings, spark_settings
from sparklet.spark.script_host import with_conf_in_pipe
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
SWITCHES = ("--help", "--supervise", "--usage-error", "--verbose", "--version")  # options without a value


def main() -> NoReturn:
    """Replace this process by the ``java`` command that ``spark-submit`` would run for the same arguments."""
    try:
        settings = spark_settings()
        scratch = Path(os.environ.get("SPARKLET_SCRATCH") or "/tmp")  # noqa: S108 - the image's only writable place
        command = launcher_command(settings, sys.argv[1:])
        if SUBMIT not in command:  # the Python of PySpark's shell, which calls this module again
            os.execvp(command[0], command)  # noqa: S606 - without a shell on purpose
        command, conf = with_conf_in_pipe(submit(settings, scratch, command[command.index(SUBMIT) + 1 :]))
    except SparkletError as error:
        sys.exit(f"spark-submit: {error}")
    os.set_inheritable(conf, True)
    os.execve(command[0], command, process_env(settings, os.environ))  # noqa: S606


def launcher_command(settings: SparkSettings, arguments: Sequence[str]) -> list[str]:
    """The command that Spark's launcher makes of ``spark-submit``'s arguments; SettingsError if it refuses them.

    The options come first, each setting as ``--conf``.
    """
    home = spark_home(settings)
    java = [java_path(settings), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData"]
    launcher = subprocess.run(
        [*java, "-cp", f"{home / 'jars'}{os.sep}*", LAUNCHER, SUBMIT, *arguments],
        # Without this Scala version the launcher would look for it in a source tree, and fail. Spark's own scripts,
        # which are not used here, would set it.
        env={**os.environ, "SPARK_HOME": str(home), "SPARK_SCALA_VERSION": "any"},
        capture_output=True,
        text=True,
        check=False,
    )
    if launcher.returncode:
        lines = launcher.stderr.strip().splitlines() or ["Spark's launcher failed without a message"]
        raise SettingsError(lines[-1])
    # The launcher prints other text first, which ends with a null and a line feed; then each argument ends with a null.
    return launcher.stdout.split("\0\n", 1)[-1].split("\0")[:-1]


def submit(settings: SparkSettings, scratch: Path, arguments: Sequence[str]) -> list[str]:
    """Java's command line for the launcher's arguments, with which a script runs as in the worker.

    PySpark's shell and spark-sql get the extensions and catalogs of the table formats. They get no Hive metastore
    unless the settings ask for one.
    """
    script_conf = _conf(arguments)
    jars = class_path(settings)
    conf = spark_defaults(settings, scratch, jars)
    if SHELL in arguments or SQL_CLASS in arguments:
        class_files = _class_names(settings)
        formats = table_conf(lambda name: f"{name.replace('.', '/')}.class" in class_files, str(scratch / "warehouse"))
        conf = {"spark.sql.catalogImplementation": "in-memory", **formats, **conf}
    command = java_command(
        settings,
        # Ours come first, since a class-data archive must fit the beginning of the class path.
        [*jars, *filter(None, [script_conf.get("spark.driver.extraClassPath")])],
        tmp=scratch,
        properties={"derby.system.home": str(scratch)},
        conf=conf,
        script_conf=script_conf,
    )
    return [*command, *arguments]


def _conf(arguments: Sequence[str]) -> dict[str, str]:
    """The settings (``--conf``) among the launcher's arguments."""
    conf, words = {}, iter(arguments)
    for word in words:
        if not word.startswith("--"):
            break  # the script and its own arguments
        if word not in SWITCHES and (option := next(words, "")) and word == "--conf":
            key, _, value = option.partition("=")
            conf[key] = value
    return conf


def _class_names(settings: SparkSettings) -> frozenset[str]:
    """The names of the files in all jars that are not Spark's own."""
    jars_folder, names = spark_home(settings) / "jars", set()
    for jar in (jar for jar in class_path(settings) if Path(jar).parent != jars_folder):
        with zipfile.ZipFile(jar) as content:
            names.update(content.namelist())
    return frozenset(names)


if __name__ == "__main__":
    main()
