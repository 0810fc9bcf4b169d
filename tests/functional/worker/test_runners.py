"""What a script can rely on under both runners."""

import textwrap
import zipfile
from pathlib import Path

import pytest

from sparklet.spark.script_main import AS_IN_LAMBDA
from sparklet.spark.spark_submit import SubmitRunner
from tests.functional.worker.conftest import SPARK, Bench

pytestmark = pytest.mark.spark


def test_a_script_is_run_as_python_would_run_it(bench: Bench) -> None:
    code = (
        SPARK
        + """
import json, os, sys, tempfile
conf = spark.sparkContext.getConf()
here = os.getcwd()
in_a_worker = lambda _: [os.getcwd(), os.environ["input_path"], os.environ["TMPDIR"]]
print(json.dumps({
    "argv": sys.argv, "name": __name__, "file": __file__, "spec": __spec__, "path": sys.path[0],
    "doc": __doc__, "stdin": sys.stdin.read(), "cwd": here, "tmp": tempfile.gettempdir(),
    "env": os.environ["input_path"],
    "app": spark.sparkContext.appName, "local": conf.get("spark.local.dir"), "master": conf.get("spark.master"),
    "warehouse": spark.conf.get("spark.sql.warehouse.dir"), "main": sys.modules["__main__"].__file__,
    "worker": spark.sparkContext.parallelize([0], 1).map(in_a_worker).first(),
    "log": spark._jvm.org.apache.logging.log4j.LogManager.getRootLogger().getLevel().toString(),
}))
"""
    )
    result = bench.run(code, ["--event", '{"a": "b c"}', "x"], env={"input_path": "s3://in"}).printed()

    script = result["argv"][0]
    assert result["argv"][1:] == ["--event", '{"a": "b c"}', "x"]
    assert (result["name"], result["spec"], result["doc"], result["stdin"]) == ("__main__", None, None, "")
    assert result["file"] == result["main"] == script
    assert result["path"] == str(Path(script).parent)
    assert result["env"] == "s3://in"
    assert result["cwd"] == result["tmp"]
    # A context that is kept has its own folder for local files.
    assert (result["cwd"] == result["local"]) == isinstance(bench.runner, SubmitRunner)
    assert result["worker"] == [result["cwd"], "s3://in", result["cwd"]]
    assert result["warehouse"].removeprefix("file:") == f"{result['cwd']}/spark-warehouse"
    assert (result["app"], result["master"], result["log"]) == ("job.py", "local[2]", "WARN")


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("pass", 0),
        pytest.param("import sys; sys.exit(3)", 3, marks=pytest.mark.smoke),
        ("import sys; sys.exit(137)", 137),
        ("import sys; sys.exit('no input')", 1),
        ("import os; os._exit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("raise KeyboardInterrupt", -2),
    ],
)
def test_exit_codes_and_signals_are_distinguished(bench: Bench, code: str, exit_code: int) -> None:
    assert bench.run(code).code == exit_code


def test_exit_text_and_traceback_are_on_standard_error(bench: Bench) -> None:
    failed = bench.run("def f():\n    raise ValueError('no good')\n\nf()\n")

    assert failed.text("stderr").splitlines()[0] == "Traceback (most recent call last):"
    assert failed.text("stderr").count("  File ") == 2  # only the frames of the script
    assert failed.result.stderr_tail == failed.text("stderr")
    assert (failed.result.cause_class, failed.result.cause) == ("ValueError", "no good")
    assert failed.text("stdout") == ""


ENDING = """
import atexit, sys, threading, time
def late():
    time.sleep(0.3)
    print("thread")
threading.Thread(target=late).start()
atexit.register(lambda: print("atexit"))
class Last:
    def __del__(self):
        print("collected")
last = Last()
unflushed = open(sys.argv[1], "w")
unflushed.write("kept")
print("main")
"""


HOOK = "sys.excepthook = lambda kind, error, trace: print('hook', error)\nraise RuntimeError('mine')\n"


@pytest.mark.parametrize(
    ("end", "code", "lines"),
    [
        ("", 0, ["main", "thread", "atexit", "collected"]),
        (HOOK, 1, ["main", "hook mine", "thread", "atexit"]),  # as without a runner
    ],
)
def test_the_interpreter_ends_as_without_a_runner(
    bench: Bench, tmp_path: Path, end: str, code: int, lines: list[str]
) -> None:
    ran = bench.run(ENDING + end, [str(tmp_path / "file")])

    assert (ran.code, ran.text("stdout").splitlines()) == (code, lines)
    assert (tmp_path / "file").read_text() == "kept"


