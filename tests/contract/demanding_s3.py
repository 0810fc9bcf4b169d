"""A proxy that makes a stand-in deny each write without encryption, as a bucket's policy does in S3.

The policy is AWS's own example: it denies ``s3:PutObject`` if the request lacks ``x-amz-server-side-encryption``
(``Null``), or names another algorithm or key (``StringNotEquals``). It applies to the operations that create an object:
PutObject, CopyObject, CreateMultipartUpload. Parts have the encryption of their upload.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from tests.contract.lossy_proxy import LossyProxy

KEY = "arn:aws:kms:us-east-1:123456789012:key/1"
NAME = "x-amz-server-side-encryption"
DEMANDS = {"AES256": {NAME: "AES256"}, KEY: {NAME: "aws:kms", f"{NAME}-aws-kms-key-id": KEY}}
"""The headers that a write must have, by the value that ``WriteEncryption`` must have."""
REFUSAL = (
    "<Error><Code>AccessDenied</Code><Message>User: arn:aws:iam::123456789012:user/test is not authorized to perform: "
    's3:PutObject on resource: "arn:aws:s3:::{}" with an explicit deny in a resource-based policy</Message></Error>'
)


class DemandingS3(LossyProxy):
    """Refuses writes without the headers. ``writes`` are the operations that passed, each with its client's name."""

    def __init__(self, backend: str, demanded: Mapping[str, str]) -> None:
        super().__init__(backend)
        self.demanded = demanded
        self.writes: set[tuple[str, str]] = set()
        self.refused: list[str] = []

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        sent = {name.lower(): value for name, value in headers.items()}
        if operation := write_operation(method, path, sent):
            if {name: sent.get(name) for name in self.demanded} != self.demanded:
                self.refused.append(f"{operation} {path}")
                return 403, [("Content-Type", "application/xml")], REFUSAL.format(urlsplit(path).path[1:]).encode()
            self.writes.add((operation, re.split("[ /]", sent["user-agent"])[0]))
        return super().ask(method, path, headers, body)


def write_operation(method: str, path: str, sent: Mapping[str, str]) -> str:
    """The operation of S3 by which a request creates an object; "" if it creates none, or only a part of one."""
    address, query = urlsplit(path).path.strip("/"), parse_qs(urlsplit(path).query, keep_blank_values=True)
    is_of_another_service, names_an_object = "x-amz-target" in sent, "/" in address
    if is_of_another_service or not names_an_object:
        return ""
    if method == "POST" and "uploads" in query:
        return "CreateMultipartUpload"
    if method != "PUT" or query.keys() - {"x-id"}:
        return ""
    return "CopyObject" if "x-amz-copy-source" in sent else "PutObject"
