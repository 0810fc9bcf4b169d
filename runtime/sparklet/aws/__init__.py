"""The ports over AWS. This is the only package of the core that uses boto3."""
