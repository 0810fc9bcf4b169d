"""A template where CloudFormation takes one of any size: in a request it may have 51,200 bytes."""

import hashlib
from typing import Any

import boto3

BUCKET = "test-templates"


def template_url(body: str) -> str:
    """Put a template into this account's S3; the address for ``TemplateURL``."""
    s3: Any = boto3.Session().client("s3")
    if BUCKET not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=BUCKET)
    key = f"{hashlib.sha256(body.encode()).hexdigest()[:16]}.json"
    s3.put_object(Bucket=BUCKET, Key=key, Body=body.encode())
    return f"{s3.meta.endpoint_url}/{BUCKET}/{key}"
