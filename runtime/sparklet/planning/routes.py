"""The route of a run's shards: which worker does each, a function or an engine, and what is too large for one.

``options.engine`` is the route, the engines in the order in which a shard moves on: "lambda-large,fargate". Here it is
chosen, and its shards are sent to their first engine; ``model.next_of`` says who comes after one.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from sparklet.errors import PlanError, ScriptError
from sparklet.job.spark_lines import is_of, major_of
from sparklet.model import ShardRecord
from sparklet.model.options import AUTO, ENGINE, FAIL, LARGE, LARGE_BYTES, NO_LIMIT_BYTES, PROCESS, RunOptions
from sparklet.ports import Engine
from sparklet.ports.deployment import Deployment
from sparklet.settings import engines
from sparklet.spark.script import Script

ROUTE = ("engine", "too_large", "max_shard_bytes")
"""The options that a route is made of."""
SPARK_LINE = "SPARKLET_SPARK_LINE"
"""Among the functions' settings: the stack of their image (docker/stacks)."""
FOR_ROOM = "have an engine do it (--too-large engine)"
"""What a user does about a shard that needs more than a function has."""
NO_WORKER = "EngineFailed"  # the cause of a shard whose engine has none
DO_ELSEWHERE = "sparklet redrive RUN --engine NAME has another engine do its FAILED shards"


# --- one shard: by the run's options alone ---


def of_size(options: RunOptions, estimated_bytes: int) -> tuple[bool, str]:
    """Whether a shard of this size is too large for a function, and the engine it is planned for; "": a function."""
    is_too_large = 0 < options.max_shard_bytes < estimated_bytes
    if options.too_large == ENGINE and not is_too_large:
        return False, ""
    name, _, second = options.engine.partition(",")
    return is_too_large, second if second and name == LARGE and estimated_bytes > LARGE_BYTES else name


def routed(records: Iterable[ShardRecord], names: Iterable[str]) -> Sequence[ShardRecord]:
    """The shards, each planned for the engine at its position ("": a function)."""
    return [replace(record, engine=name) for record, name in zip(records, names, strict=True)]


def leaves_functions(options: RunOptions) -> bool:
    """Whether an engine may do a shard of the run."""
    return bool(options.engine)


# --- a run: the engines of its stack that can do it ---


def chosen(
    deployment: Deployment | None,
    options: RunOptions,
    table: str,
    asked: Collection[str] = (),
    known: RunOptions | None = None,
) -> RunOptions:
    """The options with the engine that is named, or those of ``auto``, if they can write to ``table``.

    PlanError if there is none. ``asked``: lines of Spark that scripts ask for; ``known``: the options of the same run,
    if it was entered before. Without a deployment the stack is the local one.
    """
    if not options.engine:
        return options
    if deployment is None:
        return replace(options, engine=next(iter(engines()), PROCESS)) if options.engine == AUTO else options
    # `auto` might choose another engine by now, and the repeated request would be another run.
    if options.engine == AUTO and known and known.engine:
        return replace(options, engine=known.engine)
    names = _fit_or_refused(deployment, options.engine, table, asked)
    all_see = all(deployment.engines[name].like_functions for name in names.split(","))
    if options.output_per and options.max_objects > 1 and not all_see:
        raise PlanError(f"{names} cannot give each input an output: plan one input a shard (--max-objects 1)")
    return replace(options, engine=names)


def of_redrive(deployment: Deployment, name: str, table: str) -> str:
    """The engine to which shards that are done again go; "" leaves each where it was. PlanError if there is none."""
    return name and _fit_or_refused(deployment, name, table).partition(",")[0]


def for_one_shard(deployment: Deployment, options: RunOptions) -> RunOptions:
    """The options of a reduce: one shard of any size, which an engine does if it is too large for a function."""
    whole = replace(options, target_bytes=NO_LIMIT_BYTES, max_objects=NO_LIMIT_BYTES)
    if options.engine:
        return whole
    engine, _ = _fit(deployment, AUTO)
    return replace(whole, engine=engine, too_large=ENGINE if engine else FAIL)


def _fit_or_refused(deployment: Deployment, name: str, table: str, asked: Collection[str] = ()) -> str:
    names, unfit = _fit(deployment, name, table.partition(":")[0], asked)
    if names:
        return names
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


def _fit(
    deployment: Deployment, name: str, table_format: str = "", asked: Collection[str] = ()
) -> tuple[str, list[str]]:
    """The first fit engine, and after ``lambda-large``, which has limits, the next one; and why others are unfit."""
    names, unfit = list[str](), list[str]()
    for engine in deployment.engines if name == AUTO else deployment.engines.keys() & {name}:
        why = deployment.engines[engine].unfit(table_format)
        if not why and any(asked):
            why = _another_spark(deployment.engines[engine].spark(), asked)
        if why:
            unfit.append(f"the engine {engine} can do no shard of this run: {why}")
            continue
        names.append(engine)
        if engine != LARGE:
            break
    return ",".join(names), unfit


# --- Spark, there and in functions ---


def _another_spark(spark: str, asked: Iterable[str]) -> str:
    """Why scripts that ask for a line of Spark cannot run on another; "" if they can, or the line is not known."""
    wrong = [line for line in asked if line and spark and not is_of(spark, line)]
    return f"it has Spark {spark}, and the script asks for {wrong[0]}" if wrong else ""


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


def warnings(deployment: Deployment | None, options: RunOptions, script: bytes) -> Iterator[str]:
    """What to tell of a run: engines with another Spark than the functions', scripts that commit by themselves."""
    known = deployment.engines if deployment else {}
    engines_by_name = {name: known[name] for name in options.engine.split(",") if name in known}
    if deployment and engines_by_name:
        yield from _differing_sparks(deployment, engines_by_name)
    if Script(script).commits_delta_itself:
        yield (
            "the script writes Delta by itself: each shard commits at once, and one that is done again fails instead "
            "of appending twice; job.append commits all shards once (docs/guide/tables.md)"
        )
        for name in (name for name, engine in engines_by_name.items() if not engine.like_functions):
            yield f"in the engine {name} one of two such commits at the same moment is lost: write by job.append there"


def _differing_sparks(deployment: Deployment, engines_by_name: Mapping[str, Engine]) -> Iterator[str]:
    """Which engines have another major version of Spark than the functions."""
    spark = spark_of_functions(deployment)
    for name, engine in engines_by_name.items():
        engine_spark = engine.spark()
        if spark and engine_spark and major_of(spark) != major_of(engine_spark):
            yield (
                f"functions run Spark {spark}, the engine {name} runs Spark {engine_spark}: casts and functions may "
                "differ; '# sparklet: spark=' in the script refuses one of them (docs/guide/elsewhere.md)"
            )
