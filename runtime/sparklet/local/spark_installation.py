"""The Spark of local workers: Java, pyspark, the jars that it lacks, the class-data archive.

Jars that are missing are fetched or made; the archive is made in the background.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from sparklet.errors import LocalStackError
from sparklet.job.spark_lines import SCALA, line_of
from sparklet.local.class_data import ClassArchive
from sparklet.local.environment import host_env, resource
from sparklet.local.ivy import Progress
from sparklet.local.jars import ensure_jars, load_stack
from sparklet.local.java import find_java
from sparklet.local.prepared_jars import compiled_jar, is_plain, linked_jars, unsigned_copies
from sparklet.local.state import user_folder
from sparklet.settings import spark_settings
from sparklet.spark.script_main import AS_IN_LAMBDA
from sparklet.spark.spark_options import class_path, spark_home

PASSED = (  # variables that workers get from the user's shell
    *("SPARKLET_JAVA_OPTIONS", "SPARKLET_SPARK_CONF", "SPARKLET_HEAP_MB", "SPARKLET_CORES", "SPARKLET_CDS_ARCHIVE"),
    *("SPARKLET_BATCH_HANDLING", "SPARKLET_EVENT_VARIABLES", "SPARKLET_METRICS_NAMESPACE"),
)


def install_command() -> str:
    """The command that installs the local stack's packages, from where Sparklet was installed: file, git or index."""
    try:
        origin = json.loads(distribution("sparklet").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {}
    vcs = origin.get("vcs_info", {}).get("vcs", "")
    url = f"{vcs}+{origin['url']}" if vcs else origin.get("url", "")
    return shlex.join(["pip", "install", "sparklet[local]" + (f" @ {url}" if url else "")])


def missing_package_message(package: str) -> str:
    """The message for a user whose environment lacks a package that the local stack needs."""
    return f"the package {package} is missing, which the local stack needs: {install_command()}"


def worker_environment(workers: int, progress: Progress) -> dict[str, str]:
    """The variables by which local workers find Java, Spark and the jars. Missing jars are fetched or made first."""
    # First the checks that fail: a missing pyspark is reported before a missing Java, and mistakes in the user's shell
    # here instead of by workers that do not start.
    stack_file()
    spark_settings()
    java = find_java()
    jars = worker_jars(java, progress, offline=bool(os.environ.get("SPARKLET_OFFLINE")))
    archive = worker_archive(java, jars)
    # If the user names an archive, or "" for none, then no archive is made.
    if "SPARKLET_CDS_ARCHIVE" not in os.environ and archive.begin(host_env()):
        progress("making an archive of Java's classes in the background, once: later runs start faster")
    return {
        "JAVA_HOME": str(java.parent.parent),
        "SPARK_HOME": str(spark_home(spark_settings({}))),
        "SPARKLET_JARS": os.pathsep.join(map(str, jars)),
        "SPARKLET_CDS_ARCHIVE": str(archive.path),
        "PYSPARK_PYTHON": sys.executable,
        AS_IN_LAMBDA: "1",
        "SPARKLET_CORES": str(max(1, (os.cpu_count() or 1) // workers)),
        # Last, so that the user's values win.
        **{name: value for name, value in os.environ.items() if name in PASSED},
    }


def stack_file() -> Path:
    """The stack file for the installed pyspark; LocalStackError if there is none, or if its line is not supported."""
    try:
        spark_version = version("pyspark")
    except PackageNotFoundError as error:
        raise LocalStackError(missing_package_message("pyspark")) from error
    if line_of(spark_version) not in SCALA:
        raise LocalStackError(
            f"pyspark {spark_version} is installed, but Sparklet supports only Spark {' and '.join(SCALA)}"
        )
    return resource(f"docker/stacks/spark-{line_of(spark_version)}.toml")


def fetched_jars(progress: Progress, offline: bool) -> list[Path]:
    """The jars that pyspark does not bring; the missing ones are fetched first."""
    return ensure_jars(stack_file(), jar_cache(), load_stack(stack_file()).local, progress, offline)


def worker_jars(java: Path, progress: Progress, offline: bool) -> list[Path]:
    """The jars that local workers need besides pyspark's own; the missing ones are fetched or made first."""
    extra_jars = fetched_jars(progress, offline)
    spark_jars = spark_home(spark_settings({})) / "jars"
    java_jar = compiled_jar(java, [spark_jars, *extra_jars], jar_cache().with_name("compiled") / stack_file().stem)
    jars = [*unsigned_copies(spark_jars, jar_cache().with_name("unsigned")), java_jar, *extra_jars]
    # Links are needed only for our own archive, which Java 17 would ignore for jars on paths that are not plain.
    if "SPARKLET_CDS_ARCHIVE" in os.environ or all(is_plain(path.resolve()) for path in (spark_jars, *jars)):
        return jars
    # The class path includes pyspark's own jars.
    return linked_jars(_class_path(jars), jar_cache().with_name("linked"))


def worker_archive(java: Path, jars: Sequence[Path]) -> ClassArchive:
    """The class-data archive of local workers, whether it exists yet or not."""
    classes = stack_file().with_suffix(".classes.gz")
    return ClassArchive.of(jar_cache().with_name("class-data"), classes, java, _class_path(jars))


def _class_path(jars: Sequence[Path]) -> list[str]:
    return class_path(spark_settings({"SPARKLET_JARS": os.pathsep.join(map(str, jars))}))


def jar_cache() -> Path:
    """The folder of the user's jar cache, below SPARKLET_CACHE_DIR if that is set."""
    return user_folder("cache").resolve() / "jars"
