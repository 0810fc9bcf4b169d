"""The route of a run's shards: functions or an engine do each, and if it is too large for one, the next engine does.

``options.engine`` is the route: the engines in the order in which a shard moves on, such as "lambda-large,fargate".
This module chooses the route and the first engine of each shard; ``model.next_of`` has the engine after another.
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
"""The names of the options that make a route."""
SPARK_LINE = "SPARKLET_SPARK_LINE"
"""The setting of functions that names the stack of their image (docker/stacks)."""
FOR_ROOM = "have an engine do it (--too-large engine)"
"""The remedy for a shard that needs more room than a function has."""
NO_WORKER = "EngineFailed"  # the cause of a shard whose engine has no worker
DO_ELSEWHERE = "sparklet redrive RUN --engine NAME has another engine do its FAILED shards"


# --- one shard: by the run's options alone ---


def of_size(options: RunOptions, estimated_bytes: int) -> tuple[bool, str]:
    """Whether a shard of this size is too large for a function, and its first engine ("": a function)."""
    is_too_large = 0 < options.max_shard_bytes < estimated_bytes
    if options.too_large == ENGINE and not is_too_large:
        return False, ""
    first, _, second = options.engine.partition(",")
    is_too_large_for_first = first == LARGE and estimated_bytes > LARGE_BYTES
    return is_too_large, second if second and is_too_large_for_first else first


def with_engines(records: Iterable[ShardRecord], names: Iterable[str]) -> Sequence[ShardRecord]:
    """The shards, each with the engine of the same position in ``names`` ("": a function)."""
    return [replace(record, engine=name) for record, name in zip(records, names, strict=True)]


def leaves_functions(options: RunOptions) -> bool:
    """Whether an engine can get a shard of the run."""
    return bool(options.engine)


# --- a run: the engines of its stack that can do it ---


def with_chosen_engines(
    deployment: Deployment | None,
    options: RunOptions,
    table: str,
    spark_lines: Collection[str] = (),
    earlier_options: RunOptions | None = None,
) -> RunOptions:
    """The options with the named engine, or the engines that ``auto`` stands for, if they can write to ``table``.

    PlanError if there is no such engine. ``spark_lines`` are the lines of Spark that scripts ask for;
    ``earlier_options`` are the options with which this run was entered before, if it was: ``auto`` keeps their engine.
    Without a deployment the stack is the local one.
    """
    if not options.engine:
        return options
    if deployment is None:
        # The local stack has the first configured engine do the shards, or a plain process.
        return replace(options, engine=next(iter(engines()), PROCESS)) if options.engine == AUTO else options
    # `auto` might now choose another engine: then the repeated request would not be for the same run.
    if options.engine == AUTO and earlier_options and earlier_options.engine:
        return replace(options, engine=earlier_options.engine)
    names = _fit_engines_or_refuse(deployment, options.engine, table, spark_lines)
    can_write_per_input = all(deployment.engines[name].traces_inputs for name in names.split(","))
    if options.output_per and options.max_objects > 1 and not can_write_per_input:
        raise PlanError(f"{names} cannot give each input an output: plan one input a shard (--max-objects 1)")
    return replace(options, engine=names)


def of_redrive(deployment: Deployment, name: str, table: str) -> str:
    """The engine for redriven shards; "" if none is named: each keeps its own. PlanError if it cannot do them."""
    return name and _fit_engines_or_refuse(deployment, name, table).partition(",")[0]


def for_one_shard(deployment: Deployment, options: RunOptions) -> RunOptions:
    """The options of a reduce: one shard of any size, for an engine if it is too large for a function."""
    whole = replace(options, target_bytes=NO_LIMIT_BYTES, max_objects=NO_LIMIT_BYTES)
    if options.engine:
        return whole
    engine, _ = _fit_engines(deployment, AUTO)
    return replace(whole, engine=engine, too_large=ENGINE if engine else FAIL)


def _fit_engines_or_refuse(deployment: Deployment, name: str, table: str, spark_lines: Collection[str] = ()) -> str:
    """The names of the fit engines; PlanError if there are none."""
    names, reasons = _fit_engines(deployment, name, table.partition(":")[0], spark_lines)
    if names:
        return names
    if reasons:
        raise PlanError("; ".join(reasons))
    remedy = (
        f"it has {', '.join(deployment.engines)}"
        if deployment.engines
        else "name one in its parameters, such as Fargate's"
    )
    raise PlanError(
        f"the stack has no engine {name.removeprefix(AUTO)}".rstrip() + f"; {remedy} (docs/guide/elsewhere.md)"
    )


def _fit_engines(
    deployment: Deployment, name: str, table_format: str = "", spark_lines: Collection[str] = ()
) -> tuple[str, list[str]]:
    """The name of the first fit engine, and the reasons why engines before it are unfit.

    ``lambda-large`` has limits, so it is followed by the next fit engine: "lambda-large,fargate".
    """
    names, reasons = list[str](), list[str]()
    for engine in deployment.engines if name == AUTO else deployment.engines.keys() & {name}:
        reason = deployment.engines[engine].unfit(table_format)
        if not reason and any(spark_lines):
            reason = _wrong_spark(deployment.engines[engine].spark(), spark_lines)
        if reason:
            reasons.append(f"the engine {engine} can do no shard of this run: {reason}")
            continue
        names.append(engine)
        if engine != LARGE:
            break
    return ",".join(names), reasons


# --- the lines of Spark in engines and in functions ---


def _wrong_spark(spark: str, spark_lines: Iterable[str]) -> str:
    """Why scripts that ask for these lines of Spark cannot run on this one; "" if they can, or it is not known."""
    wrong = [line for line in spark_lines if line and spark and not is_of(spark, line)]
    return f"it has Spark {spark}, and the script asks for {wrong[0]}" if wrong else ""


def requested_spark(source: str, script: Script) -> str:
    """The line of Spark that a comment in the script asks for, "" if none; PlanError if a comment is wrong."""
    try:
        return script.comments.get("spark", "")
    except ScriptError as error:
        raise PlanError(f"the script {source}: {error}") from error


def spark_of_functions(deployment: Deployment) -> str:
    """The line of Spark in the functions; "" if it is not known."""
    return (deployment.function_settings() or {}).get(SPARK_LINE, "").removeprefix("spark-")


def refuse_wrong_spark(deployment: Deployment, line_by_script: Mapping[str, str]) -> None:
    """PlanError if a script asks for another line of Spark than the functions have."""
    if any(line_by_script.values()) and (spark := spark_of_functions(deployment)):
        for source, line in line_by_script.items():
            if reason := _wrong_spark(spark, [line]):
                raise PlanError(
                    f"no function can do a shard of {source}: {reason}; deploy the stack with Stack=spark-{line}, or "
                    f"change the comment '# sparklet: spark={line}' (docs/guide/image.md)"
                )


def warnings(deployment: Deployment | None, options: RunOptions, script: bytes) -> Iterator[str]:
    """Warnings for the user of a run: of engines with another Spark than functions, and of scripts that commit."""
    engines_of_stack = deployment.engines if deployment else {}
    names = [name for name in options.engine.split(",") if name in engines_of_stack]
    engines_by_name = {name: engines_of_stack[name] for name in names}
    if deployment and engines_by_name:
        yield from _differing_sparks(deployment, engines_by_name)
    if Script(script).commits_delta_itself:
        yield (
            "the script writes Delta by itself: each shard commits at once, and one that is done again fails instead "
            "of appending twice; job.append commits all shards once (docs/guide/tables.md)"
        )
        for name in (name for name, engine in engines_by_name.items() if not engine.traces_inputs):
            yield f"in the engine {name} one of two such commits at the same moment is lost: write by job.append there"


def _differing_sparks(deployment: Deployment, engines_by_name: Mapping[str, Engine]) -> Iterator[str]:
    """A warning for each engine that has another major version of Spark than the functions."""
    spark = spark_of_functions(deployment)
    for name, engine in engines_by_name.items():
        engine_spark = engine.spark()
        if spark and engine_spark and major_of(spark) != major_of(engine_spark):
            yield (
                f"functions run Spark {spark}, the engine {name} runs Spark {engine_spark}: casts and functions may "
                "differ; '# sparklet: spark=' in the script refuses one of them (docs/guide/elsewhere.md)"
            )
