"""The attached runner: scripts in the driver of a spark-submit that somebody else made, against its JVM.

On EMR, EMR Serverless and Glue, the worker itself is the program of spark-submit. Each script gets a process of its
own, as ever, so it can be killed without the worker; it finds Spark by the same gateway.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sparklet.errors import ScriptError
from sparklet.settings import SparkSettings
from sparklet.spark.host_process import HostProcess
from sparklet.spark.java_classes import encoded
from sparklet.spark.jvm_session import file_options, set_properties, stop_spark
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.spark.script_output import TaskOutput
from sparklet.spark.spark_options import base_python_path, task_env
from sparklet.spark.spark_submit import JVM_OPTIONS, read_options
from sparklet.spark.warm_gateway import Jvm, ScriptRun

PORT, SECRET = "PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET"


class AttachedRunner:
    """Runs scripts against the JVM that ``PORT`` names. The platform decides about master, memory, S3 and Python."""

    def __init__(self, spark: SparkSettings, scratch: Path) -> None:
        self._spark, self._scratch = spark, scratch
        self._jvm = Jvm("platform", scratch, {}, port=int(os.environ[PORT]), secret=os.environ[SECRET])

    def start(self) -> None:
        """Do nothing: the JVM has started this process."""

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run one script to its end; see ``Runner``. Spark is stopped afterwards, so no job of it goes on."""
        call.refuse_if_over()
        conf = read_options(call.script).conf
        if fixed := JVM_OPTIONS.intersection(conf):
            raise ScriptError(
                f"{call.script.name} asks for {min(fixed)}, which the JVM here has got already: set it for the engine, "
                "see EngineSparkConf"
            )
        self._jvm.tasks += 1
        task = TaskOutput(output, call)
        python_path = {"PYTHONPATH": os.pathsep.join(base_python_path(self._spark))}
        host = HostProcess(self._scratch, {**os.environ, **python_path})
        try:
            set_properties(self._jvm.port, self._jvm.secret, encoded(self._properties(call, conf)))
            return task.result(ScriptRun(call, host, self._jvm, task).code(self._message(call, host)))
        finally:
            host.close()
            stop_spark(self._jvm.port, self._jvm.secret)

    def close(self) -> None:
        """Do nothing: Spark ends after this process."""

    def _properties(self, call: ScriptCall, conf: dict[str, str]) -> dict[str, str]:
        """The source of the script's SparkConf; the driver's own folders and path are not for executors."""
        files = [str(path) for path in _for_executors(call)]
        return {
            "spark.app.name": call.script.name,
            **{f"spark.executorEnv.{key}": value for key, value in call.env.items()},
            **file_options(self._jvm.port, self._jvm.secret, files),
            **conf,
        }

    def _message(self, call: ScriptCall, host: HostProcess) -> dict[str, object]:
        """The request for the script's process."""
        return {
            "host": host.pid,
            "script": str(call.script),
            "args": call.args,
            "cwd": str(call.work_dir),
            "env": {**os.environ, **task_env(call, self._spark), **host.mark},
            "port": self._jvm.port,
            "secret": self._jvm.secret,
            "first": False,
            "keep": False,
        }


def _for_executors(call: ScriptCall) -> Iterator[Path]:
    """The py-files, as ``SparkContext.addPyFile`` takes them: it knows no wheels, which are zips."""
    for path in call.py_files:
        if path.suffix == ".whl":
            path = Path(shutil.copy(path, call.work_dir / f"{path.name}.zip"))
        yield path
