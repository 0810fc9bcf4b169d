"""A SparkContext that is kept after a task shows nothing of this task to the next, and is replaced where needed."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyspark
import pytest

from sparklet.local.jars import ensure_jars
from sparklet.local.java import find_java
from sparklet.local.prepared_jars import compiled_jar
from sparklet.local.spark_installation import jar_cache
from sparklet.settings import spark_settings
from sparklet.spark.spark_options import spark_home
from sparklet.spark.warm_runner import WarmRunner
from tests.functional.worker.conftest import SPARK, STACK, Bench, local_jars, make, small_settings
from tests.functional.worker.worker_process import stand_in

pytestmark = pytest.mark.spark

KEPT = """
import json
jvm = spark._jvm.java.lang.ProcessHandle.current().pid()  # a context in another JVM can have the same hash
kept = [jvm, spark.sparkContext._jsc.sc().hashCode()]
problem = spark.sparkContext._gateway.entry_point.problem()
"""
PRINT_CONTEXT = KEPT + "print(json.dumps([kept, problem]))"


@pytest.fixture
def kept(warm: Bench) -> Bench:
    """The warm runner after the first task of its JVM, whose context is never kept."""
    warm.run("pass")
    return warm


def context(bench: Bench, code: str = SPARK) -> Any:
    """Return the id of the context that a script gets, and why the last context was not kept, or "" if it was."""
    return bench.run(code + PRINT_CONTEXT).printed()


VIEW = "spark.range(3).createOrReplaceTempView('mine')"
LASTING = f"""
{VIEW}
spark.range(3).createOrReplaceGlobalTempView('mine')
spark.sql('create database mine')
spark.range(3).write.saveAsTable('mine.mine')
spark.udf.register('mine', lambda x: x)
spark.sql('select mine(1)').collect()
spark.range(300).cache().count()
spark.sparkContext.parallelize([1, 2]).persist().count()
from pyspark import StorageLevel
spark.range(300).repartition(5).persist(StorageLevel.DISK_ONLY).count()
kept = spark.sparkContext.broadcast(list(range(9999)))
spark.sparkContext.parallelize([1, 2]).map(lambda x: len(kept.value)).collect()
total = spark.sparkContext.accumulator(0)
spark.sparkContext.parallelize([1, 2]).foreach(total.add)
assert total.value == 3
spark.conf.set('spark.sql.shuffle.partitions', '77')
spark.conf.set('mine', '1')
spark.sparkContext._conf.set('spark.sql.mine', '1')
spark.sparkContext._jsc.hadoopConfiguration().set('fs.s3a.secret.key', 'mine')
spark.sparkContext.setJobGroup('mine', 'mine')
spark.sparkContext.setLocalProperty('mine', '1')
spark.sparkContext.setCheckpointDir('mine')
spark.range(9).crossJoin(F.broadcast(spark.range(3))).count()
"""
LATE_JOB_END = '''
import time
compiler = spark._jvm.org.codehaus.janino.SimpleCompiler()
compiler.setParentClassLoader(spark._jvm.java.lang.Thread.currentThread().getContextClassLoader())
compiler.cook("""
import scala.concurrent.ExecutionContext;
public class Slow extends scala.runtime.AbstractFunction1 implements ExecutionContext {
    public Object apply(Object end) {
        try { Thread.sleep(500); } catch (InterruptedException error) { }
        return end;
    }
    public void execute(Runnable callback) { callback.run(); }
    public void reportFailure(Throwable error) { }
    public ExecutionContext prepare() { return this; }
}""")
slow = compiler.getClassLoader().loadClass("Slow").newInstance()
failing = spark.sparkContext.parallelize([1], 1).map(lambda x: 1 / 0)._jrdd
count = spark._jvm.org.apache.spark.rdd.RDD.rddToAsyncRDDActions(failing.rdd(), failing.classTag()).countAsync()
count.onComplete(slow, slow)  # in the scheduler's thread, before it tells the listeners
while not count.isCompleted():
    time.sleep(0.01)
'''

TRACES = {  # and the script's exit code
    LASTING: 0,
    "other = spark.newSession()\nother.range(3).createOrReplaceTempView('mine')\n"
    "other.conf.set('mine', '1')\nother.table('mine').cache().count()": 0,
    "spark.range(3).cache().count()\nspark.stop()": 0,
    "spark.range(3).select(F.udf(lambda x: 1 / 0)('id')).collect()": 1,
    f"{VIEW}\nspark.range(300).cache().count()\nimport os\nos._exit(3)": 3,
}

LOOK = (
    SPARK
    + KEPT
    + """
