"""``EvaluateDataQuality``: rules of DQDL over the rows of a DynamicFrame.

Rules mean what they mean in Glue's guide and in AWS's library Deequ: ``between`` excludes its bounds; a null fails each
condition on a row except ``!=`` and ``not in``, and its length is 0; a value is unique if it occurs once.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from math import isfinite
from typing import TYPE_CHECKING, Any

from awsglue import lack_error
from awsglue.dynamicframe import DynamicFrame, DynamicFrameCollection

from .dqdl import ROW_RULES, Rule, rules_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["EvaluateDataQuality"]
COLUMNS = ("Rule", "Outcome", "FailureReason", "EvaluatedMetrics", "EvaluatedRule")
SCHEMA = "{} string, {} string, {} string, {} map<string, double>, {} string".format(*COLUMNS)
OPTIONS = {"dataQualityEvaluationContext", "enableDataQualityCloudWatchMetrics", "enableDataQualityResultsPublishing"}
OPTIONS |= {"resultsS3Prefix", "dataQualityResultsPublishing.strategy", "observations.scope"}
OPTIONS |= {"performanceTuning.caching", "transformation_ctx"}
NUMBER_RULES = {"Mean": "avg", "StandardDeviation": "stddev_pop", "Sum": "sum"}  # rules on numbers: Spark's functions
MEASURES = {**NUMBER_RULES, "RowCount": "count", "DistinctValuesCount": "count_distinct"}
NULL_RULES, REPEAT_RULES = ("IsComplete", "Completeness", "IsPrimaryKey"), ("IsUnique", "Uniqueness", "IsPrimaryKey")
NUMBERS = re.compile("tinyint|smallint|int|bigint|float|double|decimal")
Outcome = tuple[bool, str, dict[str, float]]  # whether it has passed, why not, and its metrics


class EvaluateDataQuality:
    """Glue's transform. The outcomes are also the shard's answer, and failed rules are warnings in the run's report."""

    @staticmethod
    def apply(frame: DynamicFrame, ruleset: str, *options: Mapping[str, Any], **kwargs: Any) -> DynamicFrame:
        """Return the outcome of each rule as a row."""
        return EvaluateDataQuality().process_rows(frame, ruleset, *options, **kwargs)["ruleOutcomes"]

    def process_rows(
        self,
        frame: DynamicFrame,
        ruleset: str,
        publishing_options: Mapping[str, Any] | None = None,
        additional_options: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> DynamicFrameCollection:
        """Return the frames ``rowLevelOutcomes``, ``ruleOutcomes``, ``originalData``; ValueError if it is not DQDL."""
        options = {**(publishing_options or {}), **(additional_options or {}), **others}
        if unknown := options.keys() - OPTIONS:
            raise lack_error(f"option {min(unknown)!r} of EvaluateDataQuality", "one frame, and rules of its rows")
        # All rules are parsed before a row is read: an unknown rule must be an error, and must not be skipped.
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
            rule.text: None if any(_problem(rows, leaf) for leaf in rule.leaves) else _row_outcome(rule)
            for rule in rules
        }
        row_frame = DynamicFrame(_with_row_outcomes(rows, columns), glue, "rowLevelOutcomes")
        return DynamicFrameCollection(
            {"rowLevelOutcomes": row_frame, "ruleOutcomes": outcome_frame, "originalData": frame}, glue
        )


def _outcomes(frame: DataFrame, rules: Sequence[Rule]) -> list[Outcome]:
    """Return the rules' outcomes, by one pass over the rows for each ``where`` whose rules need the rows."""
    metrics: dict[Rule, dict[str, Any]] = {}
    computable = [leaf for rule in rules for leaf in rule.leaves if not _problem(frame, leaf)]
    for where in dict.fromkeys(leaf.where for leaf in computable):
        rows = frame.where(where) if where else frame
        by_leaf = {leaf: _metrics(rows, leaf) for leaf in computable if leaf.where == where}
        all_metrics = [metric for leaf_metrics in by_leaf.values() for metric in leaf_metrics.values()]
        aggregates = [metric for metric in all_metrics if not isinstance(metric, float)]
        values = iter(_aggregate_values(rows, aggregates) if aggregates else ())
        for leaf, leaf_metrics in by_leaf.items():
            metrics[leaf] = {
                name: metric if isinstance(metric, float) else next(values) for name, metric in leaf_metrics.items()
            }
    return [_outcome(frame, rule, metrics) for rule in rules]


def _aggregate_values(rows: DataFrame, aggregates: Sequence[tuple[str, Column]]) -> Sequence[Any]:
    """Return the values of aggregates, each given as a Spark function's name and a column, which may use a window."""
    from pyspark.sql import functions as F  # noqa: N812 - its usual name

    # Spark allows no window within an aggregate, so the windows are computed as columns first.
    rows = rows.select(*[column.alias(f"c{number}") for number, (_, column) in enumerate(aggregates)])
    result: Any = rows.agg(
        *[getattr(F, function)(f"c{number}").cast("double") for number, (function, _) in enumerate(aggregates)]
    )
    return tuple(result.head())


