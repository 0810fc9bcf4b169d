"""Root causes in stderr of real scripts: pyspark 3.5.9 (sdk2: 4.1.4), Python 3.11, with shortened stacks."""

from pathlib import Path

import pytest

from sparklet.spark.script_output import (
    MAX_MESSAGE,
    bad_file,
    is_spark_failure,
    line_reached,
    must_come_again,
    root_cause,
    script_line,
)
from tests.waiting import deadline_s

SAMPLES = Path(__file__).parent / "stderr_samples"

EXPECTED = {
    "analysis": (
        "AnalysisException",
        "[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column or function parameter with name `nope`",
    ),
    "ansi_division": ("ArithmeticException", "[DIVIDE_BY_ZERO] Division by zero."),
    "corrupt_parquet": ("RuntimeException", "file:/task/bad.parquet is not a Parquet file (length is too low: 11)"),
    "csv_schema": ("SparkRuntimeException", "s3://bucket/text.csv: [MALFORMED_CSV_RECORD] Malformed CSV record: a,b"),
    "empty_parquet": ("RuntimeException", "s3://bucket/empty.parquet is not a Parquet file (length is too low: 0)"),
    "exception_group": ("ExceptionGroup", "several (2 sub-exceptions)"),
    "exit_with_text": ("", "the text"),
    "java_call": ("NumberFormatException", 'For input string: "seven"'),
    "java_no_space": ("IOException", "No space left on device"),
    "logged_then_exit": ("ZeroDivisionError", "division by zero"),
    "malformed_csv": ("NumberFormatException", 'file:///task/bad.csv: For input string: "a"'),
    "memory": ("MemoryError", ""),
    "module": ("ModuleNotFoundError", "No module named 'nonexistent_thing'"),
    "no_message": ("KeyError", ""),
    "note": ("ValueError", "with note"),
    "parse": ("ParseException", "[PARSE_SYNTAX_ERROR] Syntax error at or near 'selec'.(line 1, pos 0)"),
    "path_not_found": ("AnalysisException", "[PATH_NOT_FOUND] Path does not exist: s3://bucket/gone.csv."),
    "python_rdd": ("ZeroDivisionError", "division by zero"),
    "python_udf": ("ValueError", "bad value 7"),
    "python_worker_crashed": ("SparkException", "Python worker exited unexpectedly (crashed)"),
    "raise_error_in_a_write": ("RuntimeException", "row 1"),
    "raised_from": ("KeyError", "'k'"),
    "raised_meanwhile": ("RuntimeError", "outer"),
    "s3a_bad_keys": (
        "AccessDeniedException",
        "wrong credentials: s3://input/: The AWS Access Key Id you provided does not exist in our records. "
        "(403 InvalidAccessKeyId)",
    ),
    "s3a_denied_write": (
        "AccessDeniedException",
        "permission denied: staged/run-1/000000-fae4d9de1c37/rows/day=0/part-00000-5edecc70-cf8f-4cfa-89f8-34b3c0db3da8"
        ".c000.snappy.parquet: User: arn:aws:iam::123456789012:user/test is not authorized to perform: s3:PutObject",
    ),
    "s3a_forbidden": ("AccessDeniedException", "permission denied: s3://others/in/1.csv: Forbidden (403 Forbidden)"),
    "s3a_forbidden_write": ("AccessDeniedException", "permission denied: s3://others/out: Forbidden (403 Forbidden)"),
    "s3a_no_bucket": (
        "UnknownStoreException",
        "s3a://nobucket/x: The specified bucket does not exist (404 NoSuchBucket)",
    ),
    "s3a_no_credentials": ("SdkClientException", "Unable to load AWS credentials from environment variables"),
    "s3a_object_gone": ("SparkFileNotFoundException", "No such file or directory: s3a://bucket/in/1.csv"),
    "s3a_sdk2_forbidden": ("AccessDeniedException", "permission denied: s3://others/in/1.csv: Forbidden (403)"),
    "s3a_sdk2_forbidden_write": ("AccessDeniedException", "permission denied: s3://others/out: Forbidden (403)"),
    "s3a_sdk2_no_bucket": (
        "UnknownStoreException",
        "s3://no-such-bucket/x: The specified bucket does not exist (404 NoSuchBucket)",
    ),
    "s3a_sdk2_object_gone": ("FileNotFoundException", "No such file or directory: s3://inputs/going.csv"),
    "several_lines": ("ValueError", "first"),
    "syntax": ("SyntaxError", "'(' was never closed (syntax.py, line 1)"),
    "thread": ("ZeroDivisionError", "division by zero"),
    "warnings_before": ("ValueError", "after"),
}


