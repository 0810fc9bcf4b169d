"""URIs are split literally, without decoding."""

import pytest

from sparklet.errors import ObjectNotFoundError
from sparklet.model import split_uri


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://b/k", ("b", "k")),
        ("s3://b/a/b/c", ("b", "a/b/c")),
        ("s3://b", ("b", "")),
        ("s3://b/", ("b", "")),
        ("s3://b//k", ("b", "/k")),
        ("s3://b/a?b#c%20d+e", ("b", "a?b#c%20d+e")),
        ("s3://b/s3://b/k", ("b", "s3://b/k")),
    ],
)
def test_an_address_is_split_into_bucket_and_key(uri: str, parts: tuple[str, str]) -> None:
    assert split_uri(uri) == parts


@pytest.mark.parametrize(
    "uri", ["", "b/k", "/b/k", "s3:/b/k", "s3://", "s3:///k", "S3://b/k", "s3a://b/k", "s3://b/\ud800", "s3://\udfff/k"]
)
def test_an_invalid_address_is_refused(uri: str) -> None:
    with pytest.raises(ObjectNotFoundError, match="s3://bucket/key"):
        split_uri(uri)
