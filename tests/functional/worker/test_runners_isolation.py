"""A task sees nothing of the tasks before it in the same JVM.

``test_kept_context`` and ``test_jvm_state`` test the state of the context and of Java itself.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sparklet.spark import warm_runner
from sparklet.spark.warm_runner import WarmRunner
from tests.functional.worker.conftest import JVM, MARK, SPARK, Bench, make, small_env, small_settings

pytestmark = pytest.mark.spark

REPORT = (
    SPARK
    + """
import gc, json, os, sys, threading, warnings
jvm, context = spark._jvm, spark.sparkContext
system = {str(k): str(v) for k, v in dict(jvm.java.lang.System.getProperties()).items()}
system.pop("jetty.git.hash", None)  # Jetty sets it in the task that loads it first, which may be this one in a new JVM
conf = {k: v for k, v in context.getConf().getAll()
        if not k.startswith(("spark.app.id", "spark.app.startTime", "spark.driver.port", "spark.executor.id"))}
here = os.getcwd()

def private(owner, name, field):
    found = (jvm.java.lang.Class.forName(name) if name else owner.getClass()).getDeclaredField(field)
    found.setAccessible(True)
    return found.get(owner)

report = {
    "database": spark.catalog.currentDatabase(),
    "sql": sorted((row.key, row.value) for row in spark.sql("SET").collect() if row.key in conf or "mine" in row.key),
    "conf": conf,
    "properties": system,
    "log": jvm.org.apache.logging.log4j.LogManager.getRootLogger().getLevel().toString(),
    "logger": jvm.org.apache.logging.log4j.LogManager.getLogger("mine").getLevel().toString(),
    "user": jvm.org.apache.hadoop.security.UserGroupInformation.getCurrentUser().getUserName(),
    "file systems": private(private(None, "org.apache.hadoop.fs.FileSystem", "CACHE"), None, "map").size(),
    "imports": hasattr(jvm, "AtomicInteger") and not isinstance(jvm.AtomicInteger, type(jvm.java)),
    "env": {k: v for k, v in os.environ.items() if k not in ("PYSPARK_GATEWAY_SECRET", "PYSPARK_GATEWAY_PORT")},
    "modules": sorted(name for name in sys.modules if "mine" in name),
    "path": [entry for entry in sys.path if "mine" in entry],
    "umask": os.umask(0o22),
    "python threads": len([t for t in threading.enumerate() if "mine" in t.name]),
}
print(json.dumps(report).replace(here, "HERE").replace(os.path.dirname(sys.argv[0]), "SCRIPT"))
"""
)

MESS = (
    SPARK
    + """
import os, sys, threading, types
jvm, context = spark._jvm, spark.sparkContext
spark.sql("create database mine_base")
spark.sql("use mine_base")
spark.conf.set("spark.sql.shuffle.partitions", "77")
spark.conf.set("mine.option", "1")
jvm.org.apache.hadoop.fs.Path("file:/").getFileSystem(context._jsc.hadoopConfiguration())
jvm.java.lang.System.setProperty("spark.mine", "1")
jvm.java.lang.System.setProperty("mine", "1")
jvm.java.lang.System.clearProperty("spark.master")
jvm.java.lang.System.setProperty("user.timezone", "Asia/Tokyo")
users = jvm.org.apache.hadoop.security.UserGroupInformation
users.setLoginUser(users.createRemoteUser("mine"))
context.setLogLevel("ERROR")
jvm.org.apache.logging.log4j.core.config.Configurator.setLevel("mine", jvm.org.apache.logging.log4j.Level.TRACE)
from py4j.java_gateway import java_import
java_import(jvm, "java.util.concurrent.atomic.AtomicInteger")
os.environ["MINE"] = "1"
sys.modules["mine"] = types.ModuleType("mine")
sys.path.insert(0, "/mine")
os.umask(0)
threading.Thread(target=threading.Event().wait, name="mine", daemon=True).start()
os.mkdir("mine")
os.chdir("mine")
"""
)


def report(bench: Bench) -> Any:
    ran = bench.run(REPORT)
    assert ran.code == 0, ran.text("stderr")
    return json.loads(ran.text("stdout"))


def check_unchanged(first: Any, later: Any, ending: str) -> None:
    for key, value in first.items():
        if isinstance(value, dict):
            names = {*value, *later[key]}
            changed = {k: (value.get(k), later[key].get(k)) for k in names if value.get(k) != later[key].get(k)}
            assert changed == {}, f"{key} after {ending!r}"
        assert later[key] == value, f"{key} after {ending!r}"


def test_the_next_task_starts_afresh_after_any_ending(warm: Bench) -> None:
    warm.hello()
    first = report(warm)
    pid = warm.jvm_pid()

    for ending, code in (
        ("", 0),
        ("spark.stop()", 0),
        ("raise ValueError", 1),
        ("os._exit(7)", 7),
        ("os.kill(os.getpid(), 9)", -9),
    ):
        assert warm.run(MESS + ending).code == code
        check_unchanged(first, report(warm), ending)
    assert warm.jvm_pid() == pid  # it was the same JVM all the time


def test_a_job_that_a_script_leaves_running_is_stopped(warm: Bench) -> None:
    """The JVM is cleaned, or replaced if cleaning takes too long."""
    code = """