def test_every_sample_is_expected() -> None:
    assert {path.stem for path in SAMPLES.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_innermost_exception_is_named(name: str) -> None:
    text = (SAMPLES / f"{name}.txt").read_text()

    cause_class, cause = root_cause(text, bad_file(text, {}))

    assert cause_class == EXPECTED[name][0]
    assert cause.startswith(EXPECTED[name][1])
    assert bool(cause) == bool(EXPECTED[name][1])


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("python_udf", "line 6 of udf.py"),
        ("python_worker_crashed", "line 9 of job.py"),
        ("s3a_forbidden", "line 4 of job.py"),
        ("csv_schema", "line 4 of job.py"),
        ("java_no_space", "line 3 of job.py"),
        ("syntax", ""),
        ("exit_with_text", ""),
    ],
)
def test_the_scripts_own_line_is_shown_even_inside_a_udf(name: str, line: str) -> None:
    text = (SAMPLES / f"{name}.txt").read_text()

    assert script_line(text, ["/task/job.py", "/task/udf.py"]) == line
    assert script_line(text, ["/task/other.py"]) == ""


@pytest.mark.parametrize("before", ["80%|####   | 4/5 [00:01<00:00]", "[Stage 0:>   (0 + 1) / 1]\r", "\ufffd\ufffd\0"])
def test_a_traceback_after_a_line_that_was_not_ended_is_seen(before: str) -> None:
    text = before + 'Traceback (most recent call last):\n  File "/task/job.py", line 3, in <module>\nValueError: 7\n'

    assert root_cause(text) == ("ValueError", "7")
    assert script_line(text, ["/task/job.py"]) == "line 3 of job.py"


@pytest.mark.timeout(deadline_s())  # takes 0.02 s; a quadratic search would take minutes
def test_an_endless_message_of_s3a_is_read_in_time() -> None:
    text = (
        "Traceback (most recent call last):\nPy4JJavaError: x\n: a.AccessDeniedException: s3://b/k: " + ": (Se" * 25_000
    )

    assert root_cause(text)[0] == "AccessDeniedException"


