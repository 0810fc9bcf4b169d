"""An S3 whose buckets' policies deny each write that does not ask for encryption, before a stand-in that has none.

The policy is AWS's own example: it denies ``s3:PutObject`` where the request lacks ``x-amz-server-side-encryption``
(``Null``), or names another algorithm or key (``StringNotEquals``). It holds for what makes an object: PutObject,
CopyObject, CreateMultipartUpload. Parts have the encryption of their upload.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from tests.contract.lossy_proxy import LossyProxy

KEY = "arn:aws:kms:us-east-1:123456789012:key/1"
NAME = "x-amz-server-side-encryption"
DEMANDS = {"AES256": {NAME: "AES256"}, KEY: {NAME: "aws:kms", f"{NAME}-aws-kms-key-id": KEY}}
"""Headers that a write must have, by what ``WriteEncryption`` is to be."""
REFUSAL = (
    "<Error><Code>AccessDenied</Code><Message>User: arn:aws:iam::123456789012:user/test is not authorized to perform: "
    's3:PutObject on resource: "arn:aws:s3:::{}" with an explicit deny in a resource-based policy</Message></Error>'
)


class DemandingS3(LossyProxy):
    """Refuses writes without the headers; ``writes``: the kinds that it let pass, each with its client's name."""

    def __init__(self, backend: str, demanded: Mapping[str, str]) -> None:
        super().__init__(backend)
        self.demanded = demanded
        self.writes: set[tuple[str, str]] = set()
        self.refused: list[str] = []

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        sent = {name.lower(): value for name, value in headers.items()}
        if what := written(method, path, sent):
            if {name: sent.get(name) for name in self.demanded} != self.demanded:
                self.refused.append(f"{what} {path}")
                return 403, [("Content-Type", "application/xml")], REFUSAL.format(urlsplit(path).path[1:]).encode()
            self.writes.add((what, re.split("[ /]", sent["user-agent"])[0]))
        return super().ask(method, path, headers, body)


def written(method: str, path: str, sent: Mapping[str, str]) -> str:
    """The operation that makes an object, of those in S3's interface; "" for anything else, or a part of one."""
    place, query = urlsplit(path).path.strip("/"), parse_qs(urlsplit(path).query, keep_blank_values=True)
    if "x-amz-target" in sent or "/" not in place:  # another service; a bucket
        return ""
    if method == "POST" and "uploads" in query:
        return "CreateMultipartUpload"
    if method != "PUT" or query.keys() - {"x-id"}:
        return ""
    return "CopyObject" if "x-amz-copy-source" in sent else "PutObject"
