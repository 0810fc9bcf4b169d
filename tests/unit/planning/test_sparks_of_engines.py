"""A script that asks for a line of Spark runs on no other; who does not ask is told of a difference."""

from dataclasses import replace
from typing import Any

import pytest

from sparklet.errors import PlanError
from sparklet.model import Run, RunOptions
from sparklet.planning.new_run import new_run
from sparklet.planning.routes import warnings
from sparklet.ports.deployment import Deployment
from tests.stand_ins.memory import MemoryEngine
from tests.world import SCRIPT, World


def deployment(functions: str, script: str = "", **engines: str) -> tuple[World, Deployment]:
    """Functions and engines with these lines of Spark, and a script; "": not known."""
    world = World(engines={name: MemoryEngine() for name in engines})
    for name, line in engines.items():
        engine = world.engines[name]
        assert isinstance(engine, MemoryEngine)
        engine.line = line
    world.put(1)
    world.store.put(SCRIPT, f"{script}\nprint(1)\n".encode())
    settings = {"SPARKLET_SPARK_LINE": functions} if functions else {}
    return world, replace(world.deployment, functions=lambda: settings)


def entered(deployment: Deployment, world: World, **options: Any) -> Run:
    return new_run(deployment, world.request(options=RunOptions(**options)))


@pytest.mark.parametrize(
    ("line", "told"),
    [("4", r"Spark 3\.5.*asks for 4"), ("4.1", r"Spark 3\.5.*asks for 4\.1"), ("four", "line 1")],
)
def test_another_spark_or_an_unknown_word_is_refused(line: str, told: str) -> None:
    world, offered = deployment("spark-3.5", f"# sparklet: spark={line}")

    with pytest.raises(PlanError, match=rf"daily\.py.*{told}"):
        entered(offered, world)
    assert world.deployment.known_run("run-1") is None


@pytest.mark.parametrize(
    ("functions", "line"), [("spark-4.1", "4"), ("spark-4.1", "4.1"), ("", "4"), ("spark-3.5", "")]
)
def test_functions_of_the_same_or_an_unknown_spark_are_taken(functions: str, line: str) -> None:
    world, offered = deployment(functions, f"# sparklet: spark={line}" if line else "")

    assert entered(offered, world).run_id == "run-1"


def test_auto_takes_an_engine_with_the_spark_asked_for() -> None:
    world, offered = deployment("spark-4.1", "# sparklet: spark=4", emr="3.5", glue="4.1")

    assert entered(offered, world, engine="auto").options.engine == "glue"
    with pytest.raises(PlanError, match=r"the engine emr .*Spark 3\.5"):
        new_run(offered, world.request(run_id="run-2", options=RunOptions(engine="emr")))


def test_engines_of_an_unknown_spark_are_taken() -> None:
    world, offered = deployment("spark-4.1", "# sparklet: spark=4", fargate="")

    assert entered(offered, world, engine="auto").options.engine == "fargate"


def test_a_difference_in_the_major_version_is_reported() -> None:
    _, offered = deployment("spark-3.5", glue="4.1", emr="3.5", fargate="")

    (told,) = warnings(offered, RunOptions(engine="glue"), b"")

    assert "Spark 3.5" in told and "glue runs Spark 4.1" in told
    assert not [line for name in ("emr", "fargate", "") for line in warnings(offered, RunOptions(engine=name), b"")]


@pytest.mark.parametrize(
    ("source", "engines", "told"),
    [
        ('df.write.format("delta").mode("append").save(path)', "", ["one that is done again fails"]),
        ("df.write.format( 'delta' ).saveAsTable('t')", "emr,fargate", ["done again", "in the engine emr one of two"]),
        ('df.write.format("delta").save(a)\njob.append(df, b)', "emr", []),
        ('spark.sql("CREATE TABLE t USING delta")', "", ["one that is done again fails"]),
        ('df.write.parquet("delta")', "emr", []),
    ],
)
def test_a_script_that_writes_delta_by_itself_is_named(source: str, engines: str, told: list[str]) -> None:
    engines_by_name = {"emr": MemoryEngine(), "fargate": MemoryEngine(like_functions=True)}
    offered = replace(World().deployment, engines=engines_by_name)

    said = list(warnings(offered, RunOptions(engine=engines), f"import x\n{source}\n".encode()))

    assert [part in line for part, line in zip(told, said, strict=True)] == [True] * len(told)
