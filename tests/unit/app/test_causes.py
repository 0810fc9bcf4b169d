"""The likely reason and the remedy of a failure, found from the ledger's error class and message."""

import builtins

import pytest

from sparklet import errors
from sparklet.app import documents, explain
from sparklet.app.explain import advice
from sparklet.job import errors as of_jobs
from sparklet.runs.dispatch import RUN_CANCELLED, TOLERANCE_EXCEEDED

EXPECTED = [
    ("OutOfMemoryError", "the JVM ran out of memory: Java heap space", "memory was used up", "more memory"),
    ("MemoryError", " (exit code 1)", "memory was used up", "more memory"),
    ("ScriptFailedError", "s3://b/j.py was ended by SIGKILL", "memory was used up", "more memory"),
    ("ScratchFullError", "/scratch has 3 MiB free of 512 MiB", "(/tmp) was full", "ephemeral storage"),
    ("OSError", "[Errno 28] No space left on device: 'x' (exit code 1)", "(/tmp) was full", "ephemeral storage"),
    ("IOException", "No space left on device (exit code 1)", "(/tmp) was full", "ephemeral storage"),
    ("ObjectForbiddenError", "s3://in/1.csv may not be accessed", "permission was denied", "s3:GetObject"),
    ("AccessDeniedException", "s3a://in/1.csv: getFileStatus", "permission was denied", "s3:GetObject"),
    ("AmazonS3Exception", "Forbidden (Service: Amazon S3; Status Code: 403;", "permission was denied", "role"),
    ("SparkFileNotFoundException", "No such file or directory: s3a://in/1.csv", "an input (or the bucket) is gone", ""),
    ("AnalysisException", "[PATH_NOT_FOUND] Path does not exist: s3a://in/1", "an input (or the bucket) is gone", ""),
    ("AnalysisException", "[PATH_NOT_FOUND] Path does not exist: s3://in/x/*.csv", "by a pattern", "--include"),
    ("TextParsingException", "s3://in/1.csv: Unescaped quote character '\"' inside", "are not doubled", "escape="),
    ("AnalysisException", "[UNABLE_TO_INFER_SCHEMA] Unable to infer", "an input is empty", "recursiveFileLookup"),
    ("RuntimeException", "s3a://in/1 is not a Parquet file (expected", "an input is not in the format", "--exclude"),
    (
        "DeadlineExceededError",
        "job.py was ended at its deadline, at line 7 of job.py",
        "at line 7 of job.py",
        "smaller",
    ),
    ("SyntaxError", "'(' was never closed (job.py, line 1)", "does not compile, at job.py, line 1", "--script"),
    ("AnalysisException", "[UNRESOLVED_COLUMN] A column", "table, column or type", "--script"),
    ("org.apache.spark.sql.AnalysisException", "[UNRESOLVED_COLUMN] A column", "table, column or type", "--script"),
    ("OSError", "[Errno 38] Function not implemented", "Lambda has no /dev/shm", "ThreadPoolExecutor"),
    ("ModuleNotFoundError", "No module named 'x'", "imports a module that is not there", "--py-files"),
    ("ClassNotFoundException", "bigquery.DefaultSource", "no jar has it", "spark.jars.packages"),
    ("FileNotFoundError", "No such file or directory: 's3://b/x'", "Python's own functions", "by Spark, boto3"),
    ("FileNotFoundError", "No such file or directory: 's3:/b/x'", "as a local path", "as it was given"),
    ("AnalysisException", "[PATH_NOT_FOUND] Path does not exist: file:/w/s3:/b/x", "as a local path", "as it was"),
    ("FileNotFoundError", "No such file or directory: 'config/c.json'", "reads a local file", "without its folders"),
    ("AnalysisException", "[PATH_NOT_FOUND] Path does not exist: file:/home/me/x", "reads a local file", "INPUT_PATH"),
    ("ValueError", "bad value 7 (line 6 of job.py; exit code 1)", "raised ValueError, at line 6 of job.py", "logs"),
    ("ScriptFailedError", "s3://b/j.py exited with 3", "ended with an exit code other than 0", "logs"),
    ("", "", "ended with an exit code other than 0", "logs"),
    ("RunTimeLimit", "not done within the run's time limit of 60 s", "time limit", "redrive"),
    ("RunTimeLimit", "not done; its last attempt: OutOfMemoryError: Java heap space", "time limit", "redrive"),
    ("NeverStarted", "never started: 3 messages sent again", "no worker ever claimed", "concurrency"),
    ("NeverClaimed", "dispatched 6 times, but no worker claimed it", "no worker ever claimed", "concurrency"),
    (TOLERANCE_EXCEEDED, "not done: more shards failed", "stopped before this one was done", "redrive"),
    (RUN_CANCELLED, "the run was cancelled", "cancelled", "redrive"),
    ("TooLargeError", "the inputs have 3 MiB, and a function takes at most 2", "larger than one function", "--engine"),
    ("LeaseExpired", "attempt a was not heard of before its lease ended", "the worker was lost", "memory"),
    ("SparkException", "Python worker exited unexpectedly (crashed) (line 9 of job.py", "memory was used up", "memory"),
    ("GatewayLostError", "the JVM ended with 5 under the script", "the JVM was lost", "logs"),
    (
        "ScriptNotAllowedError",
        "s3://x/y.py is outside the prefixes",
        "outside the prefixes",
        "SPARKLET_SCRIPT_PREFIXES",
    ),
    (
        "ScriptFetchError",
        "a script changed after planning: s3://b/j.py has the digest 1a…, not 2b…",
        "not the one that was planned",
        "--script",
    ),
    (
        "ScriptFetchError",
        "the script s3://b/j.py could not be fetched: it is not there",
        "could not be fetched",
        "copy",
    ),
    ("EventError", "a plan part holds a line that is no shard: b'x'", "the plan in the bucket", "another id"),
    ("AmazonS3Exception", "Please reduce your request rate (SlowDown; Status Code: 503", "for a moment", "redrive"),
    ("ObjectStoreError", "s3://b/k: S3 could not be used: Could not connect", "for a moment", "redrive"),
    ("SdkClientException", "Unable to load AWS credentials from any provider", "credentials", "renew"),
    ("AmazonS3Exception", "The token has expired (Error Code: ExpiredToken; Status Code: 403)", "credentials", "renew"),
    ("LedgerError", "run r was written by a newer Sparklet; upgrade", "newer Sparklet", "upgrade"),
]


@pytest.mark.parametrize(("error_class", "message", "reason", "remedy"), EXPECTED)
def test_a_failure_has_a_likely_reason_and_a_remedy(error_class: str, message: str, reason: str, remedy: str) -> None:
    told = advice(error_class, message)

    assert reason in told.reason
    assert remedy in told.remedy


def test_every_error_class_in_a_rule_exists() -> None:
    known = {name for module in (builtins, errors, of_jobs) for name in vars(module)}
    foreign = {"JSONDecodeError", "NoClassDefFoundError", "Py4JNetworkError"}
    foreign |= {"PySparkAttributeError", "PySparkNotImplementedError"}
    named = {name for rule in explain._RULES for name in rule.classes.split() if name.endswith("Error")}

    assert {*named, *documents.OUT_OF_MEMORY, *documents.OUT_OF_TIME, *documents.NOT_IN_FUNCTIONS} <= known | foreign
