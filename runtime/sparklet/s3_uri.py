"""``s3://bucket/key`` taken apart, literally: no quoting, no query, no fragment."""

from sparklet.errors import ObjectNotFoundError

SCHEME = "s3://"


def s3_address(given: str) -> str:
    """``s3://…`` of an address with the scheme s3, s3a or s3n; "" if it has none of them, or no bucket."""
    scheme, _, rest = given.partition("://")
    return f"{SCHEME}{rest}" if scheme in ("s3", "s3a", "s3n") and rest.partition("/")[0] else ""


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an object's or a prefix's URI; the key may be empty.

    Raises
    ------
    ObjectNotFoundError
        If ``uri`` names no bucket, or is no text that UTF-8 holds: no object can be there.
    """
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not uri.startswith(SCHEME) or not bucket or uri.encode(errors="ignore").decode() != uri:  # a lone surrogate
        raise ObjectNotFoundError(f"{uri!r} is no object's address; it must look like s3://bucket/key, in UTF-8")
    return bucket, key
