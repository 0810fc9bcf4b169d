"""Scripts that misbehave, and what the ledger has for their shards afterwards."""

from dataclasses import dataclass

from sparklet.model import ShardState
from tests.functional.worker.ledgered import OTHERS
from tests.spark_line import IS_SPARK_4

GONE, RETRIED, DONE = ShardState.FAILED, ShardState.PENDING, ShardState.SUCCEEDED
"""GONE: FAILED at once, as no retry helps. RETRIED: PENDING again after one of two attempts. DONE: SUCCEEDED."""

FILE_GONE = "FileNotFoundException" if IS_SPARK_4 else "SparkFileNotFoundException"
FORBIDDEN = "Forbidden (403)" if IS_SPARK_4 else "Forbidden (403 Forbidden)"
CRASHED = ["Python worker exited unexpectedly (crashed)", "(line 8 of job.py"]
"""The two parts of the ledger's message for a dead Python worker; Spark 4 has advice between them."""

JOB = "from sparklet.job import Job\njob = Job.from_args()\nspark = job.spark()\n"
GOOD = b"""
import os
from sparklet.job import Job
job = Job.from_args()
assert os.getcwd() == os.environ["TMPDIR"] and os.listdir() == [], os.listdir()
with open("mine", "w") as file:
    file.write("x" * 1_000_000)
spark = job.spark()
assert spark.range(10).columns == ["id"]
job.report(rows=spark.sparkContext._jsc.sc().range(0, 10, 1, 2).count())  # a job, cheaper than a query
"""
GOOD_ROWS = 10  # the number of rows that GOOD reports
UDF = (
    JOB
    + "from pyspark.sql import functions as F\n@F.udf('int')\ndef f(x):\n    {}\n"
    + "spark.range(3).select(f('id')).collect()"
)


@dataclass(frozen=True)
class Case:
    """A script, and what the ledger has for the script's shard after one of two attempts."""

    name: str
    script: str
    state: ShardState
    error_class: str = ""
    says: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


CASES = [
    # --- how it ends ---
    Case("syntax error", "x = 1\nprint(\n", GONE, "SyntaxError", ("'(' was never closed (job.py, line 2)",)),
    Case("exits with 0 before it has done a thing", JOB + "import sys\nsys.exit(0)\njob.report(rows=1)", DONE),
    Case(
        "raises, under a JVM of its own",
        "# sparklet: runner=submit\n" + JOB + "raise ValueError('bad value 7')",
        RETRIED,
        "ValueError",
        ("bad value 7 (line 5 of job.py; exit code 1)",),
    ),
    # --- what it does around itself ---
    Case("deletes its own folder", "import os, shutil\nshutil.rmtree(os.environ['TMPDIR'])", DONE),
    Case(
        "patches Python and pyspark",
        "import builtins, json, os\nfrom pyspark.sql import SparkSession\n"
        "SparkSession.range = SparkSession.builder = json.loads = None\n"
        "os.getcwd = lambda: '/'\nos.environ.clear()\nbuiltins.open = builtins.print = None",
        DONE,
    ),
    # --- memory, space, the JVM ---
    Case(
        "out of memory in Python",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\nx = bytearray(3 << 30)",
        RETRIED,
        "OutOfMemoryError",
        ("the script's Python ran out of memory at line 3 of job.py", "give the function more memory"),
    ),
    Case(
        "a Python worker is killed",
        UDF.format("import os; os.kill(os.getpid(), 9)"),
        RETRIED,
        "SparkException",
        ((f"{CRASHED[0]}. Consider setting", CRASHED[1]) if IS_SPARK_4 else (" ".join(CRASHED),)),
    ),
    Case(
        "no space left", "with open('/dev/full', 'w') as f:\n    f.write('x')", RETRIED, "ScratchFullError", ("line 1",)
    ),
    # --- what Spark says of it ---
    Case(
        "raises in a UDF",
        UDF.format("raise ValueError(f'bad value {x}')"),
        RETRIED,
        "ValueError",
        ("bad value ", " (line 7 of job.py; exit code 1)"),
    ),
    Case(
        "a column that is not there",
        JOB + "spark.range(3).select('nope')",
        GONE,
        "AnalysisException",
        ("`nope` cannot be resolved", " (line 4 of job.py; exit code 1)"),
    ),
    Case(
        "an input that vanishes after it was listed",
        JOB + "frame = spark.read.text('s3://inputs/going.csv')\nimport boto3\n"
        "boto3.client('s3').delete_object(Bucket='inputs', Key='going.csv')\nframe.collect()",
        RETRIED,
        FILE_GONE,
        ("No such file or directory: s3://inputs/going.csv",),
    ),
    Case(
        "an input without permission",
        JOB + f"spark.read.text('s3://{OTHERS}/in/1.csv')",
        GONE,
        "AccessDeniedException",
        (f"permission denied: s3://{OTHERS}/in/1.csv: {FORBIDDEN} (line 4",),
    ),
    Case(
        "a bucket that is not there",
        JOB + "spark.read.text('s3://no-such-bucket/x')",
        GONE,
        "UnknownStoreException",
        ("s3://no-such-bucket/x: The specified bucket does not exist (404 NoSuchBucket)",),
    ),
]
