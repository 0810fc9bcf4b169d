"""The worker as Lambda runs it: behind the runtime interface emulator, with AWS's own runtime client."""

import json
import os
import platform
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import process_tree
from benchmarks.comparison import Run, say
from benchmarks.facts import ROOT
from benchmarks.process_tree import MemoryPeak
from benchmarks.workload import Job
from sparklet.aws.clients import AwsClients
from sparklet.local.class_data import ClassArchive
from sparklet.local.environment import client_env, host_env
from sparklet.local.spark_installation import worker_archive, worker_environment
from sparklet.spark.spark_options import SUBMIT
from tests.stand_ins.ministack import free_port, ministack

CLIENT = (sys.executable, "-m", "awslambdaric", "sparklet.worker.handler.lambda_handler")
MEMORY_MB = 3008  # the local mode's default: with it two cores
BUCKET = "bench"
LIMIT_S = 600.0  # a run that takes longer is ended
STARTS_WITHIN_S = 60.0
ARCHIVE_WITHIN_S = 600.0
_ARCHITECTURES = {"aarch64": "arm64"}
_PATH = "/2015-03-31/functions/function/invocations"


@dataclass(frozen=True)
class Function:
    """A function whose environments are made and ended one after the other."""

    emulator: Path
    env: Mapping[str, str]
    folder: Path
    scripts: Mapping[str, str]  # a job's name → its script's address in the stand-in

    @contextmanager
    def environment(self) -> Iterator["Environment"]:
        """An emulator without a worker: that starts with the first event."""
        address, runtime_api = (f"127.0.0.1:{free_port()}" for _ in range(2))
        options = ["--runtime-interface-emulator-address", address, "--runtime-api-address", runtime_api]
        with self.process([str(self.emulator), *options, *CLIENT], self.env) as (pid, log):
            environment = Environment(self, pid, f"http://{address}", log)
            environment.await_emulator()
            yield environment

    @contextmanager
    def process(self, command: Sequence[str], env: Mapping[str, str]) -> Iterator[tuple[int, Path]]:
        """Its id and its log; in the end it and all below it are killed."""
        log = self.folder / f"worker-{uuid.uuid4().hex[:8]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=dict(env), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            yield process.pid, log
        finally:
            process_tree.end(process.pid)
            process.wait()


@dataclass(frozen=True)
class Environment:
    """One execution environment; it does an event at a time."""

    function: Function
    pid: int
    address: str
    log: Path

    def run(self, job: Job) -> Run:
        """Invoke the function with the job's event; the first time this includes the worker's start.

        CPU time is what was used until the answer; ``cpu_s`` tells what came after it, too.
        """
        event = {"sparklet": {"script": self.function.scripts[job.name]}, **job.event("sparklet")}
        body = json.dumps(event).encode()
        before_s = self.cpu_s()
        with MemoryPeak().sampled(self.pid, LIMIT_S) as peak:
            began_s = time.monotonic()
            answer = self._answer(body)
            wall_s = time.monotonic() - began_s
        cpu_s = self.cpu_s() - before_s
        if any(each.get("state") != "SUCCEEDED" for each in answer.get("tasks", [answer])):
            raise SystemExit(
                f"{job.name} failed in the worker: {answer}\n{self.log.read_text(errors='replace')[-3000:]}"
            )
        job.verify("sparklet")
        return Run(wall_s, cpu_s, peak.mb)

    def cpu_s(self) -> float:
        """What the environment has used so far."""
        return process_tree.cpu_s(self.pid)

    def uses_archive(self) -> bool:
        """Whether its JVM has mapped the class-data archive and takes Spark's classes from it: Java says neither."""
        archive = self.function.env.get("SPARKLET_CDS_ARCHIVE", "none")
        mapped = any(archive in _maps(pid) for pid in process_tree.tree(self.pid))
        return mapped and not _archive(self.function.env).refusal(SUBMIT)

    def await_emulator(self) -> None:
        """Wait until the emulator listens."""
        end_s = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < end_s:
            try:
                urllib.request.urlopen(self.address, timeout=5).close()
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"the emulator does not listen: {self.log.read_text()[-1000:]}")

    def _answer(self, body: bytes) -> dict[str, Any]:
        """The function's answer; what the emulator says where there is none."""
        try:
            with urllib.request.urlopen(f"{self.address}{_PATH}", body, timeout=LIMIT_S + 10) as answer:
                document: dict[str, Any] = json.loads(answer.read())
                return document
        except urllib.error.HTTPError as error:
            return {"status": error.code, "text": error.read().decode(errors="replace")}


@contextmanager
def function(folder: Path, jobs: list[Job]) -> Iterator[Function]:
    """The function with the jobs' scripts in a stand-in for S3, and all that it needs on this machine."""
    spark = worker_environment(1, say)
    _await_archive(spark)
    with ministack(folder) as endpoint:
        aws = client_env(endpoint, "bench")
        env = {
            **host_env(),
            **spark,
            **aws,
            "PYTHONPATH": os.pathsep.join([str(ROOT / ".venv-bench" / "lambda"), host_env().get("PYTHONPATH", "")]),
            "AWS_LAMBDA_FUNCTION_NAME": "bench",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY_MB),
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(int(LIMIT_S)),
            "SPARKLET_SCRATCH": str(folder),
            "SPARKLET_SCRIPT_PREFIXES": f"s3://{BUCKET}/",
        }
        os.environ.update(aws)
        s3 = AwsClients(endpoint_url=endpoint).s3
        s3.create_bucket(Bucket=BUCKET)
        for job in jobs:
            s3.put_object(Bucket=BUCKET, Key=job.script.name, Body=job.script.read_bytes())
        scripts = {job.name: f"s3://{BUCKET}/{job.script.name}" for job in jobs}
        yield Function(_emulator(), env, folder, scripts)


def _await_archive(spark: Mapping[str, str]) -> None:
    """Wait for the class-data archive of local workers, which is made once, in the background, and is not measured."""
    archive = _archive(spark)
    end_s = time.monotonic() + ARCHIVE_WITHIN_S
    if not archive.path.exists():
        say("waiting for the class-data archive, which is made once for this Java and these jars")
    while not archive.path.exists():
        if archive.failure() or time.monotonic() > end_s:
            say(f"going on WITHOUT a class-data archive: {archive.failure() or 'it is not there yet'}")
            return
        time.sleep(1)


def _archive(env: Mapping[str, str]) -> ClassArchive:
    jars = [Path(jar) for jar in env["SPARKLET_JARS"].split(os.pathsep)]
    return worker_archive(Path(env["JAVA_HOME"], "bin", "java"), jars)


def _emulator() -> Path:
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    found = sorted(
        (ROOT / ".venv-deploy").glob(f"lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-{architecture}")
    )
    if not found or not (ROOT / ".venv-bench" / "lambda").is_dir():
        raise SystemExit("the emulator or Lambda's runtime client is not here: make deploy-venv bench-venv")
    return found[0]


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:  # it has ended
        return ""
