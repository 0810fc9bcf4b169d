"""AWS clients, and remedies for calls that fail for a reason outside Sparklet: credentials, network, the clock."""

import functools
import hashlib
import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, islice
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from sparklet.errors import SettingsError, SparkletError
from sparklet.job.session import write_encryption
from sparklet.ports.forks import renew_after_fork
from sparklet.settings import strings

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
R = TypeVar("R")


def in_parallel(
    function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int = 2
) -> Generator[R, None, None]:
    """Yield the results of ``function`` for all items, in order; at most ``ahead * threads`` calls are begun ahead."""
    remaining = iter(items)
    # For a single item a pool of threads would cost more than it saves.
    first_items = list(islice(remaining, 2))
    if len(first_items) < 2:
        yield from map(function, first_items)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        futures: deque[Future[R]] = deque()
        for item in chain(first_items, remaining):
            futures.append(pool.submit(function, item))
            if len(futures) >= ahead * threads:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        # If the consumer stops early or a call fails, calls that have not begun are cancelled.
        pool.shutdown(cancel_futures=True)


CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 30.0  # longer than SQS's longest poll of 20 s
MAX_MESSAGE = 500  # characters of a service's error message; a longer one is cut
ROLE_S = 3600  # the maximum for a role that another role assumes; credentials are renewed before it is over

