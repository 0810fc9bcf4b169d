"""Glue's data quality rules with real Spark: their outcomes for the whole frame, and for each row."""

import json
from typing import Any

import pytest

from sparklet.job.outcome import OUTCOME_FILE
from tests.functional.glue.test_glue_scripts import BEGIN, each_printed
from tests.functional.worker.conftest import Bench
from tests.functional.worker.conftest import bench as bench

pytestmark = pytest.mark.spark

FRAME = """
from awsglue.transforms import SelectFromCollection
from awsgluedq.transforms import EvaluateDataQuality
rows = [(1, "a", 10.0), (2, "b", 20.0), (3, "b", None), (4, None, 50.0)]
df = spark.createDataFrame(rows, "id int, name string, `a price` double")
frame = DynamicFrame.fromDF(df, glue, "frame")
"""
PASSED = [
    "ColumnCount > 0",
    "ColumnCount = 3",
    "RowCount between 3 and 5",
    "RowCount in [3, 4]",
    "RowCount not between 5 and 9",
    'ColumnExists "name"',
    'IsComplete "id"',
    'IsComplete "name" where "id < 4"',
    'Completeness "name" > 0.7',
    'IsUnique "id"',
    'IsPrimaryKey "id"',
    'IsPrimaryKey "id" "name" where "name IS NOT NULL"',
    'Uniqueness "name" < 0.5',
    'DistinctValuesCount "name" = 3',
    'Mean "id" = 2.5',
    'Sum "a price" >= 80',
    'StandardDeviation "id" between 1 and 2',
    'ColumnValues "id" between 0 and 5',
    'ColumnValues "id" in [1, 2, 3, 4]',
    'ColumnValues "name" in ["a", "b", NULL]',
    'ColumnValues "name" != "c"',
    'ColumnValues "name" not in ["c", EMPTY, WHITESPACES_ONLY]',
    'ColumnValues "name" matches "[a-b]" with threshold > 0.7',
    'ColumnLength "name" <= 1',
    'CustomSql "SELECT count(*) FROM primary" = 4',
    '(IsComplete "name") or ((IsUnique "id") and (RowCount > 3))',
]
FAILED = {
    "ColumnCount != 3": "Value: 3.0",
    "RowCount between 4 and 9": "Value: 4.0",  # "between" excludes its limits
    'ColumnExists "none"': "Value: 0.0",
    'IsComplete "none"': "column none",
    'IsComplete "name"': "Value: 0.75",
    'IsUnique "name"': "Value: 0.333",
    'IsPrimaryKey "name"': "Value: 0.75",
    'Mean "name" > 0': "cast it",
    'Mean "id" > 0 where "id > 9"': "NULL",
    'ColumnValues "a price" > 0': "Value: 0.75",  # a null fails
    'ColumnValues "name" = "a"': "Value: 0.25",
    'ColumnValues "name" not matches "b"': "Value: 0.25",
    'ColumnLength "name" > 0': "Value: 0.75",
    '(IsComplete "name") and (IsUnique "id")': "Value: 0.75",
    '(IsComplete "none") or (RowCount > 9)': "column none",
}


def ruleset(rules: list[str]) -> str:
    return json.dumps("# some rules\nRules = [\n" + ",  # and\n".join(rules) + "\n]")


def test_a_rule_passes_or_has_a_failure_reason(warm: Bench) -> None:
    code = f"show(EvaluateDataQuality.apply(frame=frame, ruleset={ruleset([*PASSED, *FAILED])}))"

    printed = warm.run(f"{BEGIN}{FRAME}{code}").printed()

    assert [each["Rule"] for each in printed if each["Outcome"] == "Passed"] == PASSED
    failed = {each["Rule"]: each["FailureReason"] for each in printed if each["Outcome"] == "Failed"}
    assert list(failed) == list(FAILED)
    assert {rule: reason for rule, reason in failed.items() if FAILED[rule] not in reason} == {}
    assert printed[2]["EvaluatedMetrics"] == {"Dataset.*.RowCount": 4.0}
    assert printed[-5]["EvaluatedMetrics"] == {"Column.name.ColumnValues.Compliance": 0.25}


