"""EMR Serverless in memory, as far as an engine needs it: no stand-in that we have knows the service.

Requests and answers are checked against the service's own model. The same token is the same job, and refused for
another one.
"""

from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.exceptions import ClientError
from botocore.validate import validate_parameters

ROLE = "arn:aws:iam::123456789012:role/jobs"
NOW = datetime(2026, 11, 22, tzinfo=UTC)


class EmrServerless:
    """Some calls of boto3's client; its jobs never end by themselves."""

    def __init__(self) -> None:
        client = boto3.client(
            "emr-serverless", region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        self._model = client.meta.service_model
        self._asked: dict[str, dict[str, Any]] = {}
        self._jobs: dict[str, dict[str, Any]] = {}

    def get_application(self, **asked: Any) -> Any:
        self._check("GetApplication", asked)
        return {"application": {**asked, "releaseLabel": "emr-7.13.0", "tags": {"team": "data"}}}

    def start_job_run(self, **asked: Any) -> Any:
        self._check("StartJobRun", asked)
        if self._asked.setdefault(asked["clientToken"], asked) != asked:
            refused: Any = {"Code": "ConflictException", "Message": "The client token was used for another request."}
            raise ClientError({"Error": refused}, "StartJobRun")
        job_id = f"00{len(self._jobs)}job"
        place = {"applicationId": asked["applicationId"], "jobRunId": job_id}
        arn = f"arn:aws:emr-serverless:us-east-1:123456789012:/applications/{asked['applicationId']}/jobruns/{job_id}"
        job = {**place, "arn": arn, "state": "PENDING", "stateDetails": "it waits", "createdAt": NOW, "updatedAt": NOW}
        more = {"createdBy": ROLE, "executionRole": asked["executionRoleArn"], "releaseLabel": "emr-7.13.0"}
        return self._jobs.setdefault(asked["clientToken"], {**job, **more, "jobDriver": asked["jobDriver"]})

    def get_job_run(self, **asked: Any) -> Any:
        self._check("GetJobRun", asked)
        answer = {"jobRun": self._job(asked["jobRunId"])}
        validate_parameters(answer, self._model.operation_model("GetJobRun").output_shape)
        return answer

    def cancel_job_run(self, **asked: Any) -> Any:
        self._check("CancelJobRun", asked)
        self._job(asked["jobRunId"]).update(state="CANCELLED", stateDetails="JobRun CANCELLED by the caller.")

    def _job(self, job_id: str) -> dict[str, Any]:
        return next(job for job in self._jobs.values() if job["jobRunId"] == job_id)

    def _check(self, operation: str, asked: dict[str, Any]) -> None:
        validate_parameters(asked, self._model.operation_model(operation).input_shape)