import os, threading, time
def work():
    spark.range(0, 10**15, 1, 2).selectExpr("sum(id % 7)").collect()
threading.Thread(target=work).start()
while not spark.sparkContext.statusTracker().getActiveJobsIds():
    time.sleep(0.01)
os._exit(4)
"""
    assert warm.run(SPARK + code).code == 4

    threads = warm.run(JVM + "print(jvm.java.lang.Thread.getAllStackTraces().keySet().toString())")
    assert threads.code == 0, threads.text("stderr")
    assert "main" in threads.text("stdout")
    assert "Executor task launch worker for task" not in threads.text("stdout")


HEAVY = """
import json, os, sys, threading
def heavy():
    return [name for name in ("numpy", "pandas", "pyarrow", "pyspark.testing") if name in sys.modules]
"""


def test_scripts_and_queries_begin_without_numpy_and_pandas(warm: Bench) -> None:
    """Scripts are forked from a host with one thread; they have Spark's modules, and no open files of other tasks."""
    told = warm.run(
        HEAVY
        + """
threads = len(os.listdir(f"/proc/{os.getppid()}/task"))
fds = sorted(os.listdir("/proc/self/fd"))
begun = [heavy(), threads, "pyspark.sql" in sys.modules, threading.active_count(), len(fds)]
"""
        + SPARK
        + """
rows = spark.range(3).where("id > 0").groupBy(F.lit("a")).agg(F.count(F.lit(1))).collect()
made = spark.createDataFrame([(1, "a"), (2, "b")], ["id", "name"]).where("id > 1").collect()
print(json.dumps([begun, len(rows), made, heavy()]))
"""
    ).printed()

    assert told == [[[], 1, True, 1, 4], 1, [[2, "b"]], []]  # the fourth file is that of listdir itself


def test_numpy_and_pandas_work_as_in_plain_python(warm: Bench) -> None:
    told = warm.run(
        SPARK
        + """
import json
import numpy as np
import pandas
print(json.dumps([
    spark.range(1).select(F.lit(np.int16(7)), F.lit(np.array([1.5, 2.5]))).first().asDict(True).popitem()[1],
    spark.createDataFrame(np.array([[1, 2], [3, 4]])).collect(),
    spark.createDataFrame(pandas.DataFrame({"id": [1, 2]})).toPandas().id.tolist(),
    spark.sparkContext.parallelize([1.0, float("nan"), 3.0], 2).stats().count(),
    str(spark.sparkContext.parallelize([1.0, 2.0, 3.0], 2).stats().stdev())[:6],
    isinstance(getattr(F, "np", np).float64(1), np.generic),
]))
"""
    ).printed()

    assert told == [[1.5, 2.5], [[1, 2], [3, 4]], [1, 2], 3, "0.8164", True]


