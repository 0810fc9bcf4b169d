"""Every example script that writes files gives the same result under both runners and on a real Spark cluster.

What a script wrote is read back by libraries that know nothing of Spark. On the cluster Python sees no installed
package: pyspark comes from Spark, ``sparklet.job`` from its zip.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from spark_scripts.demo.flights_data import find_original
from spark_scripts.demo.standalone_cluster import HOME, standalone_cluster
from sparklet.job.bundle import write_bundle
from sparklet.spark.runner import Runner, ScriptCall
from sparklet.spark.task_limits import Deadline, task_folder
from tests.aggregated import AWS_MADE, AWS_MADE_OF
from tests.functional.job.conftest import FORMATS
from tests.functional.job.judged import figures_of, shards_of
from tests.functional.job.kinesis import Stream
from tests.functional.job.readers import Rows, delta, hudi, iceberg, parquet
from tests.functional.job.refusing_s3 import refusing_s3
from tests.functional.job.warm_jvm import SCRIPTS
from tests.functional.worker.conftest import Bench, make
from tests.stand_ins.ministack import ministack
from tests.waiting import deadline_s

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.slow]

PEOPLE: Rows = [("1", "Ada", "1815"), ("2", "Émilie", "1706"), ("3", None, "1906")]
APPEND, KNOCK, EVERY = map(Path(__file__).with_name, ("append_and_read.py", "knock.py", "every_script.py"))
TABLE_SCRIPTS = Path(__file__).parents[1] / "tables" / "test_table_scripts.py"
OF_TABLES = set(re.findall(r'"(\w+\.py)"', TABLE_SCRIPTS.read_text()))
OF_TABLES.add("stream_windows.py")  # test_stream_tables.py
"""Scripts that are tested there: outside of runs they need libraries, which the cluster's Python has not."""
TEXTS = {"1.txt": "über die brücke über den fluss\n\n", "2.txt": "die zahl 42"}


@dataclass
class UnderRunner:
    """A worker's runner."""

    name: str
    runner: Runner
    scratch: Path

    def run(self, script: str, args: Sequence[object]) -> str:
        """Run a script to its good end; what it printed."""
        lines: list[tuple[str, bytes]] = []
        with task_folder(self.scratch, uuid.uuid4().hex[:12]) as folder:
            call = ScriptCall(SCRIPTS / script, tuple(map(str, args)), folder, Deadline.within(deadline_s(100)))
            result = self.runner.run(call, lambda stream, line: lines.append((stream, line)))
        assert result.exit_code == 0, f"{self.name}: {result.stderr_tail}"
        return b"".join(line for stream, line in lines if stream == "stdout").decode()


@pytest.fixture(scope="module")
def class_path(jars: list[Path]) -> str:
    return os.pathsep.join(map(str, jars))


@pytest.fixture(scope="module")
def warm(warm: Bench) -> UnderRunner:
    return UnderRunner("warm", warm.runner, warm.scratch)


# Under the other runner and on the cluster: all scripts in one application, there as docs/guide/elsewhere.md says


@dataclass
class Application:
    """What the scripts wrote in it."""

    folder: Path
    printed: str
    workers: Sequence[str] = ()  # their logs, of a cluster


def plan_in(folder: Path, arguments: Callable[[str, Path], list[str]]) -> Path:
    """Every script with its arguments. hello ends its session, and with it the application: it comes last."""
    names = sorted({path.name for path in SCRIPTS.glob("*.py")} - OF_TABLES, key=lambda name: name == "hello.py")
    plan = folder / 'it\'s "the" $(plan).json'
    plan.write_text(json.dumps([[str(SCRIPTS / name), arguments(name, output_of(folder, name))] for name in names]))
    return plan


