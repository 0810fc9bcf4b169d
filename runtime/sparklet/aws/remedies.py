"""What to do about a call to AWS that failed for a reason outside Sparklet: credentials, network, the clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sparklet.errors import SparkletError

WRONG_KEYS = frozenset(
    {
        "AuthFailure",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_BAD_CLOCK = frozenset({"RequestTimeTooSkewed", "RequestInTheFuture"})
_NO_CREDENTIALS = frozenset(
    {"CredentialRetrievalError", "NoAuthTokenError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}
)
_NO_LOGIN = frozenset({"SSOTokenLoadError", "TokenRetrievalError", "UnauthorizedSSOTokenError"})
_NO_NETWORK = frozenset(
    {
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "EndpointConnectionError",
        "ProxyConnectionError",
        "ReadTimeoutError",
        "SSLError",
    }
)


def remedy(error: Exception) -> str:
    """What the user can do about it, as the end of a sentence; "" if the error itself is all there is to say."""
    code, kind = error_code(error), type(error).__name__
    if code in WRONG_KEYS:
        return "the credentials are wrong: check AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if code in EXPIRED or kind in _NO_LOGIN:
        return "the credentials have expired: log in again, or set new ones"
    if code in _BAD_CLOCK:
        return "this machine's clock is wrong: set it"
    if kind in _NO_CREDENTIALS:
        return "there are no credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if kind in _NO_NETWORK:
        return "check the network, the region, HTTPS_PROXY and AWS_ENDPOINT_URL"
    return ""


@contextmanager
def failing_as(kind: type[SparkletError], what: str) -> Iterator[None]:
    """Turn botocore's errors into ours: ``what`` failed, why, and the remedy where there is one."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise kind(f"{what}: {explained(error)}") from error


def explained(error: Exception) -> str:
    """The error in its own words, with the remedy where there is one."""
    what_to_do = remedy(error)
    return f"{str(error).rstrip('.')}; {what_to_do}" if what_to_do else str(error)


def error_code(error: Exception) -> str:
    """The service's code; "" if it did not answer."""
    response: Any = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