import os
context, jvm = spark.sparkContext, spark._jvm
scala = context._jsc.sc()
env = scala.env()
before = {  # its own queries
    "rdds": len(context._jsc.getPersistentRDDs()), "blocks": env.blockManager().blockInfoManager().size(),
    "storage": env.memoryManager().storageMemoryUsed(),
    "shuffles": env.mapOutputTracker().shuffleStatuses().size(),
    "jobs": [job for group in (None, "mine") for job in context.statusTracker().getJobIdsForGroup(group)],
    "files": [name for _, _, files in os.walk(scala.env().blockManager().diskBlockManager().localDirs()[0].getPath())
        for name in files],
}
print(json.dumps({
    "kept": kept, "problem": problem,
    "views": [table.name for table in spark.catalog.listTables()],
    "global": spark.sql("show tables in global_temp").count(),
    "databases": [base.name for base in spark.catalog.listDatabases()],
    "functions": [f.name for f in spark.catalog.listFunctions() if "mine" in f.name],
    "cached": spark._jsparkSession.sharedState().cacheManager().isEmpty(),
    "before": before,
    "partitions": spark.conf.get("spark.sql.shuffle.partitions"),
    "mine": [spark.conf.get(key, None) for key in ("mine", "spark.sql.mine")],
    "hadoop": context._jsc.hadoopConfiguration().get("fs.s3a.secret.key"),
    "group": [context.getLocalProperty(key) for key in ("spark.jobGroup.id", "mine")],
    "checkpoints": scala.checkpointDir().isDefined(),
    "listeners": scala.listenerBus().listeners().size(),
    "id": scala.applicationId(),
}))
"""
)


def test_a_kept_context_shows_nothing_of_the_task_before(kept: Bench) -> None:
    before = kept.run(LOOK).printed()
    for trace, exit_code in TRACES.items():
        ran = kept.run(SPARK + trace)
        assert ran.code == exit_code, ran.text("stderr")
        after = kept.run(LOOK).printed()

        empty = {"rdds": 0, "blocks": 0, "storage": 0, "shuffles": 0, "jobs": [], "files": []}
        assert after["before"] == empty, trace
        assert after["id"] != before["id"], "files that a script names after the id must not be overwritten"
        assert after == {**before, "problem": "", "id": after["id"]}, trace  # also with the same context
        before = after


def test_a_late_end_of_a_failed_job_does_not_reach_the_next_task(kept: Bench) -> None:
    before = kept.run(LOOK).printed()
    ran = kept.run(SPARK + LATE_JOB_END)
    assert ran.code == 0, ran.text("stderr")

    for _ in range(2):  # the end of the job could be reported during the first task
        after = kept.run(LOOK).printed()
        assert after == {**before, "problem": "", "id": after["id"]}


ANOTHER = {
    "static configuration": SPARK.replace("builder.", "builder.config('spark.ui.showConsoleProgress', 'true')."),
    "master": "from pyspark import SparkContext\nfrom pyspark.sql import SparkSession\n"
    "spark = SparkSession(SparkContext('local[1]', 'mine'))\nassert spark.sparkContext.defaultParallelism == 1\n",
}


@pytest.mark.parametrize("change", ANOTHER)
def test_another_static_configuration_gets_another_context(kept: Bench, change: str) -> None:
    first = context(kept)[0]
    other = context(kept, ANOTHER[change])[0]
    again = context(kept, ANOTHER[change])

    assert other != first
    assert again == [other, ""]  # the new context is kept
    assert context(kept)[0] not in (first, other)


NOT_KEPT = {
    "a file for all": ("open('mine', 'w').close()\nspark.sparkContext.addFile('mine')", "files were added"),
    "a stop in the JVM": ("spark.sparkContext._jsc.stop()", "the script stopped it"),
    "a signal": ("import os\nos.kill(os.getpid(), 9)", "it had to be stopped"),
    "a stream": (
        "query = spark.readStream.format('rate').load().groupBy().count().writeStream.format('noop')"
        ".outputMode('complete').start()\nquery.processAllAvailable()\nquery.stop()",
        "it has got endpoints, as streams need",
    ),
    "a job": (
        "import os, threading, time\n"
        "threading.Thread(target=lambda: spark.range(0, 10**15, 1, 2).selectExpr('sum(id % 7)').collect()).start()\n"
        "while not spark.sparkContext.statusTracker().getActiveJobsIds():\n    time.sleep(0.01)\nos._exit(4)",
        "it had to be stopped",
    ),
}


@pytest.mark.parametrize("use", NOT_KEPT)
def test_a_context_that_cannot_be_proven_clean_is_not_kept(kept: Bench, use: str) -> None:
    code, problem = NOT_KEPT[use]
    first = context(kept)[0]
    kept.run(SPARK + code)

    later, why = context(kept)
    assert later != first
    assert why == problem


def test_a_script_that_restarts_its_context_gets_a_clean_one(kept: Bench) -> None:
    code = (
        SPARK.replace("builder.", "builder.config('mine', '1').")
        + """
