"""What a script finds in the image under Lambda's conditions: its user, its rights, its network, its Java classes."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.spark.java_classes import FOR_ALL, SOURCES
from tests.container.account import EXAMPLES, Account
from tests.container.built_image import BuiltImage
from tests.container.cell import Cell
from tests.container.container import SCRATCH_MB, Conditions, Container, running

PROBE = Path(__file__).with_name("probe.py")
NOBODYS = "4242:4242"  # a user without a line in the image's passwd
LOADED = "/tmp/loaded.log"

# Answers with the source from which a JVM in its first task has loaded each of the worker's own Java classes.
OWN_JAVA = f"""
import zipfile
from pathlib import Path
from sparklet.job import Job
from sparklet.spark.java_classes import are_ahead, mark
job = Job.from_args()
spark = job.spark()
[jar] = Path("/opt/sparklet/jars").glob("sparklet-java-*.jar")
held = {{name.removesuffix(".class").replace("/", ".") for name in zipfile.ZipFile(jar).namelist()}} - {{mark()}}
for name in held:
    if name.rpartition(".")[2] in {FOR_ALL}:
        spark._jvm.java.lang.Class.forName(name)
lines = [line.split(" source: ") for line in Path("{LOADED}").read_text().splitlines()]
sources = {{name: source for name, source in filter(lambda pair: len(pair) == 2, lines) if name in held}}
job.answer({{"ahead": are_ahead(spark._jvm), "jar": jar.stem == mark(), "sources": sources}})
job.report(rows=spark.range(10).count())
"""


WIDE = """
from sparklet.job import Job
job = Job.from_args()
spark = job.spark()
parts = spark.sparkContext.defaultParallelism
job.answer([parts, spark.range(0, 40_000 * parts, 1, parts).repartition(200).count()])
job.report(rows=1)
"""


@pytest.fixture(scope="module")
def neighbour(cell: Cell) -> Iterator[int]:
    """A port of this machine, outside the cell, on which a socket listens."""
    with cell.left():
        listening = socket.create_server(("0.0.0.0", 0))
    with listening:
        yield int(listening.getsockname()[1])


def probed(account: Account, function: Container, neighbour: int) -> Any:
    return function.succeeds(account.event_for(PROBE, params={"neighbour": str(neighbour)}))["answer"]


@pytest.fixture(scope="module")
def facts(account: Account, function: Container, neighbour: int) -> Any:
    """The probe's answer in the container's first task."""
    return probed(account, function, neighbour)


def test_a_script_runs_as_lambdas_user_without_any_right(facts: Any) -> None:
    assert facts["ids"] == [993, 990]
    assert (facts["user"], facts["hadoop_user"], facts["home"]) == ("sparklet", "sparklet", "/tmp")
    assert (facts["capabilities"], facts["no_new_privileges"]) == (0, "1")
    assert facts["open_files"] == [1024, 1024]


def test_only_tmp_can_be_written_to(facts: Any) -> None:
    assert facts["writable"] == ["/tmp"]
    assert facts["scratch_mb"] == SCRATCH_MB
    assert facts["lock"].startswith(("OSError", "PermissionError", "FileNotFoundError"))  # /dev/shm is read-only


def test_only_the_stand_in_can_be_reached(facts: Any, cell: Cell, neighbour: int) -> None:
    assert facts["stand_in"] == "200"
    assert facts["interfaces"] == ["lo"]
    assert "Network is unreachable" in facts["internet"]
    assert facts["name"].startswith("gaierror")
    assert facts["neighbour"].startswith("ConnectionRefusedError")
    with cell.left():  # outside the cell the port can be reached
        socket.create_connection(("127.0.0.1", neighbour), timeout=5).close()


def test_the_workers_java_is_compiled_and_in_the_class_archive(
    image: BuiltImage, cell: Cell, account: Account, conditions: Conditions
) -> None:
    env = {**account.env, **conditions.env, "SPARKLET_JAVA_OPTIONS": f"-Xlog:class+load:file={LOADED}:none:filesize=0"}
    with running(image, cell, replace(conditions, env=env)) as function:
        found = function.succeeds(account.event_for(OWN_JAVA))["answer"]

    assert (found["ahead"], found["jar"]) == (True, True)
    assert set(SOURCES) <= {name.rpartition(".")[2] for name in found["sources"]}
    assert set(found["sources"].values()) == {"shared objects file"}, found["sources"]


def test_six_cores_shuffle_within_lambdas_open_files(
    image: BuiltImage, cell: Cell, account: Account, conditions: Conditions
) -> None:
    """A function of 10,240 MB has six cores, but the same limit of open files as any other."""
    env = {**account.env, **conditions.env, "SPARKLET_CORES": "6"}
    with running(image, cell, replace(conditions, env=env)) as function:
        assert function.succeeds(account.event_for(WIDE))["answer"] == [6, 240_000]


def test_a_user_missing_from_passwd_can_run_the_image(
    image: BuiltImage, cell: Cell, account: Account, conditions: Conditions, neighbour: int
) -> None:
    env = {**account.env, **conditions.env}
    with running(image, cell, replace(conditions, user=NOBODYS, env=env)) as function:
        facts = probed(account, function, neighbour)
        function.succeeds(account.event_for("# sparklet: runner=submit\n" + (EXAMPLES / "hello.py").read_text()))

    assert facts["ids"] == [4242, 4242]
    assert facts["user"].startswith("KeyError")
