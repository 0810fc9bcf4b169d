"""The gate of the campaign against Sail: what it finds in SQL, and what it opens for."""

import pytest

from benchmarks.native.gate import learn, of_sql
from benchmarks.native.judge import bound, judged

pytestmark = pytest.mark.nightly


def test_constructs_of_sql_are_named() -> None:
    query = "SELECT upper(s), CAST(i AS DECIMAL(10,2)) FROM v JOIN w ON a = b ORDER BY lower(s)"

    assert of_sql(query) == {"fn:upper", "fn:lower", "cast:decimal", "join", "sort", "fn:=="}


def test_a_gate_opens_for_what_never_differed_and_is_judged() -> None:
    cases = {"a": {"x"}, "b": {"x", "y"}, "c": {"z"}, "d": {"w"}}
    assert learn(cases, {"a": "equal", "b": "different", "c": "equal", "d": "refused"}) == {"z"}

    found = judged({"a": {"x"}, "b": {"x"}, "c": {"y"}}, {"a": "equal"}, {"b": "different", "c": "different"})
    assert (found["through"], found["different_in_silence"], found["bound_95_of_cases"]) == (1, ["b"], None)
    assert bound(0, 300) == pytest.approx(0.01, abs=0.0005)