import json
spark.range(3).createOrReplaceTempView("mine")
spark.range(3).cache().count()
spark.stop()
assert spark.sparkContext._jsc is None
later = SparkSession.builder.getOrCreate()
print(json.dumps([later.conf.get("mine", None), [t.name for t in later.catalog.listTables()],
    later.sparkContext.getConf().get("mine"), later.range(5).count(),
    len(later.sparkContext._jsc.getPersistentRDDs())]))
later.stop()
later.stop()
"""
    )
    first = context(kept)[0]

    assert kept.run(code).printed() == [None, [], None, 5, 0]
    assert context(kept) == [first, ""]


def test_each_task_gets_the_configuration_it_requests(kept: Bench) -> None:
    ask = """
import json, os
from pyspark.sql import SparkSession
spark = (SparkSession.builder.appName("named").config("spark.sql.shuffle.partitions", "7").config("mine", "1")
    .config("spark.hadoop.fs.s3a.access.key", "mine").config("spark.executorEnv.MINE", "1")
    .config("spark.sql.warehouse.dir", "here").getOrCreate())
conf, hadoop = spark.sparkContext.getConf(), spark._jsc.hadoopConfiguration()
in_a_worker = spark.sparkContext.parallelize([0], 1).map(lambda _: [os.environ["MINE"], os.getcwd()]).first()
print(json.dumps([spark.sparkContext.appName, spark.conf.get("spark.sql.shuffle.partitions"), conf.get("mine"),
    hadoop.get("fs.s3a.access.key"), in_a_worker == ["1", os.getcwd()],
    spark.conf.get("spark.sql.warehouse.dir")[-5:]]))
"""
    first = context(kept)[0]

    assert kept.run(ask).printed() == ["named", "7", "1", "mine", True, "/here"]
    assert context(kept) == [first, ""]


def test_a_task_gets_complete_configurations(kept: Bench) -> None:
    """Spark's configuration comes in one call, and Hadoop's from a copy that has read its files before."""
    code = """
import json
from pyspark import SparkConf
conf = spark.sparkContext._conf
java = spark.sparkContext._jsc.sc().conf().getAll()
assert sorted(conf.getAll()) == sorted((each._1(), each._2()) for each in java), conf.getAll()
assert SparkConf(loadDefaults=False).set("only.mine", "a\\nb").getAll() == [("only.mine", "a\\nb")]
hadoop = spark.sparkContext._jsc.hadoopConfiguration()
there = dict(spark._jvm.org.apache.hadoop.conf.Configuration().getValByRegex('.'))
print(json.dumps([len(there), [key for key in there if hadoop.get(key) is None]]))
"""
    first, second = (kept.run(SPARK + code).printed() for _ in range(2))

    assert first == second
    assert first[0] > 900 and first[1] == []


def test_an_ahead_of_time_compiled_java_keeps_the_first_context(tmp_path: Path) -> None:
    spark_jars = spark_home(spark_settings({})) / "jars"
    jars = [spark_jars, *ensure_jars(STACK, jar_cache(), ["s3a"], progress=print)]
    jar = compiled_jar(find_java(), jars, tmp_path / "compiled")
    assert compiled_jar(find_java(), jars, tmp_path / "compiled") == jar
    runner = make("warm", tmp_path, SPARKLET_JARS=str(jar))
    bench = Bench(runner, tmp_path)
    try:
        first, problem = context(bench, f"{SPARK}{VIEW}\n")
        assert problem == ""
        assert context(bench) == [first, ""]
        assert bench.run(SPARK + "import json\nprint(json.dumps(len(spark.catalog.listTables())))").printed() == 0
    finally:
        runner.close()


@pytest.mark.parametrize("line", ["", "9.9"], ids=["switched off", "an unknown Spark"])
def test_no_context_is_kept_if_switched_off_or_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    if line:
        monkeypatch.setattr("sparklet.job.spark_lines.SCALA", {line: "4.0"})
    runner = WarmRunner(small_settings(), tmp_path, keep_context=bool(line))
    bench = Bench(runner, tmp_path)
    try:
        bench.run("pass")  # the context of a JVM's first task is never kept
        code = SPARK + "import json\nprint(json.dumps(spark.sparkContext._jsc.sc().hashCode()))"
        assert len({bench.run(code).printed() for _ in range(2)}) == 2
        assert (f"Spark {pyspark.__version__} is unknown" in caplog.text) is bool(line)
    finally:
        runner.close()


QUICK_TO_FAIL = {"spark.hadoop.fs.s3a.attempts.maximum": "1", "spark.hadoop.fs.s3a.retry.limit": "1"}


@pytest.fixture(scope="module")
def on_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A runner whose scripts have S3A and Hudi; a bucket has a file to read."""
    with stand_in(tmp_path_factory.mktemp("stand-in")) as (endpoint, clients):
        clients.s3.create_bucket(Bucket="data")
        clients.s3.put_object(Bucket="data", Key="in.txt", Body=b"the worker's")
        scratch = tmp_path_factory.mktemp("s3")
        runner = make(
            "warm",
            scratch,
            SPARKLET_SPARK_CONF=json.dumps(QUICK_TO_FAIL),
            AWS_ENDPOINT_URL=endpoint,
            AWS_REGION="us-east-1",
            **local_jars(),
        )
        yield Bench(runner, scratch)
        runner.close()


