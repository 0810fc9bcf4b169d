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
    """The results of ``function`` for all items, in order; up to ``ahead * threads`` calls are begun at a time."""
    waiting = iter(items)
    # For one item a pool of threads would cost more than it saves.
    first = list(islice(waiting, 2))
    if len(first) < 2:
        yield from map(function, first)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        begun: deque[Future[R]] = deque()
        for item in chain(first, waiting):
            begun.append(pool.submit(function, item))
            if len(begun) >= ahead * threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        # Also if the consumer stops early or a call fails: what has not begun never does.
        pool.shutdown(cancel_futures=True)


CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 30.0  # longer than SQS's longest poll of 20 s
MAX_MESSAGE = 500  # characters of a message
ROLE_S = 3600  # the maximum for a role that another role assumes; fresh credentials are fetched before it is over

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
    # botocore's check of parameters costs a third of a small write; items are small, so answers come soon
    "dynamodb": {"read_timeout": 5.0, "parameter_validation": False},
    "cloudformation": {"read_timeout": 10.0, "max_attempts": 3},  # a command's first call: its user waits
    # never tried twice, since a call whose answer was lost may have run; a function runs for at most 900 s
    "lambda": {"read_timeout": 910.0, "max_attempts": 1, "tcp_keepalive": True},
}
FORBIDDEN = ("403", "AccessDenied", "AllAccessDisabled")  # S3's codes
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
"""What the user can do → services' codes and botocore's classes of errors."""


class AwsClients:
    """The clients of one process: each made at its first use, then shared by all threads.

    ``threads`` call at one time, and each client keeps as many connections. ``attempts``: how often a call is tried in
    all, with botocore's ``standard`` back-off; each try waits ``least_wait_s`` at least for its answer. ``role_arn``: a
    role whose credentials all clients but STS use; assumed at the first call, and again before they expire.
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
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def load(self) -> "AwsClients":
        """Import boto3 before several threads call: where they import it first, Python may find a deadlock."""
        import boto3  # noqa: F401

        return self

    def with_role(self, role_arn: str) -> "AwsClients":
        """Clients of the same services that use another role's credentials."""
        where: Any = {"endpoint_url": self._endpoint_url, "region": self._region, "least_wait_s": self._least_wait_s}
        theirs = AwsClients(self.threads, **where, attempts=self._attempts, role_arn=role_arn)
        theirs.external_id = self.external_id
        return theirs

    def __getattr__(self, name: str) -> Any:
        """The client of a service, made at its first use."""
        if name not in SERVICES:
            raise AttributeError(name)
        if name not in self._made:
            with self._lock:  # sessions are not thread-safe
                if name not in self._made:
                    self._made[name] = self._client(SERVICES[name])
        return self._made[name]

    def _client(self, service: str) -> Any:
        from botocore.exceptions import BotoCoreError

        options = {**OPTIONS.get(service, {})}
        if service == "s3" and any(
            (self._endpoint_url, os.environ.get("AWS_ENDPOINT_URL"), os.environ.get("AWS_ENDPOINT_URL_S3"))
        ):
            options["s3"] = {"addressing_style": "path"}  # an endpoint's host has no bucket names
        try:
            client: Any = self._session().client(service, **self._options(**options))  # type: ignore[call-overload]
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(
                f"no AWS client can be made: {error} Set AWS_REGION and credentials, or AWS_PROFILE."
            ) from error
        # What botocore cannot parse, it raises as errors of its parsers, which no caller expects.
        client._make_api_call = _readable(client._make_api_call)
        # By an event, since uploads and copies in parts make requests of their own inside boto3.
        for operation in WRITES if service == "s3" else ():
            client.meta.events.register(f"before-parameter-build.s3.{operation}", self._as_by_spark)
        return client

    def _as_by_spark(self, params: dict[str, Any], **_: Any) -> None:
        """Add to a write the encryption and ACL that S3A asks for, since a bucket's policy may demand them."""
        algorithm, key = self.write_encryption
        params |= {"ServerSideEncryption": algorithm} if algorithm else {}
        params |= {"SSEKMSKeyId": key, "BucketKeyEnabled": True} if key else {}
        of_all = self._conf.get("spark.hadoop.fs.s3a.acl.default", "")
        if acl := self._conf.get(f"spark.hadoop.fs.s3a.bucket.{params['Bucket']}.acl.default", of_all):
            params["ACL"] = re.sub("(?<!^)(?=[A-Z])", "-", acl).lower()  # BucketOwnerFullControl in S3's words

    def _session(self) -> "boto3.Session":
        if "session" not in self._made:
            plain = _new_session(self._region or os.environ.get("AWS_REGION"))  # not read by boto3
            self._made["session"] = self._with_role(plain) if self._role_arn else plain
        session: boto3.Session = self._made["session"]
        return session

    def _with_role(self, plain: "boto3.Session") -> "boto3.Session":
        from botocore.credentials import DeferredRefreshableCredentials, create_assume_role_refresher

        sts = plain.client("sts", **self._options())
        role = {"RoleArn": self._role_arn, "RoleSessionName": "sparklet", "DurationSeconds": ROLE_S}
        role |= {"ExternalId": self.external_id} if self.external_id else {}
        # Deferred: a role that may not be assumed becomes the error of a call, which can name the object.
        credentials = DeferredRefreshableCredentials(create_assume_role_refresher(sts, role), "assume-role")
        provider = SimpleNamespace(load_credentials=lambda: credentials)
        return _new_session(plain.region_name, credential_provider=provider)

    def _options(self, *, max_attempts: int = 99, **config: Any) -> dict[str, Any]:
        from botocore.config import Config

        retries: Any = {"mode": "standard", "total_max_attempts": min(max_attempts, self._attempts)}
        timeouts = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
        options = {**timeouts, "max_pool_connections": self.threads, **config}
        options["read_timeout"] = max(options["read_timeout"], self._least_wait_s)
        return {"endpoint_url": self._endpoint_url, "config": Config(retries=retries, **options)}


