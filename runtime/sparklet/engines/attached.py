"""The attached runner: scripts use the JVM of the spark-submit whose program is this worker.

EMR Serverless, EMR and Glue make that JVM. Each script still gets a process of its own, which can be killed without the
worker, and connects to Spark by the same gateway.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError

from sparklet.errors import ScriptError
from sparklet.settings import SparkSettings
from sparklet.spark.host_process import HostProcess
from sparklet.spark.java_classes import encode_properties
from sparklet.spark.jvm_calls import connected, log_in, stop_context
from sparklet.spark.runner import Output, Runner, ScriptCall, ScriptResult
from sparklet.spark.script import JVM_OPTIONS
from sparklet.spark.script_options import script_options
from sparklet.spark.script_output import ScriptOutput
from sparklet.spark.spark_options import base_python_path, encryption_conf, task_env
from sparklet.spark.warm_runner import PORT, SECRET, Jvm


class AttachedRunner(Runner):
    """Runs scripts against the JVM at the port in ``PORT``. That JVM started this process and ends after it.

    The platform sets master, memory, S3 and Python.
    """

    def __init__(self, spark: SparkSettings, scratch: Path) -> None:
        self._spark, self._scratch = spark, scratch

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run one script to its end; see ``Runner``. Spark is stopped afterwards, and with it all the script's jobs."""
        call.refuse_if_over()
        gateway = int(os.environ[PORT]), os.environ[SECRET]
        options = script_options(call.source, lambda: _jars(gateway), call.conf)
        conf = options.conf
        if too_late := JVM_OPTIONS.intersection(conf):
            raise ScriptError(
                f"{call.script.name} sets {min(too_late)}, but the engine's JVM has already started: set it for the "
                "engine, with EngineSparkConf"
            )
        options.warn(output)
        properties = {  # without the driver's own folders and PATH
            **encryption_conf(self._spark),
            **self._spark.conf,
            "spark.app.name": call.script.name,
            **{f"spark.executorEnv.{key}": value for key, value in call.env.items()},
        }
        _prepare(gateway, properties, conf, call)
        script_output = ScriptOutput(output, call)
        python_path = {"PYTHONPATH": os.pathsep.join(base_python_path(self._spark))}
        host = HostProcess(self._scratch, {**os.environ, **python_path})
        try:
            env = {**os.environ, **task_env(call, self._spark)}
            port, secret = gateway
            # ``tasks=1``: at a JVM's first task ``run`` would set the properties, which ``_prepare`` has already done.
            jvm = Jvm("platform", host, self._scratch, {}, port=port, secret=secret, tasks=1)
            return script_output.result(jvm.run(script_output, env, "", keep=False, restored=False))
        finally:
            host.close()
            # Py4JError: the JVM has ended, and Spark with it.
            with contextlib.suppress(Py4JError), connected(*gateway) as client:
                stop_context(client)


def _jars(gateway: tuple[int, str]) -> list[str]:
    """The jars on the JVM's class path, and those that were given to its spark-submit."""
    with connected(*gateway) as client:
        class_paths = [client.jvm.java.lang.System.getProperty(name) for name in ("java.class.path", "spark.jars")]
    return re.split(f"[{os.pathsep},]", ",".join(filter(None, class_paths)))


def _prepare(gateway: tuple[int, str], properties: dict[str, str], conf: Mapping[str, str], call: ScriptCall) -> None:
    """Set the JVM's system properties. Executors get the call's files besides those that spark-submit was given."""
    # ``SparkContext.addPyFile`` refuses wheels, so they are copied to names that end with .zip.
    py_files = [
        str(shutil.copy(path, call.work_dir / f"{path.name}.zip") if path.suffix == ".whl" else path)
        for path in call.py_files
    ]
    added_files = {"spark.files": [*py_files, *map(str, call.files)], "spark.submit.pyFiles": py_files}
    with connected(*gateway) as client:
        log_in(client)
        java: Any = client.jvm.java
        for name, added in added_files.items():
            if added:
                properties[name] = ",".join(filter(None, (java.lang.System.getProperty(name), *added)))
        # In one call, since each property set by itself would be a request to the JVM.
        java.lang.System.getProperties().load(java.io.StringReader(encode_properties({**properties, **conf})))
