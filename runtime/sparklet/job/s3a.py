"""Where S3A takes its credentials from: one answer for Lambda's workers and for scripts that start Spark themselves."""

from __future__ import annotations

S3A = "org.apache.hadoop.fs.s3a.S3AFileSystem"
OWN = "org.apache.hadoop.fs.s3a"


def credentials_chain(hadoop_version: str, temporary_keys: bool) -> str:
    """S3A's credential providers, in order: keys that the script sets itself, then what AWS's own chain finds.

    Only names of classes, never a credential. Where the environment's keys need their session token (Lambda), the
    environment stands before ``SimpleAWSCredentialsProvider``, which would sign with the same keys and without the
    token: Spark copies them into Hadoop's configuration, and Hadoop 3.3's ``TemporaryAWSCredentialsProvider`` answers
    "no credentials" while another thread prepares it, as when Spark looks at several inputs at once.

    Parameters
    ----------
    temporary_keys
        Whether ``AWS_SESSION_TOKEN`` is set.
    """
    major, minor = (int(number) for number in hadoop_version.split(".")[:2])
    sdk, chain = "com.amazonaws.auth", "DefaultAWSCredentialsProviderChain"
    if (major, minor) >= (3, 4):  # Hadoop moved to the SDK's version 2
        sdk, chain = "software.amazon.awssdk.auth.credentials", "DefaultCredentialsProvider"
    environment, simple = f"{sdk}.EnvironmentVariableCredentialsProvider", f"{OWN}.SimpleAWSCredentialsProvider"
    between = [environment, simple] if temporary_keys else [simple, environment]
    return ",".join([f"{OWN}.TemporaryAWSCredentialsProvider", *between, f"{sdk}.{chain}"])