def _new_session(region: str | None, key: str | None = None, **components: Any) -> "boto3.Session":
    import boto3  # 0.2 s: only where AWS is really called
    from botocore.session import get_session

    session = get_session()
    for name, component in {"data_loader": _data_loader(), **components}.items():
        session.register_component(name, component)
    return boto3.Session(key, key, botocore_session=session, region_name=region)


@functools.cache
def _data_loader() -> Any:
    """The descriptions of services, which all sessions share: S3's takes 50 ms to read, also after a restore."""
    from botocore.session import get_session

    return get_session().get_component("data_loader")


def prime_clients() -> None:
    """Import boto3 and read what a worker's clients need; with placeholder keys, since nothing is connected."""
    session = _new_session(os.environ.get("AWS_REGION", "us-east-1"), "placeholder")
    for service in ("s3", "dynamodb", "sqs"):
        session.client(service)


def _readable(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, which raises only botocore's two kinds of errors, also for a proxy's page or an unreadable answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    kind: Any = type("UnreadableAnswerError", (BotoCoreError,), {"fmt": "the answer cannot be read: {error}"})

    def make_api_call(*request: Any) -> Any:
        try:
            answer = call(*request)
        # These say what they are; what else comes out of botocore is about an answer that it could not read.
        except (BotoCoreError, ClientError, SparkletError, MemoryError):
            raise
        except Exception as error:
            raise kind(error=f"{type(error).__name__}: {error}") from error
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        if "text/html" in headers.get("content-type", "") and not any(name.startswith("x-amz") for name in headers):
            raise kind(error="it is a web page, and not of AWS")  # else keys would be missing, or data wrong
        return answer

    return make_api_call


def read_secret(clients: AwsClients, secret: str) -> bytes:
    """A secret's text; SettingsError if it cannot be read."""
    with failing_as(SettingsError, f"the secret {secret} cannot be read"):
        return str(clients.secrets.get_secret_value(SecretId=secret)["SecretString"]).encode()


def client_token(token: str, request: Mapping[str, Any]) -> str:
    """A token for exactly this request: a service refuses a token that it knows from another, as after an upgrade."""
    return hashlib.sha256(json.dumps([token, request], sort_keys=True).encode()).hexdigest()


def remedy(error: Exception) -> str:
    """What the user can do about an error, as the end of a sentence; "" if there is no general remedy."""
    names = {error_code(error), type(error).__name__}
    return next((what_to_do for what_to_do, codes in REMEDIES.items() if names & codes), "")


@contextmanager
def failing_with(ours: Callable[[Exception], SparkletError]) -> Iterator[None]:
    """Raise errors of a call to AWS as the exceptions that ``ours`` makes of them."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError, HTTPError) as error:  # the last while an answer's body is read
        raise ours(error) from error


def failing_as(
    kind: type[SparkletError], what: str, remedies: Mapping[str, str] = MappingProxyType({})
) -> AbstractContextManager[None]:
    """Raise errors of a call to AWS as ``kind``, with ``what`` failed, why, and a remedy, from ``remedies`` by code."""

    def ours(error: Exception) -> SparkletError:
        code = error_code(error)
        return kind(f"{what}: " + (f"{remedies[code]}: {error}" if code in remedies else explained(error)))

    return failing_with(ours)


def explained(error: Exception) -> str:
    """The error's message in one line, since it may quote a whole page, with the remedy where there is one."""
    text, what_to_do = " ".join(str(error).split()), remedy(error)
    text = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} …"
    return f"{text.rstrip('.')}; {what_to_do}" if what_to_do else text


def error_code(error: Exception) -> str:
    """The service's code; "" if it did not answer."""
    response: Any = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def http_status(error: Exception) -> int:
    """The status of the service's answer; 0 if it did not answer."""
    response: Any = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
