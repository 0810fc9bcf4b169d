"""What Sparklet is compared with: a spark-submit for each event, as spark-on-aws-lambda does it.

Both get the jars that the worker has, in one folder, the same Java and the same Python.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import process_tree
from benchmarks.comparison import Run
from benchmarks.process_tree import SAMPLED_EVERY_S, MemoryPeak
from benchmarks.workload import Job
from sparklet.settings import spark_settings
from sparklet.spark.spark_options import OPENED_PACKAGES, SUBMIT, class_path, heap_mb, spark_home

LIMIT_S = 600.0  # a run that takes longer is ended


@dataclass(frozen=True)
class SparkSubmit:
    """A fresh spark-submit for each event; nothing of it is kept."""

    side: str
    command: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    sampled_every_s: float = SAMPLED_EVERY_S  # its memory

    def run(self, job: Job) -> Run:
        """Submit the job once and check what it wrote; SystemExit with its last words if it fails."""
        event = job.event(self.side)
        run = self._submit([str(job.script), "--event", json.dumps(event)])
        job.verify(self.side)
        return run

    def _submit(self, arguments: Sequence[str]) -> Run:
        command = [*self.command, *arguments]
        log = self.folder / f"{self.side}.log"
        with log.open("wb") as output:
            began_s = time.monotonic()
            process = subprocess.Popen(command, env=self.env, cwd=self.folder, stdout=output, stderr=output)
            try:
                with MemoryPeak(every_s=self.sampled_every_s).sampled(process.pid, LIMIT_S) as peak:
                    _, status, used = os.wait4(process.pid, 0)
                    wall_s = time.monotonic() - began_s
            except BaseException:  # Ctrl-C: nothing goes on
                process_tree.end(process.pid)
                raise
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said = log.read_text(errors="replace")[-3000:]
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {said}")
        return Run(wall_s, _cpu_s(used), peak.mb)


def plain(env: Mapping[str, str], folder: Path) -> SparkSubmit:
    """``spark-submit SCRIPT``, every setting at its default: what a user of pyspark types."""
    home = _spark_home(env, folder / "spark")
    return SparkSubmit("plain", [str(home / "bin" / "spark-submit")], _process_env(env, home), folder)


def tuned(env: Mapping[str, str], folder: Path) -> SparkSubmit:
    """The same with what is known to help: no launcher's JVM, no UI, few partitions, serial GC, C1 alone."""
    settings = spark_settings(env)
    cores = settings.cores
    home = _spark_home(env, folder / "spark")
    conf = {
        "spark.master": f"local[{cores}]",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": str(cores),
        "spark.default.parallelism": str(cores),
    }
    command = [
        f"{env['JAVA_HOME']}/bin/java",
        *("-cp", f"{home}/jars/*"),
        f"-Xmx{heap_mb(settings)}m",
        *("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+IgnoreUnrecognizedVMOptions"),
        *(f"--add-opens={package}=ALL-UNNAMED" for package in OPENED_PACKAGES),
        SUBMIT,
        *(word for key, value in conf.items() for word in ("--conf", f"{key}={value}")),
    ]
    return SparkSubmit("tuned", command, _process_env(env, home), folder)


def _spark_home(env: Mapping[str, str], place: Path) -> Path:
    """A Spark as pyspark installs it, with the worker's jars in its folder of jars."""
    settings = spark_settings(env)
    if not place.exists():
        shutil.rmtree(place, ignore_errors=True)
        (place / "jars").mkdir(parents=True)
        for part in ("bin", "python"):
            (place / part).symlink_to(spark_home(settings) / part)
        for jar in class_path(settings):
            (place / "jars" / Path(jar).name).symlink_to(jar)
    return place


def _process_env(env: Mapping[str, str], home: Path) -> dict[str, str]:
    """The user's shell, without settings of AWS and Sparklet."""
    foreign = ("AWS_", "SPARK", "PYSPARK_", "PYTHONPATH")
    passed = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {
        **passed,
        "JAVA_HOME": env["JAVA_HOME"],
        "SPARK_HOME": str(home),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


def _cpu_s(used: resource.struct_rusage) -> float:
    return used.ru_utime + used.ru_stime


def parameters(rivals: Sequence[SparkSubmit]) -> dict[str, Any]:
    """What each rival is, for the document: options without the machine's paths."""
    told = {}
    for rival in rivals:
        words = [
            Path(rival.command[0]).name,
            *(word for word in rival.command[1:] if not word.startswith(("--add-", "/"))),
        ]
        told[rival.side] = " ".join(word for word in words if word != "-cp")
    return told