SERVICES = {
    **{
        name: name for name in ("s3", "dynamodb", "sqs", "sns", "events", "cloudformation", "logs", "ecs", "ecr", "sts")
    },
    "emr": "emr",
    "emr_serverless": "emr-serverless",
    "glue": "glue",
    "states": "stepfunctions",
    "functions": "lambda",
    "secrets": "secretsmanager",
}
"""Names of ``AwsClients``' attributes → boto3's names of services."""
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    # Items are small, so answers come soon. botocore's validation would cost a third of the time of a small write.
    "dynamodb": {"read_timeout": 5.0, "parameter_validation": False},
    # A command's first call, for which a user waits.
    "cloudformation": {"read_timeout": 10.0, "max_attempts": 3},
    # A function runs for at most 900 s. A call is never repeated: if only its answer was lost, the function has run.
    "lambda": {"read_timeout": 910.0, "max_attempts": 1, "tcp_keepalive": True},
}
FORBIDDEN = ("403", "AccessDenied", "AllAccessDisabled")  # S3's error codes
WRITES = ("CopyObject", "CreateMultipartUpload", "PutObject")
WRONG_KEYS = frozenset(
    {
        *("AuthFailure", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken", "UnrecognizedClientException"),
        *("IncompleteSignature", "InvalidSignatureException", "SignatureDoesNotMatch"),
    }
)
REMEDIES: Mapping[str, Set[str]] = {
    "the credentials are wrong: check AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY": WRONG_KEYS,
    "the credentials have expired: log in again, or set new ones": {
        *("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"),
        *("SSOTokenLoadError", "TokenRetrievalError", "UnauthorizedSSOTokenError"),
    },
    "this machine's clock is wrong: set it": {"RequestTimeTooSkewed", "RequestInTheFuture"},
    "there are no credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY": {
        *("CredentialRetrievalError", "NoAuthTokenError", "NoCredentialsError"),
        *("PartialCredentialsError", "ProfileNotFound"),
    },
    "check the network, the region, HTTPS_PROXY and AWS_ENDPOINT_URL": {
        *("ConnectTimeoutError", "ConnectionClosedError", "EndpointConnectionError", "ProxyConnectionError"),
        *("ReadTimeoutError", "SSLError", "UnreadableAnswerError"),
    },
}
"""What the user can do → services' error codes, and botocore's exception classes."""


class AwsClients:
    """The clients of one process: each is created at its first use, then shared by all threads.

    ``threads`` is the number of threads that call at one time, and of connections that each client keeps. A call is
    tried ``attempts`` times in all, with botocore's ``standard`` back-off; each try waits for its answer at least
    ``least_wait_s``. With ``role_arn`` all clients but STS use the credentials of that role, which is assumed at the
    first call, and again before the credentials expire.
    """

    s3: "S3Client"
    dynamodb: "DynamoDBClient"
    sqs: "SQSClient"
    sns: "SNSClient"
    events: "EventBridgeClient"
    cloudformation: "CloudFormationClient"
    functions: "LambdaClient"

    def __init__(
        self,
        threads: int = 16,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        attempts: int = 4,
        role_arn: str = "",
        least_wait_s: float = 0.0,
    ) -> None:
        self.threads = threads
        self._endpoint_url = endpoint_url
        self._region = region
        self._attempts = attempts
        self._least_wait_s = least_wait_s
        self._role_arn = role_arn
        self.external_id = os.environ.get("SPARKLET_EXTERNAL_ID", "")
        self.write_encryption = write_encryption()
        self._conf = strings(os.environ, "SPARKLET_SPARK_CONF")
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Forget the clients: two processes that share a connection would read each other's answers."""
        self._created: dict[str, Any] = {}
        self._lock = threading.Lock()

    def load(self) -> "AwsClients":
        """Import boto3, and return this object. Threads that import boto3 at the same time can cause a deadlock."""
        import boto3  # noqa: F401

        return self

    def with_role(self, role_arn: str) -> "AwsClients":
        """Clients of the same services that use another role's credentials."""
        settings: Any = {"endpoint_url": self._endpoint_url, "region": self._region, "least_wait_s": self._least_wait_s}
        clients = AwsClients(self.threads, **settings, attempts=self._attempts, role_arn=role_arn)
        clients.external_id = self.external_id
        return clients

    def __getattr__(self, name: str) -> Any:
        """The client of a service, created at its first use."""
        if name not in SERVICES:
            raise AttributeError(name)
        if name not in self._created:
            with self._lock:  # sessions are not thread-safe
                if name not in self._created:
                    self._created[name] = self._client(SERVICES[name])
        return self._created[name]

    def _client(self, service: str) -> Any:
        from botocore.exceptions import BotoCoreError

        options = {**OPTIONS.get(service, {})}
        if service == "s3" and any(
            (self._endpoint_url, os.environ.get("AWS_ENDPOINT_URL"), os.environ.get("AWS_ENDPOINT_URL_S3"))
        ):
            options["s3"] = {"addressing_style": "path"}  # such an endpoint has no host name for each bucket
        try:
            client: Any = self._session().client(service, **self._options(**options))  # type: ignore[call-overload]
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(
                f"no AWS client can be made: {error} Set AWS_REGION and credentials, or AWS_PROFILE."
            ) from error
        # Where botocore cannot parse an answer, its parsers raise errors that no caller expects.
        client._make_api_call = _with_expected_errors(client._make_api_call)
        # By an event, since boto3 itself makes the requests of uploads and copies in parts.
        for operation in WRITES if service == "s3" else ():
            client.meta.events.register(f"before-parameter-build.s3.{operation}", self._add_encryption_and_acl)
        return client

    def _add_encryption_and_acl(self, params: dict[str, Any], **_: Any) -> None:
        """Add to a write the encryption and the ACL that S3A uses: a bucket's policy may demand them."""
        algorithm, key = self.write_encryption
        params |= {"ServerSideEncryption": algorithm} if algorithm else {}
        params |= {"SSEKMSKeyId": key, "BucketKeyEnabled": True} if key else {}
        default_acl = self._conf.get("spark.hadoop.fs.s3a.acl.default", "")
        if acl := self._conf.get(f"spark.hadoop.fs.s3a.bucket.{params['Bucket']}.acl.default", default_acl):
            # S3A's BucketOwnerFullControl is S3's bucket-owner-full-control.
            params["ACL"] = re.sub("(?<!^)(?=[A-Z])", "-", acl).lower()

    def _session(self) -> "boto3.Session":
        if "session" not in self._created:
            own_session = _new_session(self._region or os.environ.get("AWS_REGION"))  # boto3 does not read AWS_REGION
            self._created["session"] = self._role_session(own_session) if self._role_arn else own_session
        session: boto3.Session = self._created["session"]
        return session

    def _role_session(self, own_session: "boto3.Session") -> "boto3.Session":
        """A session with the role's credentials, which are requested with the caller's ``own_session``."""
        from botocore.credentials import DeferredRefreshableCredentials, create_assume_role_refresher

        sts = own_session.client("sts", **self._options())
        role = {"RoleArn": self._role_arn, "RoleSessionName": "sparklet", "DurationSeconds": ROLE_S}
        role |= {"ExternalId": self.external_id} if self.external_id else {}
        # The role is assumed within the first call, so that a refusal is the error of a call that can name its object.
        credentials = DeferredRefreshableCredentials(create_assume_role_refresher(sts, role), "assume-role")
        provider = SimpleNamespace(load_credentials=lambda: credentials)
        return _new_session(own_session.region_name, credential_provider=provider)

    def _options(self, *, max_attempts: int = 99, **config: Any) -> dict[str, Any]:
        from botocore.config import Config

        retries: Any = {"mode": "standard", "total_max_attempts": min(max_attempts, self._attempts)}
        timeouts = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
        options = {**timeouts, "max_pool_connections": self.threads, **config}
        options["read_timeout"] = max(options["read_timeout"], self._least_wait_s)
        return {"endpoint_url": self._endpoint_url, "config": Config(retries=retries, **options)}


def _new_session(region: str | None, key: str | None = None, **components: Any) -> "boto3.Session":
    import boto3  # takes 0.2 s, so it is imported only where AWS is called
    from botocore.session import get_session

    session = get_session()
    for name, component in {"data_loader": _data_loader(), **components}.items():
        session.register_component(name, component)
    return boto3.Session(key, key, botocore_session=session, region_name=region)


@functools.cache
def _data_loader() -> Any:
    """The loader of service descriptions. All sessions share it and what it has read: S3's description takes 50 ms."""
    from botocore.session import get_session

    return get_session().get_component("data_loader")


def prime_clients() -> None:
    """Import boto3, and read the descriptions that a worker's clients need. No connection is made."""
    session = _new_session(os.environ.get("AWS_REGION", "us-east-1"), "placeholder")
    for service in ("s3", "dynamodb", "sqs"):
        session.client(service)


def _with_expected_errors(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, changed to raise a BotoCoreError also for an answer that cannot be parsed or is a proxy's web page."""
    from botocore.exceptions import BotoCoreError, ClientError

    unreadable_error: Any = type(
        "UnreadableAnswerError", (BotoCoreError,), {"fmt": "the answer cannot be read: {error}"}
    )

    def make_api_call(*request: Any) -> Any:
        try:
            answer = call(*request)
        except (BotoCoreError, ClientError, SparkletError, MemoryError):
            raise
        # All other errors come from parsers of botocore that could not read the answer.
        except Exception as error:
            raise unreadable_error(error=f"{type(error).__name__}: {error}") from error
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        # botocore would accept a proxy's page as an answer without keys, or as an object's data.
        if "text/html" in headers.get("content-type", "") and not any(name.startswith("x-amz") for name in headers):
            raise unreadable_error(error="it is a web page, and not of AWS")
        return answer

    return make_api_call


def read_secret(clients: AwsClients, secret: str) -> bytes:
    """A secret's text; SettingsError if it cannot be read."""
    with failing_as(SettingsError, f"the secret {secret} cannot be read"):
        return str(clients.secrets.get_secret_value(SecretId=secret)["SecretString"]).encode()


def client_token(token: str, request: Mapping[str, Any]) -> str:
    """A token for exactly this request: a service refuses a token that came with another request before an upgrade."""
    return hashlib.sha256(json.dumps([token, request], sort_keys=True).encode()).hexdigest()


def remedy(error: Exception) -> str:
    """What the user can do about an error, as a clause for the end of a message; "" if there is no general remedy."""
    names = {error_code(error), type(error).__name__}
    return next((what_to_do for what_to_do, codes in REMEDIES.items() if names & codes), "")


@contextmanager
def failing_with(convert: Callable[[Exception], SparkletError]) -> Iterator[None]:
    """Convert the errors of AWS calls in the block: raise the exception that ``convert`` returns."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    # HTTPError is raised while the body of an answer is read.
    except (Boto3Error, BotoCoreError, ClientError, HTTPError) as error:
        raise convert(error) from error


def failing_as(
    kind: type[SparkletError], what: str, remedies: Mapping[str, str] = MappingProxyType({})
) -> AbstractContextManager[None]:
    """Convert the errors of AWS calls in the block to ``kind``, whose message begins with ``what``.

    ``remedies`` has texts by error code for errors that need another remedy than the general one.
    """

    def convert(error: Exception) -> SparkletError:
        code = error_code(error)
        return kind(f"{what}: " + (f"{remedies[code]}: {error}" if code in remedies else explain_error(error)))

    return failing_with(convert)


def explain_error(error: Exception) -> str:
    """The error's message in one line, cut since it may quote a whole page, with the general remedy if there is one."""
    text, what_to_do = " ".join(str(error).split()), remedy(error)
    text = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} …"
    return f"{text.rstrip('.')}; {what_to_do}" if what_to_do else text


def error_code(error: Exception) -> str:
    """The error code that the service returned; "" if the service did not answer."""
    response: Any = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def http_status(error: Exception) -> int:
    """The HTTP status that the service returned; 0 if the service did not answer."""
    response: Any = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
