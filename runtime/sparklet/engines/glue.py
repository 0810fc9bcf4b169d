"""Glue as an engine: a run of one job for each shard."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparklet.engines.spark_platform import TOKEN, Job, Platform


@dataclass(frozen=True, kw_only=True)
class GlueJobRuns(Platform):
    """Runs of one job. Its own script is not used: ``--scriptLocation`` takes its place."""

    job: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a run, unless one has this token among its arguments."""
        program, package = self._packed()
        key, value = self._arguments(command)
        arguments = {"--scriptLocation": program, "--extra-py-files": package, key: value, TOKEN: token}
        if self.conf:
            arguments["--conf"] = " --conf ".join(f"{name}={setting}" for name, setting in self.conf.items())
        for run in self._ask(self.clients.glue.get_job_runs, JobName=self.job, MaxResults=200)["JobRuns"]:
            if run.get("Arguments", {}).get(TOKEN) == token:
                return str(run["Id"])
        return str(self._ask(self.clients.glue.start_job_run, JobName=self.job, Arguments=arguments)["JobRunId"])

    def stop(self, task_id: str) -> None:
        """Stop a run."""
        self._ask(self.clients.glue.batch_stop_job_run, JobName=self.job, JobRunIds=[task_id])

    def _job(self, task_id: str) -> Job:
        run = self._ask(self.clients.glue.get_job_run, JobName=self.job, RunId=task_id)["JobRun"]
        state, begun = run["JobRunState"], run.get("StartedOn")
        logs = run.get("LogGroupName", "/aws-glue/jobs")
        return Job(state, run.get("ErrorMessage", ""), None if state == "WAITING" else begun, logs)

    def _release(self) -> tuple[str, tuple[int, int], tuple[str, str]]:
        job = self._ask(self.clients.glue.get_job, JobName=self.job)["Job"]
        formats = job.get("DefaultArguments", {}).get("--datalake-formats", "")
        return f"Glue {job.get('GlueVersion', '0.9')}", (5, 0), ("the job's --datalake-formats", formats)