def test_each_row_has_its_passed_and_failed_rules(warm: Bench) -> None:
    rules = [
        'IsComplete "name"',
        'IsUnique "name"',
        "RowCount > 9",
        '(ColumnValues "id" > 1) or (IsComplete "a price")',
    ]
    code = f"""
found = EvaluateDataQuality().process_rows(frame=frame, ruleset={ruleset(rules)}, publishing_options={{
    "dataQualityEvaluationContext": "node", "enableDataQualityResultsPublishing": True}},
    additional_options={{"dataQualityResultsPublishing.strategy": "BEST_EFFORT", "observations.scope": "ALL"}})
show(SelectFromCollection.apply(dfc=found, key="rowLevelOutcomes", transformation_ctx="x"))
show(SelectFromCollection.apply(found, "originalData"))
show(SelectFromCollection.apply(dfc=found, key="none"))
print(json.dumps([list(found.keys()), found["ruleOutcomes"].count()]))
"""
    rows, original, none, keys_and_count = each_printed(warm.run(f"{BEGIN}{FRAME}{code}"))

    complete, unique, count, either = rules
    by_id = {row["id"]: row for row in rows}
    assert [by_id[n]["DataQualityEvaluationResult"] for n in (1, 2, 3, 4)] == ["Passed", "Failed", "Failed", "Failed"]
    assert by_id[1]["DataQualityRulesPass"] == [complete, unique, either]
    assert by_id[2]["DataQualityRulesFail"] == [unique]
    assert complete in by_id[4]["DataQualityRulesFail"]
    assert all(row["DataQualityRulesSkip"] == [count] for row in rows)
    assert (sorted(row["id"] for row in original), none) == ([1, 2, 3, 4], [])
    assert keys_and_count == [["rowLevelOutcomes", "ruleOutcomes", "originalData"], 4]


REFUSED = {
    'DataFreshness "id" <= 24 hours': "rule DataFreshness",
    "RowCount > avg(last(10))": "value avg of RowCount",
    'ColumnValues "id" > (now() - 3 days)': "value ( of ColumnValues",
    'IsComplete "id" labels=["x"]': "labels",
    "RowCount": "RowCount without a condition",
}


def test_an_unsupported_rule_is_refused_before_rows_are_read(warm: Bench) -> None:
    tried = "\n".join(
        f"try:\n    EvaluateDataQuality.apply(broken, {ruleset(['ColumnCount > 0', rule])})\n"
        "except AttributeError as error:\n    print(json.dumps(str(error)))"
        for rule in REFUSED
    )
    broken = "broken = DynamicFrame.fromDF(df.selectExpr('raise_error(name) AS id'), glue, 'broken')\n"

    printed = each_printed(warm.run(f"{BEGIN}{FRAME}{broken}{tried}"))

    assert len(printed) == len(REFUSED)
    assert all(name in cause and ": use " in cause for name, cause in zip(REFUSED.values(), printed, strict=True)), (
        printed
    )


def test_a_ruleset_that_is_not_dqdl_fails_the_script(warm: Bench) -> None:
    ran = warm.run(f"{BEGIN}{FRAME}EvaluateDataQuality.apply(frame, 'Rules = [ IsComplete id ]')")

    assert (ran.code, ran.result.cause_class) == (1, "ValueError")
    assert "id after" in ran.result.cause


def test_outcomes_are_kept_for_the_runs_report(warm: Bench, tmp_path: Any) -> None:
    code = f"""
EvaluateDataQuality().process_rows(frame=frame, ruleset="Rules = [ ColumnCount > 0 ], Analyzers = [ RowCount ]")
EvaluateDataQuality().process_rows(frame, {ruleset(['IsComplete "name"'])}, {{"dataQualityEvaluationContext": "b",
    "resultsS3Prefix": "file://{tmp_path}/results"}})
"""
    ran = warm.run(f"{BEGIN}{FRAME}{code}", env={OUTCOME_FILE: str(tmp_path / "outcome.json")})

    assert ran.code == 0, ran.text("stderr")
    first, second = json.loads((tmp_path / "outcome.json").read_text())["quality"]
    assert (first["context"], first["rules"][0]["Outcome"]) == ("default_context", "Passed")
    assert (second["context"], second["rules"][0]["Rule"]) == ("b", 'IsComplete "name"')
    written = "".join(each.read_text() for each in (tmp_path / "results").glob("*.json"))
    assert [json.loads(line)["Outcome"] for line in written.splitlines()] == ["Failed"]
