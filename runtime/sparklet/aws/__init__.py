"""The ports over AWS: of the core the only package that knows boto3."""
