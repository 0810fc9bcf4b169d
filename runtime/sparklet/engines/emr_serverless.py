"""EMR Serverless as an engine: a job for each shard."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparklet.aws.clients import client_token
from sparklet.engines.spark_platform import LOGS, PYTHON, Job, Platform, _name


@dataclass(frozen=True, kw_only=True)
class EmrServerlessJobs(Platform):
    """Jobs of one application."""

    application: str
    role: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a job; the service knows its token."""
        program, package = self._packed()
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
            "name": _name(command),
            "jobDriver": {"sparkSubmit": submit},
            "configurationOverrides": {
                "applicationConfiguration": [{"classification": "spark-defaults", "properties": conf}],
                "monitoringConfiguration": {"s3MonitoringConfiguration": logs},
            },
        }
        start = self.clients.emr_serverless.start_job_run
        return str(self._ask(start, clientToken=client_token(token, job), **job)["jobRunId"])

    def stop(self, task_id: str) -> None:
        """Cancel a job; its driver has time to give back the shard."""
        ask = {"applicationId": self.application, "jobRunId": task_id, "shutdownGracePeriodInSeconds": 60}
        self._ask(self.clients.emr_serverless.cancel_job_run, **ask)

    def _job(self, task_id: str) -> Job:
        ask = {"applicationId": self.application, "jobRunId": task_id}
        job = self._ask(self.clients.emr_serverless.get_job_run, **ask)["jobRun"]
        place = f"{LOGS}/applications/{self.application}/jobs/{task_id}/SPARK_DRIVER"
        logs = f"s3://{self.env['SPARKLET_BUCKET']}/{place}"
        return Job(job["state"], job["stateDetails"], job.get("startedAt"), logs)

    def _release(self) -> tuple[str, tuple[int, int], tuple[str, str]]:
        answer = self._ask(self.clients.emr_serverless.get_application, applicationId=self.application)
        return answer["application"]["releaseLabel"], (7, 0), ("spark.jars", self.conf.get("spark.jars", ""))