def test_output_of_any_form_is_passed_on_unchanged(bench: Bench) -> None:
    ran = bench.run(
        """
import os, sys
sys.stdout.write("x" * 5_000_000)
sys.stdout.flush()
os.write(1, b"\\n\\xff\\xfe\\x00\\n")
for number in range(100_000):
    print("line", number)
sys.stderr.write("y" * 100_000 + "\\n" + "tail\\n" * 3)
"""
    )

    out = b"".join(line for stream, line in ran.lines if stream == "stdout")
    assert out.startswith(b"x" * 5_000_000 + b"\n\xff\xfe\x00\nline 0\n")
    assert out.endswith(b"line 99999\n")
    assert max(len(line) for _, line in ran.lines) <= 65536
    assert ran.result.stderr_tail.endswith("tail\ntail\ntail\n")
    assert len(ran.result.stderr_tail.encode()) <= 8192


def test_the_jvms_output_is_part_of_the_tasks_output(bench: Bench) -> None:
    ran = bench.run(
        SPARK
        + """
spark._jvm.java.lang.System.out.println("from Java")
spark._jvm.org.apache.logging.log4j.LogManager.getLogger("mine").warn("a warning")
spark.stop()
spark.stop()
"""
    )

    assert ran.code == 0
    assert ran.text("stdout") == "from Java\n"
    assert "WARN mine: a warning\n" in ran.text("stderr")


def test_a_script_can_close_its_streams_and_leave_its_folder(bench: Bench) -> None:
    assert bench.run("import os, sys\nos.chdir('/')\nsys.stdout.close()\nsys.stderr.close()").code == 0


def test_warnings_of_s3a_about_its_statistics_are_dropped(bench: Bench) -> None:
    ran = bench.run(
        SPARK
        + """
logger = spark._jvm.org.apache.log4j.LogManager.getLogger("org.apache.hadoop.fs.s3a.S3AInstrumentation")
logger.warn("Closing output stream statistics while data is still marked as pending upload in Output{}")
logger.warn("another")
"""
    )

    assert "pending upload" not in ran.text("stderr")
    assert "WARN S3AInstrumentation: another\n" in ran.text("stderr")


def test_relative_paths_are_in_the_tasks_folder_for_everyone(bench: Bench) -> None:
    result = bench.run(
        SPARK
        + """
import json, os
open("beside.txt", "w").write("beside")
open("beside_module.py", "w").write("ANSWER = 42")
spark.range(3).write.parquet("out")
spark.sparkContext.addFile("beside.txt")
spark.sparkContext.addPyFile("beside_module.py")

def look(_):
    import beside_module
    from pyspark import SparkFiles
    return [beside_module.ANSWER, open("beside.txt").read(), open(SparkFiles.get("beside.txt")).read()]

print(json.dumps([
    sorted(name.split(".")[-1] for name in os.listdir("out") if name.startswith("part")),
    spark.read.parquet("out").count(),
    spark.sparkContext.parallelize([0], 1).map(look).first(),
    os.path.dirname(spark._jvm.java.io.File("x").getCanonicalPath()) == os.path.realpath("."),
]))
"""
    ).printed()

    assert result == [["parquet", "parquet"], 3, [42, "beside", "beside"], True]


def test_files_and_options_come_with_a_script(bench: Bench, tmp_path: Path) -> None:
    """They work as ``--files`` and ``--conf`` of spark-submit do, and the next task does not have them."""
    code = """
import json
from pyspark import SparkFiles
def found():
    from pathlib import Path
    return Path(SparkFiles.get("lookup.json")).read_text()
options = [spark.conf.get(name, "") for name in ("spark.sql.shuffle.partitions", "spark.my.own")]
print(json.dumps([found(), spark.sparkContext.parallelize([1]).map(lambda _: found()).collect(), options]))
"""
    for number in range(bench.tasks_per_jvm):
        file = tmp_path / str(number) / "lookup.json"
        file.parent.mkdir()
        file.write_text(str(number))
        conf = {"spark.sql.shuffle.partitions": f"{number + 3}", f"spark.my.{'own' if number == 0 else 'other'}": "x"}

        result = bench.run(SPARK + code, files=[file], conf=conf).printed()

        own = "x" if number == 0 else ""
        assert result == [str(number), [str(number)], [str(number + 3), own]]


