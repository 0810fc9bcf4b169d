"""One JVM for many scripts, so that the test of a script takes a second or two instead of ten."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyspark import SparkConf
from pyspark.java_gateway import launch_gateway

from tests.waiting import deadline_s

SCRIPTS = Path(__file__).parents[3] / "spark_scripts"
QUICK_JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def run_script(script: Path, args: Sequence[object], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``python script args`` in a process of its own."""
    command = [sys.executable, str(script), *map(str, args)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env}  # tests' scripts import ``tests.waiting``
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=deadline_s(100))


class WarmJvm:
    """A JVM to which the processes of scripts connect one after the other, as in the warm runner."""

    def __init__(self, conf: Mapping[str, str], env: Mapping[str, str] = CREDENTIALS) -> None:
        options = SparkConf(loadDefaults=False)
        quick = {"spark.driver.extraJavaOptions": QUICK_JAVA, "spark.ui.enabled": "false"}
        for key, value in {**quick, "spark.master": "local[2]", **conf}.items():
            options.set(key, value)
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("AWS_ENDPOINT_URL", raising=False)  # set by a test, but the JVM is for other tests, too
            for name, value in env.items():
                patch.setenv(name, value)
            self.gateway = launch_gateway(options, {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL})

    def run(self, script: str, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a script of ``spark_scripts``; its Spark context in the JVM is stopped afterwards."""
        parameters = self.gateway.gateway_parameters
        gateway = {"PYSPARK_GATEWAY_PORT": str(parameters.port), "PYSPARK_GATEWAY_SECRET": parameters.auth_token}
        try:
            return run_script(SCRIPTS / script, args, {**CREDENTIALS, **gateway, **env})
        finally:
            contexts = getattr(getattr(self.gateway.jvm.org.apache.spark, "SparkContext$"), "MODULE$")
            active = contexts.getActive()
            if active.isDefined():  # a failed script has not stopped its context
                active.get().stop()

    def has_module(self, name: str) -> bool:
        """Whether this Java has a module. The call raises nothing: pyspark would convert a Java exception."""
        return bool(self.gateway.jvm.java.lang.ModuleLayer.boot().findModule(name).isPresent())

    def close(self) -> None:
        """End the JVM."""
        self.gateway.shutdown()
        self.gateway.proc.stdin.close()  # the JVM ends when its standard input does
        self.gateway.proc.wait(timeout=deadline_s())


@contextmanager
def warm_jvm(env: Mapping[str, str] = CREDENTIALS, **conf: str) -> Iterator[WarmJvm]:
    """Run a JVM with environment variables and Spark options (with ``_`` for ``.``) until the end of the block."""
    jvm = WarmJvm({key.replace("_", "."): value for key, value in conf.items()}, env)
    try:
        yield jvm
    finally:
        jvm.close()


def reported(stderr: str) -> dict[str, Any]:
    """The report that a script without a worker has logged."""
    match = re.search(r"sparklet.job report: (.*)", stderr)
    assert match, stderr
    document: dict[str, Any] = json.loads(match[1])
    return document
