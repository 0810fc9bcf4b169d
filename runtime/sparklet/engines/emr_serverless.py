"""EMR Serverless as an engine: a job of one application for each shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparklet.aws.clients import client_token
from sparklet.engines import Asked, Kind
from sparklet.engines.spark_platform import LOGS, PYTHON, PlatformJob, SparkPlatform, job_name
from sparklet.model.quantities import Figure


@dataclass(frozen=True, kw_only=True)
class EmrServerlessJobs(SparkPlatform):
    """Starts, watches and stops jobs of an application."""

    application: str
    role: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a job, once for each token, which the service compares; return its id."""
        program, package = self._store_worker()
        python = "spark.emr-serverless.driverEnv.PYSPARK_DRIVER_PYTHON", "spark.emr-serverless.driverEnv.PYSPARK_PYTHON"
        conf = {**dict.fromkeys((*python, "spark.executorEnv.PYSPARK_PYTHON"), PYTHON), **self.conf}
        submit = {
            "entryPoint": program,
            "entryPointArguments": list(self._arguments(command)),
            "sparkSubmitParameters": f"--py-files {package}",
        }
        logs = {"logUri": f"s3://{self.env['SPARKLET_BUCKET']}/{LOGS}/"}
        job = {
            "applicationId": self.application,
            "executionRoleArn": self.role,
            "name": job_name(command),
            "tags": self._application().get("tags", {}),  # the application's, since a job gets none by itself
            "jobDriver": {"sparkSubmit": submit},
            "configurationOverrides": {
                "applicationConfiguration": [{"classification": "spark-defaults", "properties": conf}],
                "monitoringConfiguration": {"s3MonitoringConfiguration": logs},
            },
        }
        start = self.clients.emr_serverless.start_job_run
        return str(self._call(start, clientToken=client_token(token, job), **job)["jobRunId"])

    def stop(self, task_id: str) -> None:
        """Cancel a job; its driver has a minute to release the shard."""
        job = {"applicationId": self.application, "jobRunId": task_id, "shutdownGracePeriodInSeconds": 60}
        self._call(self.clients.emr_serverless.cancel_job_run, **job)

    def _job(self, task_id: str) -> PlatformJob:
        get = self.clients.emr_serverless.get_job_run
        job = self._call(get, applicationId=self.application, jobRunId=task_id)["jobRun"]
        path = f"{LOGS}/applications/{self.application}/jobs/{task_id}/SPARK_DRIVER"
        logs = f"s3://{self.env['SPARKLET_BUCKET']}/{path}"
        return PlatformJob(job["state"], job["stateDetails"], job.get("startedAt"), logs)

    def _release(self) -> tuple[str, str, str]:
        return self._application()["releaseLabel"], "spark.jars", self.conf.get("spark.jars", "")

    def _application(self) -> dict[str, Any]:
        get = self.clients.emr_serverless.get_application
        return dict(self._call(get, applicationId=self.application)["application"])


APPLICATION = "{EmrServerlessApplicationId}"
SOURCE = "EMR price list, secondary: driver and one executor, each 4 vCPU at 0.052624 and 16 GB at 0.0057785"
KIND = Kind(
    make=EmrServerlessJobs,
    about="the driver of a job: `EmrServerlessApplicationId` (type Spark, emr-7.0.0 or later) and "
    "`EmrServerlessRoleArn`",
    hours={"": Figure(0.605904, "2026-11", SOURCE)},
    to_plan=[Asked("emr_serverless.get_application", [APPLICATION])],
    to_work=[
        Asked("iam:PassRole", ["{EmrServerlessRoleArn}"], {"iam:PassedToService": "emr-serverless.amazonaws.com"}),
        Asked("emr_serverless.start_job_run", [APPLICATION]),
        Asked("emr-serverless:TagResource", [f"{APPLICATION}/jobruns/*"]),
        Asked("emr_serverless.get_job_run emr_serverless.cancel_job_run", [f"{APPLICATION}/jobruns/*"]),
        Asked("s3.get_object s3.head_object", [f"{{bucket}}/{LOGS}/*"], when="EmrServerlessApplicationId"),
    ],
)