@pytest.mark.parametrize(
    "context",
    [
        'SparkSession.builder.master("yarn").getOrCreate().sparkContext',
        'SparkContext(conf=SparkConf().setMaster("spark://nobody:7077").setAppName("a"))',
    ],
)
def test_the_master_that_a_script_sets_is_ignored(bench: Bench, context: str) -> None:
    ran = bench.run(
        f"from pyspark import SparkConf, SparkContext\nfrom pyspark.sql import SparkSession\ncontext = {context}\n"
        "import json\nprint(json.dumps([context.master[:5], context.parallelize([1, 2]).count()]))"
    )

    assert ran.printed() == ["local", 2]
    assert "is not used: Spark runs here, as local[" in ran.text("stderr")


def test_a_local_worker_lacks_what_lambda_lacks(bench: Bench) -> None:
    ran = bench.run(
        """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
def answer(end):
    end.send(7)
with ThreadPoolExecutor(2) as pool:
    print(list(pool.map(str, [1])))
ours, theirs = multiprocessing.Pipe()
other = multiprocessing.Process(target=answer, args=(theirs,))
other.start()
print(ours.recv(), flush=True)
ProcessPoolExecutor(2).submit(str)
""",
        env={AS_IN_LAMBDA: "1"},
    )

    assert ran.text("stdout") == "['1']\n7\n"
    assert (ran.result.cause_class, ran.result.cause) == ("OSError", "[Errno 38] Function not implemented")


def test_py_files_are_importable_by_script_and_spark_workers(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text("VALUE = 'single'")
    for name in ("zipped.zip", "hatched.egg", "wheeled-1.0-py3-none-any.whl"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(f"{name.split('.')[0].split('-')[0]}/__init__.py", f"VALUE = '{name}'")
    code = (
        SPARK
        + """
import json

def values(_):
    import hatched, single, wheeled, zipped
    return [module.VALUE for module in (single, zipped, hatched, wheeled)]

print(json.dumps([values(0), spark.sparkContext.parallelize([0], 1).map(values).first()]))
"""
    )
    result = bench.run(code, py_files=sorted(tmp_path.iterdir())).printed()

    assert result == [["single", "zipped.zip", "hatched.egg", "wheeled-1.0-py3-none-any.whl"]] * 2


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("up", "w").close()
        time.sleep(600)
    os._exit(0)
while not os.path.exists("up"):
    time.sleep(0.01)
"""


IN_A_WORKER = f"""{SPARK}
def leave(_):
{textwrap.indent(DAEMON, "    ")}
    return 1
print(spark.sparkContext.parallelize([0], 1).map(leave).first())
"""


@pytest.mark.parametrize(
    ("code", "exit_code", "output"),
    [(DAEMON, 0, ""), (f"{DAEMON}os.kill(os.getpid(), 9)", -9, ""), (IN_A_WORKER, 0, "1\n")],
    ids=["a script's", "a killed script's", "a Spark worker's"],
)
def test_a_daemon_that_a_task_leaves_is_killed(bench: Bench, code: str, exit_code: int, output: str) -> None:
    ran = bench.run(code)

    assert (ran.code, ran.text("stdout")) == (exit_code, output), ran.text("stderr")
    assert bench.survivors() == {}


def test_threads_that_use_spark_do_not_outlive_their_script(bench: Bench) -> None:
    code = """
import threading, time
def work():
    spark.sparkContext._jsc.sc().range(0, 10**15, 1, 2).count()
threading.Thread(target=work, daemon=True).start()
while not spark.sparkContext.statusTracker().getActiveJobsIds():
    time.sleep(0.01)
"""
    assert bench.run(SPARK + code).code == 0
    assert bench.survivors() == {}
    bench.settle()


def test_a_task_leaves_no_files_in_the_scratch_folder(bench: Bench) -> None:
    before = set(bench.scratch.iterdir())
    for _ in range(bench.tasks_per_jvm):  # the JVM could create a folder of the first task again
        shuffle = "print(spark.range(10).repartition(3).persist(StorageLevel.DISK_ONLY).count())"
        files = "import tempfile\nfrom pyspark import StorageLevel\nopen(tempfile.mkstemp()[1], 'w').write('x')\n"
        assert bench.run(SPARK + files + shuffle).text("stdout") == "10\n"

    new = set(bench.scratch.iterdir()) - before
    assert [path.name for path in new if not path.name.startswith("script-")] == []
