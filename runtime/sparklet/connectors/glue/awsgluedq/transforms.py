"""``EvaluateDataQuality``: rules of DQDL over the rows of a DynamicFrame.

Rules mean what Glue's guide and the DQDL of AWS's library Deequ say: ``between`` leaves its ends out; a null fails each
condition of a row but ``!=`` and ``not in``, and has the length 0; a value is unique if it occurs once.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from math import isfinite
from typing import TYPE_CHECKING, Any

from awsglue import lacking
from awsglue.dynamicframe import DynamicFrame, DynamicFrameCollection

from .dqdl import OF_ROWS, Rule, rules_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["EvaluateDataQuality"]
COLUMNS = ("Rule", "Outcome", "FailureReason", "EvaluatedMetrics", "EvaluatedRule")
SCHEMA = "{} string, {} string, {} string, {} map<string, double>, {} string".format(*COLUMNS)
OPTIONS = {"dataQualityEvaluationContext", "enableDataQualityCloudWatchMetrics", "enableDataQualityResultsPublishing"}
OPTIONS |= {"resultsS3Prefix", "dataQualityResultsPublishing.strategy", "observations.scope"}
OPTIONS |= {"performanceTuning.caching", "transformation_ctx"}
OF_NUMBERS = {"Mean": "avg", "StandardDeviation": "stddev_pop", "Sum": "sum"}  # Spark's functions
MEASURES = {**OF_NUMBERS, "RowCount": "count", "DistinctValuesCount": "count_distinct"}
OF_NULLS, OF_REPEATS = ("IsComplete", "Completeness", "IsPrimaryKey"), ("IsUnique", "Uniqueness", "IsPrimaryKey")
NUMBERS = re.compile("tinyint|smallint|int|bigint|float|double|decimal")
Outcome = tuple[bool, str, dict[str, float]]  # whether it has passed, why not, and its metrics


class EvaluateDataQuality:
    """Glue's transform; the outcomes are the shard's answer, too, and what failed is a warning of the run's report."""

    @staticmethod
    def apply(frame: DynamicFrame, ruleset: str, *options: Mapping[str, Any], **named: Any) -> DynamicFrame:
        """The outcome of each rule, as a row."""
        return EvaluateDataQuality().process_rows(frame, ruleset, *options, **named)["ruleOutcomes"]

    def process_rows(
        self,
        frame: DynamicFrame,
        ruleset: str,
        publishing_options: Mapping[str, Any] | None = None,
        additional_options: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> DynamicFrameCollection:
        """The frames ``rowLevelOutcomes``, ``ruleOutcomes`` and ``originalData``; ValueError if it is not DQDL."""
        options = {**(publishing_options or {}), **(additional_options or {}), **others}
        if unknown := options.keys() - OPTIONS:
            raise lacking(f"option {min(unknown)!r} of EvaluateDataQuality", "one frame, and rules of its rows")
        # All rules are parsed before a row is read: a rule that passes unseen is worse than an error.
        rules, rows, glue = rules_of(ruleset), frame.toDF(), frame.glue_ctx
        outcomes = []
        for rule, (passed, reason, metrics) in zip(rules, _outcomes(rows, rules), strict=True):
            outcomes.append((rule.text, "Passed" if passed else "Failed", reason or None, metrics, rule.text))
        outcome_frame = DynamicFrame(rows.sparkSession.createDataFrame(outcomes, SCHEMA), glue, "ruleOutcomes")
        context = options.get("dataQualityEvaluationContext", "default_context")
        glue.record_quality(context, [dict(zip(COLUMNS[:4], outcome, strict=False)) for outcome in outcomes])
        if prefix := options.get("resultsS3Prefix"):
            prefix = prefix if "://" in prefix else f"s3://{prefix}"
            glue.write_dynamic_frame.from_options(outcome_frame, "s3", {"path": prefix}, "json")
        columns = {
            rule.text: _row(rule) if not any(_problem(rows, leaf) for leaf in rule.leaves) else None for rule in rules
        }
        row_frame = DynamicFrame(_by_rows(rows, columns), glue, "rowLevelOutcomes")
        return DynamicFrameCollection(
            {"rowLevelOutcomes": row_frame, "ruleOutcomes": outcome_frame, "originalData": frame}, glue
        )


def _outcomes(frame: DataFrame, rules: Sequence[Rule]) -> list[Outcome]:
    """The rules' outcomes, by one pass over the rows for each ``where``; by none if the columns' names tell all."""
    metrics: dict[Rule, dict[str, Any]] = {}
    chosen = [leaf for rule in rules for leaf in rule.leaves if not _problem(frame, leaf)]
    for where in dict.fromkeys(leaf.where for leaf in chosen):
        rows = frame.where(where) if where else frame
        leaf_metrics = {leaf: _metrics(rows, leaf) for leaf in chosen if leaf.where == where}
        aggregates = [metric for of in leaf_metrics.values() for metric in of.values() if not isinstance(metric, float)]
        numbers = iter(_measured(rows, aggregates) if aggregates else ())
        for leaf, of in leaf_metrics.items():
            metrics[leaf] = {
                name: metric if isinstance(metric, float) else next(numbers) for name, metric in of.items()
            }
    return [_outcome(frame, rule, metrics) for rule in rules]


def _measured(rows: DataFrame, aggregates: Sequence[tuple[str, Column]]) -> Sequence[Any]:
    """The values of aggregates, each given as a Spark function's name and its column, which may use a window."""
    from pyspark.sql import functions as F  # noqa: N812 - its usual name

    # Spark allows no window within an aggregate, so the windows are columns first.
    rows = rows.select(*[column.alias(f"c{number}") for number, (_, column) in enumerate(aggregates)])
    result: Any = rows.agg(
        *[getattr(F, way)(f"c{number}").cast("double") for number, (way, _) in enumerate(aggregates)]
    )
    return tuple(result.head())


def _outcome(frame: DataFrame, rule: Rule, metrics: Mapping[Rule, dict[str, Any]]) -> Outcome:
    if rule.parts:
        outcomes = [_outcome(frame, part, metrics) for part in rule.parts]
        passed = (all if rule.kind == "and" else any)(has_passed for has_passed, *_ in outcomes)
        return (
            passed,
            "\n".join(why for _, why, _ in outcomes if why),
            reduce(operator.or_, (of for *_, of in outcomes)),
        )
    if problem := _problem(frame, rule):
        return False, problem, {}
    judged = [
        metric for name, metric in metrics[rule].items() if rule.kind not in OF_ROWS or name.endswith("Compliance")
    ]
    wrong = [str(metric) for metric in judged if metric is None or not rule.limit.holds(metric)]
    reason = f"Value: {wrong[0]} does not meet the constraint requirement!" if wrong else ""
    reason = reason.replace("None", "NULL, of no row,")
    return (
        not wrong,
        reason,
        {name: metric for name, metric in metrics[rule].items() if metric is not None and isfinite(metric)},
    )


def _problem(frame: DataFrame, rule: Rule) -> str:
    """Why the rule cannot be computed; "" if it can."""
    types = dict(frame.dtypes)
    for name in () if rule.kind in ("ColumnExists", "CustomSql") else rule.names:
        if name not in types:
            return f"Input data does not include column {name}!"
        of_numbers = rule.kind in OF_NUMBERS or (rule.kind == "ColumnValues" and rule.of_row.orders)
        if of_numbers and not NUMBERS.match(types[name]):
            return f"Column {name} has {types[name]}, no numbers: cast it before."
    return ""


def _metrics(frame: DataFrame, rule: Rule) -> dict[str, Any]:
    """The rule's metrics by Glue's names: numbers, or what ``_measured`` takes."""
    from pyspark.sql.functions import col, lit, struct, when

    key = f"{('Dataset', 'Column', 'Multicolumn')[min(len(rule.names), 2)]}.{','.join(rule.names) or '*'}"
    columns = [col(f"`{name}`") for name in rule.names]
    presences = [column.isNotNull() for column in columns]
    metrics: dict[str, Any] = {}
    if rule.kind == "ColumnCount":
        metrics[f"{key}.{rule.kind}"] = float(len(frame.columns))
    elif rule.kind == "ColumnExists":
        metrics[f"Dataset.{rule.names[0]}.ColumnExists"] = float(rule.names[0] in frame.columns)
    elif rule.kind == "CustomSql":
        # The name that DQDL gives the frame in a statement.
        frame.createOrReplaceTempView("primary")
        value = frame.sparkSession.sql(rule.names[0]).head()[0]
        metrics["Dataset.*.CustomSQL"] = float("nan" if value is None else value)
    elif rule.kind in MEASURES:
        # count_distinct leaves nulls out, and DQDL counts them as one value: within a struct, which is not null itself,
        # they are counted.
        null_too = rule.kind == "DistinctValuesCount"
        metrics[f"{key}.{rule.kind}"] = (MEASURES[rule.kind], struct(*columns) if null_too else [*columns, lit(1)][0])
    elif rule.kind in OF_ROWS:
        metrics[f"{key}.{rule.kind}.Compliance"] = ("avg", rule.of_row.column(rule.value).cast("int"))
        if rule.of_row.orders:
            metrics |= {f"{key}.{way}imum": (way.lower(), rule.value) for way in ("Min", "Max")}
    if rule.kind in OF_NULLS:
        metrics |= {
            f"Column.{name}.Completeness": ("avg", presence.cast("int"))
            for name, presence in zip(rule.names, presences, strict=True)
        }
    if rule.kind in OF_REPEATS:  # of rows that have a value
        metrics[f"{key}.Uniqueness"] = ("avg", when(reduce(operator.or_, presences), _is_unique(rule).cast("int")))
    return metrics


def _is_unique(rule: Rule) -> Column:
    from pyspark.sql import Window
    from pyspark.sql.functions import col, count, expr, lit, when

    # The outcomes of single rows are computed on all rows; those outside of ``where`` must not count as repetitions.
    counted = when(expr(rule.where), 1) if rule.where else lit(1)
    return count(counted).over(Window.partitionBy(*[col(f"`{name}`") for name in rule.names])) == 1


def _row(rule: Rule) -> Column | None:
    """Whether a row meets the rule; None if only all rows together can."""
    from pyspark.sql.functions import coalesce, col, expr, lit

    if rule.parts:
        parts = [row for row in map(_row, rule.parts) if row is not None]
        joined = operator.and_ if rule.kind == "and" else operator.or_
        return reduce(joined, parts) if len(parts) == len(rule.parts) else None
    terms = [rule.of_row.column(rule.value)] if rule.kind in OF_ROWS else []
    if rule.kind in OF_NULLS:
        terms += [col(f"`{name}`").isNotNull() for name in rule.names]
    if rule.kind in OF_REPEATS:
        terms.append(_is_unique(rule))
    left_out = [coalesce(~expr(rule.where), lit(True))] if terms and rule.where else []  # such a row passes, as in Glue
    return reduce(operator.or_, [reduce(operator.and_, terms), *left_out]) if terms else None


def _by_rows(frame: DataFrame, columns: Mapping[str, Column | None]) -> DataFrame:
    """The rows, with the rules that each has passed and failed; rules about all rows together count as skipped."""
    from pyspark.sql.functions import array, array_compact, col, lit, size, when

    held = {text: f"_rule_{number}" for number, (text, column) in enumerate(columns.items()) if column is not None}
    rows = frame.withColumns({name: columns[text] for text, name in held.items()}) if held else frame
    ways = {"Pass": [when(col(name), text) for text, name in held.items()]}
    ways["Fail"] = [when(~col(name), text) for text, name in held.items()]
    ways["Skip"] = [lit(text) for text in columns if text not in held]
    for way, texts in ways.items():
        # An array without elements has no type of its own, hence the cast.
        rows = rows.withColumn(f"DataQualityRules{way}", array_compact(array(*texts).cast("array<string>")))
    result = when(size("DataQualityRulesFail") > 0, "Failed").otherwise("Passed")
    return rows.withColumn("DataQualityEvaluationResult", result).drop(*held.values())