def test_a_script_that_ends_at_once_is_run_once(warm: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for number in range(20):
        code = f"import os\nfile = os.open({str(log)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        assert warm.run(code + f"os.write(file, b'{number}\\n')\nos._exit({number})").code == number

    assert log.read_text().split() == [str(number) for number in range(20)]


def test_objects_that_scripts_held_in_the_jvm_are_released(warm: Bench) -> None:
    count = SPARK + "import gc\nfrom py4j.java_gateway import JavaObject\ngc.collect()\n"
    count += "print(JavaObject('GATEWAY_SERVER', spark.sparkContext._gateway._gateway_client).getGateway()"
    count += ".getBindings().size())"
    warm.run(count)  # the first script of a JVM has more objects
    before = warm.run(count).printed()
    warm.run(SPARK + "kept = [spark.range(n) for n in range(300)]\nimport os\nos._exit(0)")

    assert warm.run(count).printed() <= before  # fewer if garbage was still there before


PROXY = (
    SPARK
    + """
class Comparator:
    def equals(self, other):
        return self is other
    def compare(self, a, b):
        return (a > b) - (a < b)
    class Java:
        implements = ["java.util.Comparator"]
from pyspark.java_gateway import ensure_callback_server_started
gateway = spark.sparkContext._gateway
ensure_callback_server_started(gateway)
values = gateway.jvm.java.util.ArrayList([2, 3, 1])
comparator = Comparator()
holder = gateway.jvm.java.util.PriorityQueue(3, comparator)
for _ in range(3):  # Java forgets the proxies that earlier scripts left, and tells the script that is there now
    gateway.jvm.java.lang.System.gc()
    gateway.jvm.java.lang.System.runFinalization()
for value in values:
    holder.add(value)
print([holder.poll() for _ in values])
"""
)


def test_callbacks_work_after_those_of_earlier_scripts(warm: Bench) -> None:
    for _ in range(3):
        ran = warm.run(PROXY)
        assert ran.text("stdout").split("\n")[0] == "[1, 2, 3]", ran.text("stderr")


HIVE = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.enableHiveSupport().getOrCreate()
spark.range(3).write.saveAsTable("mine")
import os
assert os.path.isdir("metastore_db")
"""
FULL_HEAP = (
    SPARK
    + """
jvm = spark._jvm
kept = jvm.java.util.Collections.synchronizedList(jvm.java.util.ArrayList())
# Held by a class that nobody resets: what a library's static cache would do.
field = jvm.java.lang.Class.forName("org.apache.spark.util.SignalUtils$").getDeclaredField("handlers")
field.setAccessible(True)
handlers = field.get(getattr(getattr(jvm.org.apache.spark.util, "SignalUtils$"), "MODULE$"))
handlers.put("mine", kept)
jvm.java.lang.System.gc()
heap = jvm.java.lang.Runtime.getRuntime()  # of which others' tests have left something
for _ in range(int(heap.maxMemory() * 0.85 - heap.totalMemory() + heap.freeMemory()) // 2**20):
    kept.add(jvm.java.nio.ByteBuffer.allocate(2**20))
"""
)


@pytest.mark.parametrize("code", [HIVE, FULL_HEAP], ids=["has opened Hive's metastore", "has a full heap"])
def test_a_jvm_that_cannot_serve_others_is_replaced(warm: Bench, code: str) -> None:
    pid = warm.jvm_pid()
    ran = warm.run(code)
    assert ran.code == 0, ran.text("stderr")

    assert warm.jvm_pid() != pid
    tables = warm.run(SPARK + "import json\nprint(json.dumps([t.name for t in spark.catalog.listTables()]))")
    assert tables.printed() == []


DELTA = """
from pyspark.sql import SparkSession
spark = (SparkSession.builder.config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .config("spark.databricks.delta.snapshotPartitions", "1").getOrCreate())
field = spark._jvm.java.lang.Class.forName("org.apache.spark.sql.delta.DeltaLog$").getDeclaredField("deltaLogCache")
field.setAccessible(True)
cache = field.get(getattr(getattr(spark._jvm.org.apache.spark.sql.delta, "DeltaLog$"), "MODULE$"))
before = cache.get().size() if cache.isDefined() else 0
spark.range(3).write.format("delta").mode("append").save("table")
print(before, spark.read.format("delta").load("table").count())
"""


def test_deltas_log_cache_is_empty_for_every_task(warm: Bench) -> None:
    first = warm.run(DELTA)
    assert first.text("stdout") == "0 3\n", first.text("stderr")
    pid = warm.jvm_pid()

    assert warm.run(DELTA).text("stdout") == "0 3\n"
    assert warm.jvm_pid() == pid


def test_new_credentials_of_the_function_reach_the_jvm(warm: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    code = JVM + "import json\nprint(json.dumps(jvm.java.lang.System.getenv('AWS_SESSION_TOKEN')))"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "old")
    assert warm.run(code).printed() == "old"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "new")

    assert warm.run(code).printed() == "new"


def test_a_jvm_is_replaced_after_a_number_of_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the runner is closed, it leaves neither a process nor a file."""
    runner = WarmRunner(small_settings(), tmp_path, tasks_per_jvm=2)
    bench = Bench(runner, tmp_path)
    monkeypatch.setenv(MARK, bench.mark)
    try:
        pids = [bench.jvm_pid() for _ in range(3)]
        assert bench.survivors()
    finally:
        runner.close()

    assert pids[0] == pids[1] != pids[2]
    assert bench.survivors() == {}
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("script-")] == []


def test_a_jvm_whose_tasks_are_long_is_replaced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new JVM optimizes more. The first task, which starts Spark, is not counted; a short task resets the count."""
    runner = WarmRunner(small_settings(AWS_LAMBDA_FUNCTION_MEMORY_SIZE="3008", SPARKLET_JAVA_OPTIONS=""), tmp_path)
    bench = Bench(runner, tmp_path)
    options = (
        JVM
        + """
import json
bean = jvm.java.lang.management.ManagementFactory.getRuntimeMXBean()
print(json.dumps([jvm.java.lang.ProcessHandle.current().pid(), *bean.getInputArguments()]))
"""
    )
    jvms = []
    try:
        for long_s in (-1.0, -1.0, 600.0, -1.0, -1.0, -1.0, -1.0, -1.0):
            monkeypatch.setattr(warm_runner, "LONG_S", long_s)
            pid, *words = bench.run(options).printed()
            jvms.append((pid, [word for word in words if "TieredStop" in word]))
    finally:
        runner.close()

    assert jvms[:5] == [jvms[0]] * 5 and jvms[0][1] == ["-XX:TieredStopAtLevel=1"]
    assert jvms[5:] == [jvms[5]] * 3 and jvms[5][1] == ["-XX:TieredStopAtLevel=4"]


def test_options_that_need_a_jvm_of_their_own_take_effect(warm: Bench, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "extra.jar", "w") as jar:
        jar.writestr("told.txt", "from the jar")
    told = warm.run(
        f"# sparklet: spark.driver.extraJavaOptions=-Dmine='a b'\n# sparklet: spark.sql.shuffle.partitions=5\n{SPARK}"
        f"""
import json
OPTIONS = {{"spark.driver.extraClassPath": {str(tmp_path / "extra.jar")!r}}}
jvm = spark._jvm
print(json.dumps([
    jvm.java.lang.System.getProperty("mine"),
    spark.conf.get("spark.sql.shuffle.partitions"),
    jvm.java.lang.ClassLoader.getSystemResource("told.txt") is not None,
]))
"""
    ).printed()

    assert told == ["a b", "5", True]
    warm.settle()


LISTED = (
    SPARK
    + """
from pathlib import Path
secret = spark.conf.get("spark.hadoop.fs.s3a.secret.key")
lines = []
for path in Path("/proc").glob("[0-9]*/cmdline"):
    try:
        lines.append(path.read_bytes().decode(errors="replace"))
    except OSError:
        pass
told = {"all": len(lines), "secret": secret, "seen": [line for line in lines if "hunter" in line]}
told["odd"] = [spark.conf.get(f"spark.odd.{n}") for n in range(4)]
import json
print(json.dumps(told))
"""
)
ODD = ["a \"b\" 'c'", "back\\slash\\", "two\nlines\r\tü", "# no comment, 'quoted\""]


SETTINGS = {
    "spark.hadoop.fs.s3a.secret.key": "hunter2/+=x",
    "spark.big": "x" * 100_000,
    **{f"spark.odd.{n}": value for n, value in enumerate(ODD)},
}


def listed_by_the_image(folder: Path) -> Any:
    """Return what the script LISTED prints under the spark-submit command of the image."""
    (folder / "job.py").write_text(LISTED)
    own = {**small_env(SPARKLET_SPARK_CONF=json.dumps(SETTINGS)), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "sparklet.spark.spark_command", str(folder / "job.py")]
    done = subprocess.run(command, env=os.environ | own, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["warm", "submit", "image"])
def test_no_command_line_shows_the_values_of_settings(kind: str, tmp_path: Path) -> None:
    if kind == "image":
        told = listed_by_the_image(tmp_path)
    else:
        runner = make(kind, tmp_path, SPARKLET_SPARK_CONF=json.dumps(SETTINGS))
        try:
            told = Bench(runner, tmp_path).run(LISTED).printed()
        finally:
            runner.close()

    assert told["secret"] == "hunter2/+=x"
    assert told["seen"] == []
    assert told["all"] > 3
    assert told["odd"] == ODD


KNOCK = (
    SPARK
    + r"""
import json, os, socket, struct
from pathlib import Path

def listeners():
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    ports = {f"socket:[{row[9]}]": int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
    mark, found = f"SPARKLET_HOST={os.environ['SPARKLET_HOST']}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) == os.getpid() or mark in (folder / "environ").read_bytes().split(b"\0"):
                for fd in (folder / "fd").iterdir():
                    if port := ports.get(os.readlink(fd)):
                        found[port] = "java" in (folder / "comm").read_text()
        except OSError:  # it has ended
            continue
    return found

def answer(port, words, last=b""):  # else the end of the connection is the last: any byte can be one of a pid
    answer = b""
    with socket.create_connection(("127.0.0.1", port), 5) as line:
        line.sendall(words)
        try:
            while not (last and last in answer) and (chunk := line.recv(10_000)):
                answer += chunk
        except ConnectionResetError:
            pass
    return answer

def refusal(port, is_java):
    if not is_java:  # 64 bytes are a wrong token for a server of accumulators; for one of workers a length goes first
        said = answer(port, struct.pack(">i", 64) + 64 * b"x")
        return "accumulators" if said == b"" else "workers" if said[4:] == b"\0\0\0\3err" else str(said)
    said = answer(port, b"c\nt\ntoString\ne\n", b"\n")
    if b"Authentication error" in said:
        return "Py4J"
    said = answer(port, struct.pack(">qbqi", 25, 3, 7, 4) + b"abcd", b"SaslMessage")  # a request of Spark's RPC
    return "Spark" if b"Expected SaslMessage" in said else str(said)

spark.sparkContext.accumulator(0)
first = listeners()
told = [refusal(*each) for each in first.items()]
spark.range(3).select(F.udf(lambda x: x)("id")).write.format("noop").mode("append").save()  # no server of results
told += [refusal(port, is_java) for port, is_java in listeners().items() if port not in first]
print(json.dumps(sorted(told)))
"""
)


def test_each_port_of_a_worker_needs_its_secret(bench: Bench) -> None:
    for _ in range(bench.tasks_per_jvm):
        assert bench.run(KNOCK).printed() == ["Py4J", "Spark", "Spark", "accumulators", "workers"]


def test_a_module_left_by_a_script_is_not_imported_by_the_next(bench: Bench) -> None:
    leave = """
import os, sys
from pathlib import Path
places = [Path(os.environ["SPARKLET_HOST"]), Path(os.environ["TMPDIR"]).parent]
for place in places:
    (place / "left_behind.py").write_text("")
"""
    find = (
        SPARK
        + """
import json
from pathlib import Path
Path("beside_the_task.py").write_text("")

def found(name):
    import importlib.util
    return importlib.util.find_spec(name) is not None

names = ["left_behind", "beside_the_task"]
in_a_worker = spark.sparkContext.parallelize(names, 1).map(found).collect()
print(json.dumps([found(names[0]), *in_a_worker]))
"""
    )
    assert bench.run(leave).code == 0

    assert bench.run(find).printed() == [False, False, True]


def test_each_task_sends_the_trace_of_its_own_invocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambda detects loops by the trace; the JVM can be older than the invocation, or than all invocations."""
    script = (
        SPARK
        + """
system = spark._jvm.java.lang.System
print(json.dumps([system.getenv("_X_AMZN_TRACE_ID"), system.getProperty("com.amazonaws.xray.traceHeader")]))
"""
    )
    runner = make("warm", tmp_path)
    bench, seen = Bench(runner, tmp_path), []
    try:
        for trace in ("Root=1-one", "Root=1-two", ""):
            monkeypatch.setenv("_X_AMZN_TRACE_ID", trace)
            seen.append(bench.run(f"import json\n{script}").printed())
    finally:
        runner.close()

    assert seen == [[None, "Root=1-one"], [None, "Root=1-two"], [None, ""]]
