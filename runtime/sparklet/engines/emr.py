"""EMR as an engine: a step for each shard."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sparklet.engines.spark_platform import MAX_LISTED, PYTHON, Job, Platform, _name


@dataclass(frozen=True, kw_only=True)
class EmrSteps(Platform):
    """Steps of one cluster.

    The driver runs on the primary node (``client``), so that cancelling a step reaches the worker, and the step's own
    log is the worker's.
    """

    cluster: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Add a step, unless the cluster has one whose name ends with the token."""
        program, package = self._packed()
        emr, conf = self.clients.emr, {"spark.pyspark.python": PYTHON, "spark.pyspark.driver.python": PYTHON}
        options = [word for key, value in {**conf, **self.conf}.items() for word in ("--conf", f"{key}={value}")]
        submit = ["spark-submit", "--deploy-mode", "client", "--py-files", package, *options, program]
        newest = {"ClusterId": self.cluster, "PaginationConfig": {"MaxItems": MAX_LISTED}}
        ids = emr.get_paginator("list_steps").paginate(**newest).search(f"Steps[?ends_with(Name, '{token}')].Id")
        if found := self._ask(lambda: next(ids, None)):
            return str(found)
        step = {
            "Name": f"{_name(command)} {token}",
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {"Jar": "command-runner.jar", "Args": [*submit, *self._arguments(command)]},
        }
        return str(self._ask(emr.add_job_flow_steps, JobFlowId=self.cluster, Steps=[step])["StepIds"][0])

    def stop(self, task_id: str) -> None:
        """Cancel a step."""
        self._ask(self.clients.emr.cancel_steps, ClusterId=self.cluster, StepIds=[task_id])

    def _job(self, task_id: str) -> Job:
        step = self._ask(self.clients.emr.describe_step, ClusterId=self.cluster, StepId=task_id)["Step"]
        status = step["Status"]
        details, reason = status.get("FailureDetails", {}), status.get("StateChangeReason", {})
        said = "; ".join(filter(None, (details.get("Reason"), details.get("Message"), reason.get("Message"))))
        logs = details.get("LogFile", "").rpartition("/")[0] or step.get("LogUri", "").rstrip("/")
        begun = status.get("Timeline", {}).get("StartDateTime")
        return Job(status["State"], said, begun, re.sub("^s3n:", "s3:", logs))

    def _release(self) -> tuple[str, tuple[int, int], tuple[str, str]]:
        cluster = self._ask(self.clients.emr.describe_cluster, ClusterId=self.cluster)["Cluster"]
        names = (each.get("Classification", "") for each in cluster.get("Configurations", ()))
        return cluster["ReleaseLabel"], (7, 0), ("the cluster's classifications (delta-defaults, …)", " ".join(names))
