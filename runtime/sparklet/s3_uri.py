"""``s3://bucket/key`` taken apart, literally: no quoting, no query, no fragment."""

from sparklet.errors import ObjectNotFoundError

SCHEME = "s3://"


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
