"""Which engine does what is too large for a function, and which Spark it has."""

from collections.abc import Collection, Iterable, Iterator, Mapping

from sparklet.errors import PlanError, ScriptError
from sparklet.job.spark_lines import is_of, major_of
from sparklet.model.options import AUTO, LARGE, RunOptions
from sparklet.ports.deployment import Deployment
from sparklet.spark.script import Script

WITH_VIEW = frozenset({LARGE, "fargate", "process"})
"""Engines whose workers run scripts as functions do."""
SPARK_LINE = "SPARKLET_SPARK_LINE"
"""Among the functions' settings: the stack of their image (docker/stacks)."""


def chosen_engine(deployment: Deployment, name: str, table: str, asked: Collection[str] = ()) -> str:
    """The named engine, or those of ``auto``, if they can write to ``table``; PlanError if there is none.

    ``asked``: lines of Spark that scripts ask for.
    """
    chosen, unfit = fit_engines(deployment, name, table.partition(":")[0], asked)
    if chosen:
        return chosen
    if unfit:
        raise PlanError("; ".join(unfit))
    remedy = (
        f"it has {', '.join(deployment.engines)}"
        if deployment.engines
        else "name one in its parameters, such as Fargate's"
    )
    raise PlanError(
        f"the stack has no engine {name.removeprefix(AUTO)}".rstrip() + f"; {remedy} (docs/guide/elsewhere.md)"
    )


def fit_engines(
    deployment: Deployment, name: str, table_format: str = "", asked: Collection[str] = ()
) -> tuple[str, list[str]]:
    """The first fit engine, after ``lambda-large``, which has limits, the next one, too; and why others are unfit."""
    chosen, unfit = list[str](), list[str]()
    for engine in deployment.engines if name == AUTO else deployment.engines.keys() & {name}:
        why = deployment.engines[engine].unfit(table_format)
        if not why and any(asked):
            why = _another_spark(deployment.engines[engine].spark(), asked)
        if why:
            unfit.append(f"the engine {engine} can do no shard of this run: {why}")
            continue
        chosen.append(engine)
        if engine != LARGE:
            break
    return ",".join(chosen), unfit


def _another_spark(spark: str, asked: Iterable[str]) -> str:
    """Why scripts that ask for a line of Spark cannot run on another; "" if they can, or the line is not known."""
    wrong = [line for line in asked if line and spark and not is_of(spark, line)]
    return f"it has Spark {spark}, and the script asks for {wrong[0]}" if wrong else ""


def refuse_no_view(engines: str, options: RunOptions) -> None:
    """PlanError if an engine's Spark does not tell whose rows a file holds, and shards have rows of several inputs."""
    if options.output_per and options.max_objects > 1 and not WITH_VIEW.issuperset(engines.split(",")):
        raise PlanError(f"{engines} cannot tell inputs apart for an output of each: plan one a shard (--max-objects 1)")


def asked_spark(source: str, script: Script) -> str:
    """The line of Spark that a script's comment asks for; PlanError if one of its comments is wrong."""
    try:
        return script.comments.get("spark", "")
    except ScriptError as error:
        raise PlanError(f"the script {source}: {error}") from error


def spark_of_functions(deployment: Deployment) -> str:
    """The line of the functions' Spark; "" if it is not known."""
    return (deployment.function_settings() or {}).get(SPARK_LINE, "").removeprefix("spark-")


def refuse_another_spark(deployment: Deployment, asked: Mapping[str, str]) -> None:
    """PlanError for a script that asks for another line of Spark than the functions'; ``asked``: by script."""
    if any(asked.values()) and (spark := spark_of_functions(deployment)):
        for source, line in asked.items():
            if why := _another_spark(spark, [line]):
                raise PlanError(
                    f"no function can do a shard of {source}: {why}; deploy the stack with Stack=spark-{line}, or "
                    f"change the comment '# sparklet: spark={line}' (docs/guide/image.md)"
                )


def plain_writes(script: bytes, engines: str) -> Iterator[str]:
    """What to tell of a run whose script, by its text, commits to Delta by itself, in each shard."""
    if Script(script).commits_delta_itself:
        yield (
            "the script writes Delta by itself: each shard commits at once, and one that is done again fails instead "
            "of appending twice; job.append commits all shards once (docs/guide/tables.md)"
        )
        for name in {*filter(None, engines.split(","))} - WITH_VIEW:
            yield f"in the engine {name} one of two such commits at the same moment is lost: write by job.append there"


def differing_sparks(deployment: Deployment, engines: str) -> Iterator[str]:
    """What to tell of a run whose engines have another major version of Spark than the functions."""
    spark = spark_of_functions(deployment)
    for name in engines.split(","):
        engine_spark = deployment.engines[name].spark() if name in deployment.engines else ""
        if spark and engine_spark and major_of(spark) != major_of(engine_spark):
            yield (
                f"functions run Spark {spark}, the engine {name} runs Spark {engine_spark}: casts and functions may "
                "differ; '# sparklet: spark=' in the script refuses one of them (docs/guide/elsewhere.md)"
            )
