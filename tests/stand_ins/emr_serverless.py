"""EMR Serverless in memory, as far as an engine needs it: none of our stand-ins for AWS has this service.

Requests and responses are checked against the service's own model. A repeated client token returns the same job; with
another request it is refused.
"""

from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.exceptions import ClientError
from botocore.validate import validate_parameters

ROLE = "arn:aws:iam::123456789012:role/jobs"
NOW = datetime(2026, 11, 22, tzinfo=UTC)


class EmrServerless:
    """Some methods of boto3's client; jobs never end by themselves."""

    def __init__(self) -> None:
        client = boto3.client(
            "emr-serverless", region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        self._model = client.meta.service_model
        self._requests: dict[str, dict[str, Any]] = {}  # by client token, as are the jobs
        self._jobs: dict[str, dict[str, Any]] = {}

    def get_application(self, **request: Any) -> Any:
        self._check("GetApplication", request)
        return {"application": {**request, "releaseLabel": "emr-7.13.0", "tags": {"team": "data"}}}

    def start_job_run(self, **request: Any) -> Any:
        self._check("StartJobRun", request)
        if self._requests.setdefault(request["clientToken"], request) != request:
            refusal: Any = {"Code": "ConflictException", "Message": "The client token was used for another request."}
            raise ClientError({"Error": refusal}, "StartJobRun")
        job_id = f"00{len(self._jobs)}job"
        place = {"applicationId": request["applicationId"], "jobRunId": job_id}
        arn = f"arn:aws:emr-serverless:us-east-1:123456789012:/applications/{request['applicationId']}/jobruns/{job_id}"
        job = {**place, "arn": arn, "state": "PENDING", "stateDetails": "it waits", "createdAt": NOW, "updatedAt": NOW}
        more = {"createdBy": ROLE, "executionRole": request["executionRoleArn"], "releaseLabel": "emr-7.13.0"}
        return self._jobs.setdefault(request["clientToken"], {**job, **more, "jobDriver": request["jobDriver"]})

    def get_job_run(self, **request: Any) -> Any:
        self._check("GetJobRun", request)
        answer = {"jobRun": self._job(request["jobRunId"])}
        validate_parameters(answer, self._model.operation_model("GetJobRun").output_shape)
        return answer

    def cancel_job_run(self, **request: Any) -> Any:
        self._check("CancelJobRun", request)
        self._job(request["jobRunId"]).update(state="CANCELLED", stateDetails="JobRun CANCELLED by the caller.")

    def _job(self, job_id: str) -> dict[str, Any]:
        return next(job for job in self._jobs.values() if job["jobRunId"] == job_id)

    def _check(self, operation: str, request: dict[str, Any]) -> None:
        validate_parameters(request, self._model.operation_model(operation).input_shape)