READ = SPARK + "import sys\n{}\nprint(spark.read.text('s3a://data/in.txt').first()[0])"
OWN = {
    "configuration of the context": "spark._jsc.hadoopConfiguration().set('fs.s3a.endpoint', sys.argv[1])",
    "configuration of the session": "spark.conf.set('fs.s3a.endpoint', sys.argv[1])",
    "configuration of the bucket": "spark.conf.set('fs.s3a.bucket.data.endpoint', sys.argv[1])",
}


def test_a_scripts_own_s3_setup_does_not_reach_the_next_task(on_s3: Bench, refusing: str) -> None:
    assert on_s3.run(READ.format("")).text("stdout") == "the worker's\n"

    for setup, code in OWN.items():
        refused = on_s3.run(READ.format(code), [f"http://{refusing}"])
        assert refused.code != 0, setup
        assert f"Connect to {refusing}" in refused.text("stderr"), setup
        assert on_s3.run(READ.format("")).text("stdout") == "the worker's\n", setup


def connections_to(port: int, pid: int) -> int:
    """Count the connections of a process to a port, with those that the other side has closed."""
    import psutil  # imported here since the script gets only the source of this function

    return sum(bool(each.raddr) and each.raddr.port == port for each in psutil.Process(pid).net_connections("tcp"))


def test_no_s3_connection_stays_open_between_tasks(on_s3: Bench) -> None:
    count_connections = """
import json
pid = spark._jvm.java.lang.ProcessHandle.current().pid()
port = int(spark._jsc.hadoopConfiguration().get("fs.s3a.endpoint").rpartition(":")[2])
print(json.dumps([pid, port, connections_to(port, pid)]))
"""
    pid, port, in_the_task = on_s3.run(
        READ.format("") + "\n" + inspect.getsource(connections_to) + count_connections
    ).printed()

    assert in_the_task > 0
    assert connections_to(port, pid) == 0


HUDI_DEFAULTS = """
import json
defaults = spark._jvm.org.apache.hudi.common.config.DFSPropertiesConfiguration
{}
print(json.dumps(dict(defaults.getGlobalProps())))
"""


@pytest.mark.hudi
def test_the_hudi_defaults_of_a_script_end_with_the_script(on_s3: Bench) -> None:
    look = SPARK + HUDI_DEFAULTS
    before = on_s3.run(look.format("")).printed()
    assert before["hoodie.embed.timeline.server"] == "false", "the worker's own"
    assert before["hoodie.write.lock.provider"].endswith(".HudiLock")

    added = on_s3.run(look.format("defaults.addToGlobalProps('hoodie.table.name', 'mine')")).printed()
    assert added == {**before, "hoodie.table.name": "mine"}
    assert on_s3.run(look.format("")).printed() == before

    assert on_s3.run(look.format("defaults.clearGlobalProps()")).printed() == {}
    assert on_s3.run(look.format("")).printed() == before
