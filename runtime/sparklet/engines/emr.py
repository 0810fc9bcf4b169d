"""EMR as an engine: a step of one cluster for each shard.

The driver runs on the primary node (client mode), so that cancelling a step reaches the worker, and the step's own log
is the worker's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sparklet.engines import Asked, Kind
from sparklet.engines.spark_platform import PYTHON, PlatformJob, SparkPlatform, job_name
from sparklet.model.quantities import Figure

MAX_LISTED = 300  # steps; a cluster has at most 256 active ones


@dataclass(frozen=True, kw_only=True)
class EmrSteps(SparkPlatform):
    """Adds, watches and cancels steps of a cluster."""

    cluster: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Add a step, or find the earlier step whose name ends with the token; return its id."""
        program, package = self._store_worker()
        emr, conf = self.clients.emr, {"spark.pyspark.python": PYTHON, "spark.pyspark.driver.python": PYTHON}
        options = [word for key, value in {**conf, **self.conf}.items() for word in ("--conf", f"{key}={value}")]
        submit = ["spark-submit", "--deploy-mode", "client", "--py-files", package, *options, program]
        newest = {"ClusterId": self.cluster, "PaginationConfig": {"MaxItems": MAX_LISTED}}
        # EMR takes no token with a step, so the token is in the step's name.
        ids = emr.get_paginator("list_steps").paginate(**newest).search(f"Steps[?ends_with(Name, '{token}')].Id")
        if step_id := self._call(lambda: next(ids, None)):
            return str(step_id)
        step = {
            "Name": f"{job_name(command)} {token}",
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {"Jar": "command-runner.jar", "Args": [*submit, *self._arguments(command)]},
        }
        return str(self._call(emr.add_job_flow_steps, JobFlowId=self.cluster, Steps=[step])["StepIds"][0])

    def stop(self, task_id: str) -> None:
        """Cancel a step."""
        self._call(self.clients.emr.cancel_steps, ClusterId=self.cluster, StepIds=[task_id])

    def _job(self, task_id: str) -> PlatformJob:
        step = self._call(self.clients.emr.describe_step, ClusterId=self.cluster, StepId=task_id)["Step"]
        status = step["Status"]
        details = status.get("FailureDetails", {})
        reasons = details.get("Reason"), details.get("Message"), status.get("StateChangeReason", {}).get("Message")
        logs = details.get("LogFile", "").rpartition("/")[0] or step.get("LogUri", "").rstrip("/")
        started = status.get("Timeline", {}).get("StartDateTime")
        # EMR writes the address of a log with the scheme s3n.
        return PlatformJob(status["State"], "; ".join(filter(None, reasons)), started, re.sub("^s3n:", "s3:", logs))

    def _release(self) -> tuple[str, str, str]:
        cluster = self._call(self.clients.emr.describe_cluster, ClusterId=self.cluster)["Cluster"]
        names = (configuration.get("Classification", "") for configuration in cluster.get("Configurations", ()))
        return cluster["ReleaseLabel"], "the cluster's classifications (delta-defaults, …)", " ".join(names)


KIND = Kind(
    make=EmrSteps,
    about="the driver of a step: `EmrClusterId` (a lasting cluster, emr-7.0.0 or later; `StepConcurrencyLevel` limits "
    "its shards at once)",
    hours={"": Figure(0.0, "2026-11", "a step on a cluster that runs anyway, whose price is not counted")},
    to_plan=[Asked("emr.describe_cluster", ["{EmrClusterId}"])],
    to_work=[Asked("emr.add_job_flow_steps emr.cancel_steps emr.describe_step emr.list_steps", ["{EmrClusterId}"])],
)