TRACE = "Traceback (most recent call last):\n"
AT_EXIT = f"Error in atexit._run_exitfuncs:\n{TRACE}ConnectionRefusedError: gone\n"
JAVAS = "py4j.protocol.Py4JJavaError: An error occurred while calling o1.count.\n: "
CASES = {
    "an exception at exit after another": (
        f"{TRACE}  File 'job.py', line 1, in <module>\nValueError: the cause\n{AT_EXIT}",
        ("ValueError", "the cause"),
    ),
    "an exception at exit alone": (AT_EXIT, ("ConnectionRefusedError", "gone")),
    "a local class": (f"{TRACE}  File 'job.py', line 1\nmain.<locals>.TooOld: 1999\n", ("TooOld", "1999")),
    "a cause that only the lost task shows": (
        f"{TRACE}{JAVAS}org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 0.0 failed 1"
        " times, most recent failure: Lost task 0.0 in stage 0.0 (TID 0) (localhost executor driver):"
        " java.io.IOException: full\n\tat x.y(Z.java:1)\n\nDriver stacktrace:\n\tat x.y(Z.java:1)\n",
        ("IOException", "full"),
    ),
    "Thrift's own form": (
        f"{TRACE}{JAVAS}java.lang.RuntimeException: failed\n\tat x.y(Z.java:1)\nCaused by: "
        "java.lang.reflect.InvocationTargetException\n\t... 9 more\nCaused by: MetaException(message:no database)\n"
        "\tat org.apache.hadoop.hive.x(Y.java:1)\n",
        ("MetaException", "no database"),
    ),
    "spark-submit's own": (
        ":: problems summary ::\n"
        'Exception in thread "main" java.lang.RuntimeException: [unresolved dependency: a#b;1: not found]\n'
        "\tat org.apache.spark.deploy.SparkSubmitUtils$.resolveMavenCoordinates(SparkSubmit.scala:1538)\n",
        ("RuntimeException", "[unresolved dependency: a#b;1: not found]"),
    ),
    "Java's first words when it does not start": (
        "Invalid maximum heap size: -Xmxmany\nError: Could not create the Java Virtual Machine.\n"
        "Error: A fatal exception has occurred. Program will exit.\n",
        ("", "Invalid maximum heap size: -Xmxmany"),
    ),
    "a message that is bounded": (f"{TRACE}ValueError: {'x' * 10_000}\n", ("ValueError", "x" * MAX_MESSAGE)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_read_from_python_java_and_spark_submit(case: str) -> None:
    text, cause = CASES[case]

    assert root_cause(text) == cause


@pytest.mark.parametrize("text", ["", "\n\n", TRACE, TRACE.strip()])
def test_a_text_without_an_error_has_no_class(text: str) -> None:
    assert root_cause(text)[0] == ""


def test_a_stack_dump_gives_the_scripts_current_line() -> None:
    dump = (
        'Thread 0x01 (most recent call first):\n  File "/task/job.py", line 99 in other\n\n'
        'Current thread 0x02 (most recent call first):\n  File "/venv/py4j/x.py", line 5 in send\n'
        '  File "/task/job.py", line 3 in f\n  File "/task/job.py", line 4 in <module>\n'
    )

    assert line_reached(dump, ["/task/job.py"]) == "line 3 of job.py"
    assert line_reached(dump, ["/task/other.py"]) == ""
    assert line_reached("", ["/task/job.py"]) == ""


def test_the_line_of_a_thread_that_the_script_awaits_is_reported() -> None:
    dump = (
        'Thread 0x01 (most recent call first):\n  File "/lib/threading.py", line 9 in wait\n'
        '  File "/task/job.py", line 3 in f\n  File "/lib/threading.py", line 982 in run\n\n'
        'Current thread 0x02 (most recent call first):\n  File "/lib/threading.py", line 1590 in _shutdown\n'
    )

    assert line_reached(dump, ["/task/job.py"]) == "line 3 of job.py"
    assert line_reached(dump + dump.replace("line 3", "line 8"), ["/task/job.py"]) == "line 8 of job.py"


LOST = (
    f"{TRACE}{JAVAS}org.apache.spark.SparkException: Job aborted due to stage failure: Task 1 in stage 0.0 failed 1"
    " times, most recent failure: Lost task 1.0 in stage 0.0 (TID 7) (localhost executor driver):"
    " org.apache.spark.SparkException: [TASK_WRITE_FAILED] Task failed while writing rows to file:/out.\n"
    "Caused by: java.io.EOFException: Unexpected end of input stream\n{frames}\nDriver stacktrace:\n{driver}"
)
READER = "\tat org.apache.spark.sql.execution.datasources.FileScanRDD$$anon$1.hasNext(FileScanRDD.scala:131)\n"
READS = {"6": "s3://b/good.csv", "7": "s3://b/a%20bad.csv"}


def test_the_file_that_the_lost_task_was_reading_is_at_fault() -> None:
    text = LOST.format(frames=READER, driver="")

    assert bad_file(text, READS) == "s3://b/a bad.csv"
    assert root_cause(text, bad_file(text, READS)) == (
        "EOFException",
        "s3://b/a bad.csv: Unexpected end of input stream",
    )


def test_a_file_with_other_columns_is_at_fault() -> None:
    """``sparklet.job.reading`` words its error like Spark, so that ``--isolate`` finds the file at once."""
    error = "DriftError: columns other than the schema's were found while reading file s3://b/a%20bad.json. It has w"

    assert bad_file(f"{TRACE}{error}\n", {}) == "s3://b/a bad.json"


@pytest.mark.parametrize("frames", ["", "\tat org.apache.spark.sql.execution.SortExec.x(SortExec.scala:1)\n"])
def test_a_file_is_not_blamed_for_an_error_outside_its_reader(frames: str) -> None:
    assert bad_file(LOST.format(frames=frames, driver=READER), READS) == ""


@pytest.mark.parametrize(
    "message",
    [
        "CSV header does not conform to the schema.\n Header: id, b",
        "Number of column in CSV header is not equal to number of fields in the schema:\n Header length: 3",
        "[INCONSISTENT_BEHAVIOR_CROSS_VERSION.PARSE_DATETIME_BY_NEW_PARSER] You may get a different result",
        "[MALFORMED_RECORD_IN_PARSING.WITHOUT_SUGGESTION] Malformed records are detected",
    ],
)
def test_an_error_of_the_schema_would_occur_again(message: str) -> None:
    assert must_come_again(f"{TRACE}py4j.protocol.Py4JJavaError: java.lang.IllegalArgumentException: {message}\n")


def test_an_unsupported_parquet_conversion_would_occur_again() -> None:
    """The class of the innermost cause decides: a decoder can also fail because of S3."""
    failed = f"{TRACE}py4j.protocol.Py4JJavaError: An error occurred.\n: org.apache.spark.SparkException: v\n"
    by_type = (
        f"{failed}Caused by: org.apache.spark.sql.execution.datasources.SchemaColumnConvertNotSupportedException\n"
    )
    decoder = f"{failed}Caused by: org.apache.parquet.io.ParquetDecodingException: Failed to read 4 bytes\n"

    assert must_come_again(by_type) and must_come_again(decoder)
    assert not must_come_again(f"{decoder}Caused by: java.net.SocketTimeoutException: Read timed out\n")


def test_a_file_is_not_blamed_for_a_failure_that_was_caught() -> None:
    caught = LOST.format(frames=READER, driver="") + "[CAST_INVALID_INPUT] 'x'\n"
    text = f"{caught}{TRACE}  File 'job.py', line 9, in <module>\nValueError: 7\n"

    assert bad_file(text, READS) == ""
    assert must_come_again(caught)
    assert not must_come_again(text)


FAILED = f"{TRACE}{JAVAS}"
ABORTED = FAILED + "org.apache.spark.SparkException: Job aborted.\n\tat org.apache.spark.a.B.c(B.scala:1)\nCaused by: "
OF_SPARK = {
    "the compiler of queries": ABORTED
    + "java.lang.StringIndexOutOfBoundsException: String index out of range: 0\n"
    + "\tat java.base/java.lang.StringLatin1.charAt(StringLatin1.java:48)\n"
    + "\tat org.codehaus.janino.Descriptor.toClassName(Descriptor.java:220)\n",
    "a class": FAILED + "java.lang.NoClassDefFoundError: Could not initialize class a.B\n\tat a.C.d(C.java:1)\n",
    "a mistake": FAILED + 'java.lang.NullPointerException: "x" is null\n\tat org.apache.spark.rdd.RDD.x(RDD.scala:1)\n',
    "a phase": "pyspark.errors.exceptions.captured.SparkException: [INTERNAL_ERROR] The phase optimization failed.\n",
}
OF_OTHERS = {
    "memory": FAILED + "java.lang.OutOfMemoryError: Java heap space\n\tat org.apache.spark.rdd.RDD.x(RDD.scala:1)\n",
    "a script's own Java": FAILED + "java.lang.NullPointerException\n\tat mine.Job.run(Job.java:1)\n"
    "\tat org.apache.spark.rdd.RDD.x(RDD.scala:1)\n",
    "a reader of files": ABORTED + "java.lang.IndexOutOfBoundsException\n\tat org.apache.parquet.x.Y.z(Y.java:1)\n",
    **{name: (SAMPLES / f"{name}.txt").read_text() for name in EXPECTED},
}


@pytest.mark.parametrize("case", [*OF_SPARK, *OF_OTHERS])
def test_a_failure_in_sparks_own_code_is_recognized(case: str) -> None:
    assert is_spark_failure({**OF_SPARK, **OF_OTHERS}[case]) == (case in OF_SPARK)