@pytest.fixture(scope="module")
def under_submit(
    on_cluster: Application,
    arguments: Callable[[str, Path], list[str]],
    class_path: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Application:
    folder = tmp_path_factory.mktemp("under_submit")
    conf = {"spark.databricks.delta.snapshotPartitions": "2"}  # of 50, for tables of three rows
    runner = make("submit", folder, SPARKLET_JARS=class_path, SPARKLET_SPARK_CONF=json.dumps(conf))
    return Application(folder, UnderRunner("submit", runner, folder).run(str(EVERY), [plan_in(folder, arguments)]))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory, delivery: Path) -> Callable[[str, Path], list[str]]:
    """Script and output → its arguments."""
    folder = tmp_path_factory.mktemp('it\'s "one" folder')
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    people, day = folder / "people; $(rm).csv", folder / "2013-01-01.csv"
    people.write_text("id,name,born\n1,Ada,1815\n2,Émilie,1706\n3,,1906\n", encoding="utf-8")
    original = find_original()
    with zipfile.ZipFile(original / "flights.csv.zip") as archive:
        header, *lines = archive.read("flights.csv").splitlines(keepends=True)
    day.write_bytes(b"".join([header, *(line for line in lines if line.startswith(b"2013,1,1,"))]))
    inputs = {
        "wordcount.py": folder / "*.txt",
        "flights_daily.py": day,
        "compact.py": folder / "written" / "*" / "*.parquet",
        "check_output.py": figures_of(folder, shards_of(folder / "written", "(1, 'Ada')", "(2, NULL)"), rows=2),
    }
    params = {
        "csv_to_parquet.py": ["schema=id INT, name STRING, born INT"],
        "flights_daily.py": [f"{name}={original / name}.csv" for name in ("airlines", "planes")],
        "check_output.py": ["least_rows=2", "required=id", "unique=id,name"],
    }

    def of(script: str, output: Path) -> list[str]:
        given = [word for param in params.get(script, []) for word in ("--param", param)]
        if script.startswith("stream_"):
            return ["--event", f"@{delivery}", "--output", str(output), "--table", f"parquet:{output}", *given]
        return ["--input", str(inputs.get(script, people)), "--output", str(output), *given]

    return of


@pytest.fixture(scope="module")
def on_cluster(
    arguments: Callable[[str, Path], list[str]], class_path: str, tmp_path_factory: pytest.TempPathFactory
) -> Application:
    """Every script done; its Python sees no installed package."""
    folder = tmp_path_factory.mktemp("on_cluster")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    (folder / "spark-defaults.conf").write_text(
        f"spark.driver.extraClassPath {class_path}\nspark.executor.extraClassPath {class_path}\n"
        "spark.driver.extraJavaOptions -XX:+UseSerialGC -XX:TieredStopAtLevel=1\n"
        "spark.executor.extraJavaOptions -XX:+UseSerialGC -XX:TieredStopAtLevel=1\n"
        "spark.driver.host 127.0.0.1\nspark.ui.enabled false\nspark.sql.shuffle.partitions 2\n"
        "spark.databricks.delta.snapshotPartitions 2\n"
    )
    environment = {**os.environ, "PYSPARK_PYTHON": str(python), "SPARK_CONF_DIR": str(folder), "SPARK_HOME": str(HOME)}
    environment["TZ"] = "Asia/Tokyo"  # a script's times are the session's, not the machine's
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    write_bundle(folder / "sparklet-job.zip")
    job = ["--py-files", "sparklet-job.zip", str(EVERY), str(plan_in(folder, arguments))]
    logs = tmp_path_factory.mktemp("cluster")
    with standalone_cluster(logs) as master:
        printed = in_a_shell(shlex.join(["spark-submit", "--master", master, *job]), folder, environment)
    return Application(folder, printed, [log.read_text() for log in logs.glob("worker-*.log")])


