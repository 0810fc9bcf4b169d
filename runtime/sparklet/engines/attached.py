"""The attached runner: scripts use the JVM of the spark-submit whose program is this worker.

EMR Serverless, EMR and Glue make that JVM. Each script still gets a process of its own, which can be killed without the
worker, and connects to Spark by the same gateway.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from py4j.protocol import Py4JError

from sparklet.errors import ScriptError
from sparklet.settings import SparkSettings
from sparklet.spark.host_process import HostProcess
from sparklet.spark.java_classes import encoded
from sparklet.spark.jvm_calls import connected, log_in
from sparklet.spark.runner import Output, Runner, ScriptCall, ScriptResult
from sparklet.spark.script_options import JVM_OPTIONS, read_options
from sparklet.spark.script_output import ScriptOutput
from sparklet.spark.spark_options import base_python_path, task_env
from sparklet.spark.warm_runner import PORT, SECRET, Jvm, ScriptRun


class AttachedRunner(Runner):
    """Runs scripts against the JVM at ``PORT``, which started this process and ends after it.

    The platform sets master, memory, S3 and Python.
    """

    def __init__(self, spark: SparkSettings, scratch: Path) -> None:
        self._spark, self._scratch = spark, scratch

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run one script to its end; see ``Runner``. Spark is stopped afterwards, and with it all the script's jobs."""
        call.refuse_if_over()
        conf = read_options(call.script).conf
        if fixed := JVM_OPTIONS.intersection(conf):
            raise ScriptError(
                f"{call.script.name} asks for {min(fixed)}, but the JVM here has started already: set it for the "
                "engine, see EngineSparkConf"
            )
        jvm = Jvm("platform", self._scratch, {}, port=int(os.environ[PORT]), secret=os.environ[SECRET])
        jvm.tasks = 1  # prepared here, not by its first script
        task = ScriptOutput(output, call)
        properties = {  # without the driver's own folders and PATH
            **self._spark.conf,
            "spark.app.name": call.script.name,
            **{f"spark.executorEnv.{key}": value for key, value in call.env.items()},
            **_file_options(jvm.port, jvm.secret, [str(path) for path in _for_executors(call)]),
            **conf,
        }
        python_path = {"PYTHONPATH": os.pathsep.join(base_python_path(self._spark))}
        host = HostProcess(self._scratch, {**os.environ, **python_path})
        try:
            _set_properties(jvm.port, jvm.secret, encoded(properties))
            env = {**os.environ, **task_env(call, self._spark)}
            return task.result(ScriptRun(call, host, jvm, task).code(env, "", keep=False))
        finally:
            host.close()
            _stop_spark(jvm.port, jvm.secret)


def _for_executors(call: ScriptCall) -> Iterator[Path]:
    """The py-files for ``SparkContext.addPyFile``, which refuses wheels: they are copied as zips."""
    for path in call.py_files:
        if path.suffix == ".whl":
            path = Path(shutil.copy(path, call.work_dir / f"{path.name}.zip"))
        yield path


def _set_properties(port: int, secret: str, properties: str) -> None:
    """Set the system properties of the platform's JVM."""
    with connected(port, secret) as client:
        log_in(client)
        client.jvm.java.lang.System.getProperties().load(client.jvm.java.io.StringReader(properties))


def _stop_spark(port: int, secret: str) -> None:
    """Stop the context, if there is one, with all its jobs; nothing happens if the JVM has ended."""
    with contextlib.suppress(Py4JError), connected(port, secret) as client:
        active = getattr(getattr(client.jvm.org.apache.spark, "SparkContext$"), "MODULE$").getActive()
        if active.isDefined():
            active.get().stop()


def _file_options(port: int, secret: str, py_files: Sequence[str]) -> dict[str, str]:
    """Options that make ``py_files`` importable on executors, too, beside what spark-submit was given."""
    with connected(port, secret) as client:
        of_spark = client.jvm.java.lang.System.getProperty
        given = {name: of_spark(name) for name in ("spark.files", "spark.submit.pyFiles")}
    return {name: ",".join(filter(None, (value, *py_files))) for name, value in given.items()} if py_files else {}
