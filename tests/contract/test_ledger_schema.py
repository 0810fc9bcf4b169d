"""The ledger's promises about the schema that is inferred for a run."""

import pytest

from sparklet.errors import RunNotFoundError
from sparklet.ports import Ledger
from tests.contract.samples import planned, run


def test_the_first_schema_of_a_run_is_kept(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))
    assert ledger.runs.get(run_id).schema is None

    first = ledger.runs.set_schema(run_id, "id BIGINT")
    second = ledger.runs.set_schema(run_id, "id STRING")

    assert first.schema == second.schema == ledger.runs.get(run_id).schema == "id BIGINT"


def test_a_sealed_plan_gets_no_schema(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    assert ledger.runs.set_schema(run_id, "id BIGINT").schema is None
    assert ledger.runs.get(run_id).schema is None


def test_an_unknown_run_gets_no_schema(ledger: Ledger, run_id: str) -> None:
    with pytest.raises(RunNotFoundError, match=run_id):
        ledger.runs.set_schema(run_id, "id BIGINT")
