"""Glue as an engine: a run of one job for each shard. ``--scriptLocation`` replaces the job's own script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from sparklet.engines import Asked, Kind
from sparklet.engines.spark_platform import TAIL_LINES, PlatformJob, SparkPlatform
from sparklet.errors import RemoteTaskError
from sparklet.model.quantities import Figure

TOKEN = "--sparklet_token"  # noqa: S105 - a name


@dataclass(frozen=True, kw_only=True)
class GlueJobRuns(SparkPlatform):
    """Starts, watches and stops runs of a job."""

    least_release = (5, 0)
    sparks: ClassVar[Mapping[str, str]] = {"5": "3.5", "6": "4.1"}  # of Glue's release notes
    job: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a job run, or find the earlier run that has the token as an argument; return its id."""
        program, package = self._store_worker()
        key, value = self._arguments(command)
        arguments = {"--scriptLocation": program, "--extra-py-files": package, key: value, TOKEN: token}
        if self.conf:
            # A job run has a single argument ``--conf``; its value can chain further settings.
            arguments["--conf"] = " --conf ".join(f"{name}={setting}" for name, setting in self.conf.items())
        # Glue takes no token with a run, so the token is an argument.
        for run in self._call(self.clients.glue.get_job_runs, JobName=self.job, MaxResults=200)["JobRuns"]:
            if run.get("Arguments", {}).get(TOKEN) == token:
                return str(run["Id"])
        return str(self._call(self.clients.glue.start_job_run, JobName=self.job, Arguments=arguments)["JobRunId"])

    def stop(self, task_id: str) -> None:
        """Stop a run."""
        self._call(self.clients.glue.batch_stop_job_run, JobName=self.job, JobRunIds=[task_id])

    def _job(self, task_id: str) -> PlatformJob:
        run = self._call(self.clients.glue.get_job_run, JobName=self.job, RunId=task_id)["JobRun"]
        state, logs = run["JobRunState"], run.get("LogGroupName", "/aws-glue/jobs")
        started = None if state == "WAITING" else run.get("StartedOn")
        return PlatformJob(state, run.get("ErrorMessage", ""), started, logs.rstrip("/"))

    def _log(self, task_id: str, logs: str) -> list[str]:
        return self._events(f"{logs}/output", task_id) or self._events(f"{logs}/error", task_id)

    def _events(self, group: str, stream: str) -> list[str]:
        get = self.clients.logs.get_log_events
        try:
            events = self._call(get, logGroupName=group, logStreamName=stream, limit=TAIL_LINES)["events"]
        except RemoteTaskError:
            return []
        return [event["message"].strip() for event in events]

    def _release(self) -> tuple[str, str, str]:
        job = self._call(self.clients.glue.get_job, JobName=self.job)["Job"]
        formats = job.get("DefaultArguments", {}).get("--datalake-formats", "")
        return f"Glue {job.get('GlueVersion', '0.9')}", "the job's --datalake-formats", formats


# The names of a job's log groups have a suffix if the job has a security configuration.
GROUPS = [
    f"{{group}}/aws-glue/jobs{suffix}/{output}:log-stream:*"
    for suffix in ("", "-role-conf")
    for output in ("output", "error")
]
KIND = Kind(
    make=GlueJobRuns,
    about="the driver of a job run: `GlueJobName` (type `glueetl`, 5.0 or later, with any script, a maximum "
    "concurrency and no retries)",
    hours={"": Figure(0.88, "2026-11", "Glue price list, secondary: two workers of one DPU at 0.44")},
    to_plan=[Asked("glue.get_job", ["{GlueJobName}"])],
    to_work=[
        Asked("glue.start_job_run glue.get_job_run glue.get_job_runs glue.batch_stop_job_run", ["{GlueJobName}"]),
        Asked("logs.get_log_events", GROUPS, when="GlueJobName"),
    ],
)
