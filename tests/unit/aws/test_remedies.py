"""Remedies in the errors of AWS calls that failed because of the user's settings."""

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    NoCredentialsError,
    ProfileNotFound,
    UnauthorizedSSOTokenError,
)
from botocore.stub import Stubber

from sparklet.aws.clients import AwsClients, explain_error, remedy
from sparklet.aws.object_store import S3ObjectStore
from sparklet.errors import ObjectForbiddenError, ObjectStoreError


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "As it is."}}, "GetObject")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (refused("ExpiredToken"), "have expired: log in again"),
        (refused("ExpiredTokenException"), "have expired: log in again"),
        (UnauthorizedSSOTokenError(), "have expired: log in again"),
        (refused("SignatureDoesNotMatch"), "are wrong: check AWS_PROFILE"),
        (refused("UnrecognizedClientException"), "are wrong: check AWS_PROFILE"),
        (refused("RequestTimeTooSkewed"), "clock is wrong: set it"),
        (NoCredentialsError(), "there are no credentials: set AWS_PROFILE"),
        (ProfileNotFound(profile="mine"), "there are no credentials: set AWS_PROFILE"),
        (ConnectTimeoutError(endpoint_url="https://s3"), "check the network, the region, HTTPS_PROXY"),
    ],
)
def test_each_error_is_followed_by_its_remedy(error: Exception, says: str) -> None:
    assert says in remedy(error)
    assert explain_error(error).startswith(str(error).rstrip("."))
    assert explain_error(error).endswith(remedy(error))


def test_errors_without_a_remedy_are_passed_on_unchanged() -> None:
    assert remedy(refused("SlowDown")) == ""
    assert explain_error(refused("SlowDown")) == str(refused("SlowDown"))


def test_expired_credentials_are_retried_and_wrong_ones_are_not() -> None:
    """Lambda renews a worker's credentials, so a shard must not fail because they expired."""
    clients = AwsClients(attempts=1)
    with Stubber(clients.s3) as answers:
        for code, kind, may_pass in (
            ("ExpiredToken", ObjectStoreError, True),
            ("InvalidAccessKeyId", ObjectForbiddenError, False),
        ):
            answers.add_client_error("get_object", code)
            with pytest.raises(kind) as error:
                S3ObjectStore(clients).get("s3://b/k")
            assert error.value.retryable is may_pass
