"""The only place where AWS clients are made.

boto3 is imported by the first client, not by this module: a worker's cold start imports its adapters
while nothing is asked of them yet. The endpoint is botocore's own business (``AWS_ENDPOINT_URL``).
"""

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from sparklet.errors import SettingsError

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_events import EventBridgeClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

T = TypeVar("T")

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 30.0  # longer than SQS's longest poll of 20 s
DESCRIBE_READ_TIMEOUT_S = 10.0
LEDGER_READ_TIMEOUT_S = 5.0  # its items are small: an answer that takes longer is lost
INVOKE_READ_TIMEOUT_S = 910.0  # a function runs for 900 s at most
ROLE_S = 3600  # the most for a role that another role assumes; fresh credentials are fetched before it is over


class AwsClients:
    """The clients of one process: each made when it is first asked for, then shared by all threads.

    Parameters
    ----------
    threads
        How many threads call at one time; each client keeps as many connections.
    endpoint_url
        Where all services are, if not where botocore looks by itself.
    region
        The region, if not the one of the environment.
    attempts
        How often a call is tried in all, with botocore's ``standard`` back-off.
    role_arn
        A role whose credentials all clients but STS use; assumed at the first call, and again before they expire.
    """

    def __init__(
        self,
        threads: int = 16,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        attempts: int = 4,
        role_arn: str = "",
    ) -> None:
        self.threads = threads
        self._endpoint_url = endpoint_url
        self._region = region
        self._attempts = attempts
        self._role_arn = role_arn
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def with_role(self, role_arn: str) -> "AwsClients":
        """Clients of the same services that use another role's credentials."""
        return AwsClients(
            self.threads,
            endpoint_url=self._endpoint_url,
            region=self._region,
            attempts=self._attempts,
            role_arn=role_arn,
        )

    @property
    def s3(self) -> "S3Client":
        """Amazon S3; with path-style addresses where an endpoint is set, since its host has no bucket names."""
        set_in = (self._endpoint_url, os.environ.get("AWS_ENDPOINT_URL"), os.environ.get("AWS_ENDPOINT_URL_S3"))
        style = {"addressing_style": "path"} if any(set_in) else None
        return self._client("s3", lambda session: session.client("s3", **self._options(s3=style)))

    @property
    def dynamodb(self) -> "DynamoDBClient":
        """Amazon DynamoDB; without botocore's check of parameters, which costs a third of a small write."""
        options = self._options(read_timeout=LEDGER_READ_TIMEOUT_S, parameter_validation=False)
        return self._client("dynamodb", lambda session: session.client("dynamodb", **options))

    @property
    def sqs(self) -> "SQSClient":
        """Amazon SQS."""
        return self._client("sqs", lambda session: session.client("sqs", **self._options()))

    @property
    def sns(self) -> "SNSClient":
        """Amazon SNS."""
        return self._client("sns", lambda session: session.client("sns", **self._options()))

    @property
    def events(self) -> "EventBridgeClient":
        """Amazon EventBridge."""
        return self._client("events", lambda session: session.client("events", **self._options()))

    @property
    def cloudformation(self) -> "CloudFormationClient":
        """AWS CloudFormation; a user waits for it, and it is the first to be asked."""
        options = self._options(read_timeout=DESCRIBE_READ_TIMEOUT_S, attempts=min(3, self._attempts))
        return self._client("cloudformation", lambda session: session.client("cloudformation", **options))

    @property
    def logs(self) -> Any:
        """Amazon CloudWatch Logs."""
        return self._client("logs", lambda session: session.client("logs", **self._options()))

    @property
    def states(self) -> Any:
        """AWS Step Functions."""
        return self._client("stepfunctions", lambda session: session.client("stepfunctions", **self._options()))

    @property
    def functions(self) -> "LambdaClient":
        """AWS Lambda; never tried twice: a call whose answer is lost may have run."""
        options = self._options(read_timeout=INVOKE_READ_TIMEOUT_S, attempts=1, tcp_keepalive=True)
        return self._client("lambda", lambda session: session.client("lambda", **options))

    def _client(self, service: str, make: "Callable[[boto3.Session], T]") -> T:
        if service not in self._made:
            with self._lock:  # a session is not made for several threads
                if service not in self._made:
                    self._made[service] = _named_failure(lambda: make(self._session()))
        made: T = self._made[service]
        return made

    def _session(self) -> "boto3.Session":
        if "session" not in self._made:
            self._made["session"] = self._role_session() if self._role_arn else self._plain_session()
        session: boto3.Session = self._made["session"]
        return session

    def _plain_session(self) -> "boto3.Session":
        import boto3  # 0.2 s: only where AWS is really called

        return boto3.Session(region_name=self._region_name())

    def _role_session(self) -> "boto3.Session":
        """A session whose credentials are the role's."""
        import boto3
        from botocore.credentials import CredentialProvider, CredentialResolver, DeferredRefreshableCredentials
        from botocore.session import get_session

        sts = self._plain_session().client("sts", **self._options())

        def fresh() -> dict[str, str]:
            given = sts.assume_role(RoleArn=self._role_arn, RoleSessionName="sparklet", DurationSeconds=ROLE_S)
            found = given["Credentials"]
            return {
                "access_key": found["AccessKeyId"],
                "secret_key": found["SecretAccessKey"],
                "token": found["SessionToken"],
                "expiry_time": found["Expiration"].isoformat(),
            }

        class Role(CredentialProvider):
            METHOD = "assume-role"

            def load(self) -> DeferredRefreshableCredentials:
                return DeferredRefreshableCredentials(refresh_using=fresh, method=self.METHOD)

        session = get_session()
        session.register_component("credential_provider", CredentialResolver([Role()]))
        return boto3.Session(botocore_session=session, region_name=self._region_name())

    def _region_name(self) -> str | None:
        return self._region or os.environ.get("AWS_REGION")  # boto3 reads AWS_DEFAULT_REGION only

    def _options(self, *, attempts: int | None = None, read_timeout: float = 0.0, **config: Any) -> dict[str, Any]:
        from botocore.config import Config

        return {
            "endpoint_url": self._endpoint_url,
            "config": Config(
                retries={"mode": "standard", "total_max_attempts": attempts or self._attempts},
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=read_timeout or READ_TIMEOUT_S,
                max_pool_connections=self.threads,
                **config,
            ),
        }


def _named_failure(make: Callable[[], T]) -> T:
    """Call ``make``; what botocore misses in the environment becomes a SettingsError."""
    from botocore.exceptions import BotoCoreError

    try:
        return make()
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(
            f"no AWS client can be made: {error} Set AWS_REGION and credentials, or AWS_PROFILE."
        ) from error
