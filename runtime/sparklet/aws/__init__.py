"""The ports over AWS: the only package that knows boto3."""