def in_a_shell(line: str, folder: Path, environment: dict[str, str]) -> str:
    """What a command line prints; nothing it started is left, however it ends."""
    pipe = subprocess.PIPE
    shell = subprocess.Popen(
        line, shell=True, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    try:
        printed, errors = shell.communicate(timeout=deadline_s(100))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, errors
    return printed


def output_of(folder: Path, script: str) -> Path:
    """Iceberg's scripts share a catalog, as in one application they must."""
    return folder / ("catalog" if "iceberg" in script else script.removesuffix(".py"))


@pytest.fixture(params=["warm", pytest.param("everywhere", marks=pytest.mark.nightly)])
def places(
    warm: UnderRunner,
    arguments: Callable[[str, Path], list[str]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> dict[str, Path]:
    """The test's script under the warm runner, and at night in the other places, too: where each wrote."""
    script = request.function.__name__.removeprefix("test_") + ".py"
    folders = {"warm": tmp_path}
    if request.param == "everywhere":
        others = {place: request.getfixturevalue(place) for place in ("on_cluster", "under_submit")}
        folders |= {place: application.folder for place, application in others.items()}
    outputs = {place: output_of(folder, script) for place, folder in folders.items()}
    warm.run(script, arguments(script, outputs["warm"]))
    return outputs


@pytest.mark.nightly
def test_both_workers_of_the_cluster_took_part(on_cluster: Application) -> None:
    assert len(on_cluster.workers) == 2
    assert all("Asked to launch executor" in log for log in on_cluster.workers)


# Scripts over files


SAID = ": 1000 rows counted\n"


def test_hello(warm: UnderRunner) -> None:
    assert warm.run("hello.py", []).endswith(SAID)


@pytest.mark.nightly
def test_hello_ends_an_application(under_submit: Application, on_cluster: Application) -> None:
    assert under_submit.printed.endswith(SAID) and on_cluster.printed.endswith(SAID)


def test_wordcount(places: dict[str, Path]) -> None:
    for place, output in places.items():
        assert dict(parquet(output)) == Counter(" ".join(TEXTS.values()).split()), place


def test_csv_to_parquet(places: dict[str, Path]) -> None:
    for place, output in places.items():
        assert parquet(output) == [(1, "Ada", 1815), (2, "Émilie", 1706), (3, None, 1906)], place


def test_compact(places: dict[str, Path]) -> None:
    for place, output in places.items():
        assert parquet(output) == [(1, "Ada"), (2, None)], place
        assert len(list(output.glob("*.parquet"))) == 1, place


def test_check_output(places: dict[str, Path]) -> None:
    """It judged well everywhere, else it had failed there; and it wrote nothing."""
    assert [place for place, output in places.items() if output.exists()] == []


def test_flights_daily(places: dict[str, Path], arguments: Callable[[str, Path], list[str]]) -> None:
    tables = [pq.read_table(output) for output in places.values()]
    rows = [table.sort_by([(name, "ascending") for name in table.column_names]) for table in tables]

    assert all(each.equals(rows[0]) for each in rows)
    day = arguments("flights_daily.py", Path())[1]
    columns = "year, month, day, dep_time, arr_delay, carrier, flight, tailnum, origin, dest, distance"
    query = f"SELECT {columns} FROM {{}} ORDER BY ALL"
    given = duckdb.execute(query.format("read_csv(?, nullstr='NA')"), [day]).fetchall()
    assert duckdb.execute(query.format("read_parquet(?)"), [f"{places['warm']}/*.parquet"]).fetchall() == given
    assert len(given) == 842


# What a kept JVM remembers of tables: nothing that the next task could mistake for what is there

READERS = {"delta": (delta, "delta"), "iceberg": (iceberg, "lake/tags"), "hudi": (hudi, "hudi")}
NAMED = ["--param", f"formats={','.join(FORMATS)}"]


def test_a_task_sees_new_tables_despite_the_jvms_cache(warm: UnderRunner, tmp_path: Path) -> None:
    lake, one, two = tmp_path / "lake", tmp_path / "one", tmp_path / "two"

    def seen_after(tag: str) -> dict[str, str]:
        """What a task that appends one row to each table reads in them, and what others read."""
        said = warm.run(str(APPEND), ["--output", lake, "--param", f"tag={tag}", *NAMED])
        told = json.loads(said.splitlines()[-1])  # Hudi, too, says something in a JVM's first task
        readers = {name: READERS[name] for name in FORMATS}.items()
        assert told == {name: "".join(tag for (tag,) in read(lake / place, "tag")) for name, (read, place) in readers}
        return dict(told)

    def put(state: Path) -> None:
        shutil.rmtree(lake)
        shutil.copytree(state, lake)

    assert seen_after("a") == dict.fromkeys(FORMATS, "a")
    shutil.copytree(lake, one)
    assert seen_after("b") == dict.fromkeys(FORMATS, "ab")
    shutil.copytree(lake, two)
    put(one)  # fewer commits than the JVM has seen, as where a table was dropped and made anew
    assert seen_after("c") == dict.fromkeys(FORMATS, "ac")
    put(two)  # as many, and not those: another writer's
    write_deltalake(str(lake / "delta"), pa.table({"tag": ["d"]}), mode="append")
    assert seen_after("e") == {**dict.fromkeys(FORMATS, "abe"), "delta": "abde"}


def test_table_requests_use_the_tasks_own_credentials(warm: UnderRunner) -> None:
    with refusing_s3() as (endpoint, signers):
        for key in ("FIRST", "SECOND"):
            signers.clear()
            said = warm.run(str(KNOCK), ["--output", "s3a://bucket", "--param", f"key={key}", *NAMED, endpoint])
            assert json.loads(said.splitlines()[-1]) == FORMATS
            assert set(signers) == {key}


# A stream's script. Its records are opened by the cluster's own Python workers, with the zip alone.

ROWS: Rows = [(*json.loads(data).values(), None) for _, data in AWS_MADE_OF]


@pytest.fixture(scope="module")
def delivery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Lambda would deliver of a stream of the stand-in's Kinesis."""
    folder = tmp_path_factory.mktemp("delivery")
    with ministack(folder) as endpoint:
        stream = Stream(endpoint)
        stream.put([("q", AWS_MADE)])
        (folder / "event.json").write_text(json.dumps(stream.event()))
    return folder / "event.json"


@pytest.mark.stack
def test_stream_to_table(places: dict[str, Path]) -> None:
    """Into files alone, for which no Python needs a library; into tables: ``test_stream_tables.py``."""
    for place, output in places.items():
        (folder,) = output.glob("shard=*")
        assert parquet(folder) == sorted(ROWS), place


def test_no_script_is_forgotten() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}

    assert {script.name for script in SCRIPTS.glob("*.py")} <= OF_TABLES | {f"{name}.py" for name in tested}
