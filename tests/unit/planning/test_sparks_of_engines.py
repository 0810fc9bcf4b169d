"""A script that requires a Spark version runs on no other; without a requirement a difference is reported."""

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
    """A world whose functions and engines have these Spark versions ("" if unknown), with a script."""
    world = World(engines={name: MemoryEngine() for name in engines})
    for name, line in engines.items():
        engine = world.engines[name]
        assert isinstance(engine, MemoryEngine)
        engine.line = line
    world.put(1)
    world.store.put(SCRIPT, f"{script}\nprint(1)\n".encode())
    settings = {"SPARKLET_SPARK_LINE": functions} if functions else {}
    return world, replace(world.deployment, functions=lambda: settings)


def new_run_of(deployment: Deployment, world: World, **options: Any) -> Run:
    return new_run(deployment, world.request(options=RunOptions(**options)))


@pytest.mark.parametrize(
    ("line", "told"),
    [("4", r"Spark 3\.5.*asks for 4"), ("4.1", r"Spark 3\.5.*asks for 4\.1"), ("four", "line 1")],
)
def test_another_spark_version_or_an_invalid_one_is_refused(line: str, told: str) -> None:
    world, offered = deployment("spark-3.5", f"# sparklet: spark={line}")

    with pytest.raises(PlanError, match=rf"daily\.py.*{told}"):
        new_run_of(offered, world)
    assert world.deployment.known_run("run-1") is None


@pytest.mark.parametrize(
    ("functions", "line"), [("spark-4.1", "4"), ("spark-4.1", "4.1"), ("", "4"), ("spark-3.5", "")]
)
def test_functions_of_the_same_or_an_unknown_spark_are_accepted(functions: str, line: str) -> None:
    world, offered = deployment(functions, f"# sparklet: spark={line}" if line else "")

    assert new_run_of(offered, world).run_id == "run-1"


def test_auto_chooses_an_engine_with_the_required_spark() -> None:
    world, offered = deployment("spark-4.1", "# sparklet: spark=4", emr="3.5", glue="4.1")

    assert new_run_of(offered, world, engine="auto").options.engine == "glue"
    with pytest.raises(PlanError, match=r"the engine emr .*Spark 3\.5"):
        new_run(offered, world.request(run_id="run-2", options=RunOptions(engine="emr")))


def test_engines_of_an_unknown_spark_version_are_accepted() -> None:
    world, offered = deployment("spark-4.1", "# sparklet: spark=4", fargate="")

    assert new_run_of(offered, world, engine="auto").options.engine == "fargate"


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
def test_a_script_that_writes_delta_without_job_is_warned_of(source: str, engines: str, told: list[str]) -> None:
    engines_by_name = {"emr": MemoryEngine(), "fargate": MemoryEngine(traces_inputs=True)}
    offered = replace(World().deployment, engines=engines_by_name)

    lines = list(warnings(offered, RunOptions(engine=engines), f"import x\n{source}\n".encode()))

    assert [part in line for part, line in zip(told, lines, strict=True)] == [True] * len(told)