def _outcome(frame: DataFrame, rule: Rule, metrics: Mapping[Rule, dict[str, Any]]) -> Outcome:
    """Return whether a rule has passed, why not, and its metrics; the metrics of single rules are given."""
    if rule.parts:
        outcomes = [_outcome(frame, part, metrics) for part in rule.parts]
        combine = all if rule.kind == "and" else any
        has_passed = combine(part_has_passed for part_has_passed, _, _ in outcomes)
        reasons = "\n".join(reason for _, reason, _ in outcomes if reason)
        return has_passed, reasons, reduce(operator.or_, (part_metrics for _, _, part_metrics in outcomes))
    if problem := _problem(frame, rule):
        return False, problem, {}
    # For a rule on rows, only the share of good rows is compared with the limit.
    compared = [
        metric for name, metric in metrics[rule].items() if rule.kind not in ROW_RULES or name.endswith("Compliance")
    ]
    wrong = [str(metric) for metric in compared if metric is None or not rule.limit.holds(metric)]
    reason = f"Value: {wrong[0]} does not meet the constraint requirement!" if wrong else ""
    reason = reason.replace("None", "NULL, of no row,")
    finite = {name: metric for name, metric in metrics[rule].items() if metric is not None and isfinite(metric)}
    return not wrong, reason, finite


def _problem(frame: DataFrame, rule: Rule) -> str:
    """Return why the rule cannot be computed; "" if it can."""
    types = dict(frame.dtypes)
    for name in () if rule.kind in ("ColumnExists", "CustomSql") else rule.names:
        if name not in types:
            return f"Input data does not include column {name}!"
        compares_sizes = rule.kind == "ColumnValues" and rule.row_condition.compares_sizes
        if (rule.kind in NUMBER_RULES or compares_sizes) and not NUMBERS.match(types[name]):
            return f"Column {name} has {types[name]}, no numbers: cast it before."
    return ""


def _metrics(frame: DataFrame, rule: Rule) -> dict[str, Any]:
    """Return the rule's metrics by Glue's names: numbers, or aggregates for ``_aggregate_values``."""
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
        # In a statement DQDL calls the frame by this name.
        frame.createOrReplaceTempView("primary")
        value = frame.sparkSession.sql(rule.names[0]).head()[0]
        metrics["Dataset.*.CustomSQL"] = float("nan" if value is None else value)
    elif rule.kind in MEASURES:
        column, *_ = [*columns, lit(1)]  # RowCount has no column
        if rule.kind == "DistinctValuesCount":
            # For DQDL null is one value. count_distinct leaves nulls out, but not a struct that contains a null.
            column = struct(*columns)
        metrics[f"{key}.{rule.kind}"] = (MEASURES[rule.kind], column)
    elif rule.kind in ROW_RULES:
        metrics[f"{key}.{rule.kind}.Compliance"] = ("avg", rule.row_condition.column(rule.value).cast("int"))
        if rule.row_condition.compares_sizes:
            metrics |= {f"{key}.Minimum": ("min", rule.value), f"{key}.Maximum": ("max", rule.value)}
    if rule.kind in NULL_RULES:
        metrics |= {
            f"Column.{name}.Completeness": ("avg", presence.cast("int"))
            for name, presence in zip(rule.names, presences, strict=True)
        }
    if rule.kind in REPEAT_RULES:
        # Only rows with a value count; for other rows ``when`` is null.
        metrics[f"{key}.Uniqueness"] = ("avg", when(reduce(operator.or_, presences), _is_unique(rule).cast("int")))
    return metrics


def _is_unique(rule: Rule) -> Column:
    """Return whether no other row has the same values in the rule's columns."""
    from pyspark.sql import Window
    from pyspark.sql.functions import col, count, expr, lit, when

    # The outcomes of single rows are computed on all rows; rows outside ``where`` must not count as repetitions.
    in_where = when(expr(rule.where), 1) if rule.where else lit(1)
    return count(in_where).over(Window.partitionBy(*[col(f"`{name}`") for name in rule.names])) == 1


def _row_outcome(rule: Rule) -> Column | None:
    """Return whether a row meets the rule; None if the rule is about all rows together."""
    from pyspark.sql.functions import coalesce, col, expr, lit

    if rule.parts:
        parts = [outcome for outcome in map(_row_outcome, rule.parts) if outcome is not None]
        combine = operator.and_ if rule.kind == "and" else operator.or_
        return reduce(combine, parts) if len(parts) == len(rule.parts) else None
    terms = [rule.row_condition.column(rule.value)] if rule.kind in ROW_RULES else []
    if rule.kind in NULL_RULES:
        terms += [col(f"`{name}`").isNotNull() for name in rule.names]
    if rule.kind in REPEAT_RULES:
        terms.append(_is_unique(rule))
    if not terms:
        return None
    outcome = reduce(operator.and_, terms)
    # A row outside ``where`` passes, as in Glue.
    return outcome | coalesce(~expr(rule.where), lit(True)) if rule.where else outcome


def _with_row_outcomes(frame: DataFrame, columns: Mapping[str, Column | None]) -> DataFrame:
    """Return the rows with the rules that each row has passed and failed; rules about all rows count as skipped."""
    from pyspark.sql.functions import array, array_compact, col, lit, size, when

    names = {text: f"_rule_{number}" for number, (text, column) in enumerate(columns.items()) if column is not None}
    rows = frame.withColumns({name: columns[text] for text, name in names.items()}) if names else frame
    texts_by_result = {
        "Pass": [when(col(name), text) for text, name in names.items()],
        "Fail": [when(~col(name), text) for text, name in names.items()],
        "Skip": [lit(text) for text in columns if text not in names],
    }
    for result, texts in texts_by_result.items():
        # An array without elements has no type of its own, hence the cast.
        rows = rows.withColumn(f"DataQualityRules{result}", array_compact(array(*texts).cast("array<string>")))
    outcome = when(size("DataQualityRulesFail") > 0, "Failed").otherwise("Passed")
    return rows.withColumn("DataQualityEvaluationResult", outcome).drop(*names.values())
