"""The gate of the campaign against Sail: what it finds in SQL and plans, and what it opens for."""

import pytest

from benchmarks.native.gate import learn, normal, of_plan, of_sql
from benchmarks.native.judge import bound, judged, tried


def test_constructs_of_sql_are_named() -> None:
    query = "SELECT upper(s), CAST(i AS DECIMAL(10,2)) FROM v JOIN w ON a = b ORDER BY lower(s)"

    assert of_sql(query) == {"fn:upper", "fn:lower", "cast:decimal", "join", "sort", "fn:=="}


def test_constructs_of_a_plan_are_named() -> None:
    relations = pytest.importorskip("pyspark.sql.connect.proto")
    plan = relations.Plan()
    read = plan.root.filter.input.read.data_source
    read.format, read.options["header"] = "csv", "true"
    plan.root.filter.condition.unresolved_function.function_name = "upper"

    assert normal(of_plan(plan)) == {"filter", "read:csv", "schema:csv.guessed", "option:csv.header", "fn:upper"}


def test_what_differed_once_is_closed_and_so_is_the_unknown() -> None:
    cases = {"a": {"x"}, "b": {"x", "y"}, "c": {"z"}, "d": {"w"}}

    assert learn(cases, {"a": "equal", "b": "different", "c": "equal", "d": "refused"}) == {"z"}


def test_a_gate_is_judged_on_what_it_lets_through() -> None:
    cases = {"a": {"x"}, "b": {"x"}, "c": {"y"}}

    found = judged(cases, {"a": "equal"}, {"b": "different", "c": "different"})

    assert (found["through"], found["different_in_silence"], found["bound_95_of_cases"]) == (1, ["b"], None)
    assert bound(0, 300) == pytest.approx(0.01, abs=0.0005)


def test_the_suite_has_hundreds_of_constructs() -> None:
    assert len(tried()) >= 900
    assert {"fn:upper"} == tried()["upper_s"][2] and "read:csv" in tried()["csv_typed_sep"][2]
