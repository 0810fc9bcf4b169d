"""Secrets of arguments, parameters and variables reach the script, but no error, log line or document of Sparklet."""

import json
from typing import Any

import pytest

from sparklet.errors import SparkletError
from sparklet.model import Notice, RunState
from sparklet.model.redaction import HIDDEN
from sparklet.runs.manifest import write_manifests
from sparklet.runs.summary import statistics
from tests.unit.worker.conftest import BUCKET, Bench, exits

ARGS = ("--password", "hunter-two", "--api-key=K3Y/with+signs", "-p", "db_token=t0ken-value", "--level", "3")
PARAMS = {
    "db": {"password": 'quo"ted pass'},
    "url": "jdbc:postgresql://me:pa55word@db.example/x?user=me&password=s3cond!",
    "day": "2026-11-20",
    "partition_key": "customer",
}
ENV = {"SALES_SECRET": "from-the-environment", "MODE": "fast-mode"}
SECRETS = ["hunter-two", "K3Y/with+signs", "t0ken-value", "pa55word", "s3cond!", "from-the-environment"]
SECRETS += ['quo"ted pass', 'quo\\"ted pass', "K3Y/with%2Bsigns"]
CAUSES = (
    "login of me with hunter-two and K3Y/with%2Bsigns failed",
    f"on {PARAMS['url']}: {json.dumps(PARAMS['db'])}",
    "t0ken-value, from-the-environment; day 2026-11-20, customer, fast-mode",
)


@pytest.fixture
def failing(bench: Bench) -> Bench:
    bench.args, bench.params, bench.env = ARGS, PARAMS, ENV
    ends = iter([exits(1, "LoginError", cause, "\n".join(CAUSES)) for cause in CAUSES])
    bench.runner.behaviour = lambda call, output: next(ends)(call, output)
    return bench


def assert_clean(*shown: Any) -> None:
    text = "\n".join(each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in shown)
    assert [secret for secret in SECRETS if secret in text] == []


def test_a_shards_cause_log_and_documents_have_no_secret(failing: Bench) -> None:
    failing.plan(shards=3, max_attempts=1)
    outcomes = [failing.deliver() for _ in range(3)]

    deployment = failing.claims.deployment
    run = failing.ledger.runs.get("run-1")
    summary = write_manifests(deployment, run, RunState.FAILED)
    names = ("manifest.json", "report.json", "FAILED_0.json")
    documents = [failing.store.get(deployment.run_uri("run-1", name)).decode() for name in names]
    notice = Notice.of_run(run, statistics(run, summary)).to_json()
    causes = [record.error_message for record in failing.ledger.shards.list("run-1")]
    assert_clean(*causes, *documents, notice, *(str(outcome.error) for outcome in outcomes), failing.log_lines())
    assert HIDDEN in causes[0]
    assert HIDDEN in documents[2]
    assert all(each in causes[2] for each in ("2026-11-20", "customer", "fast-mode")), "the rest is shown"


def test_the_script_and_the_ledger_get_unredacted_arguments(failing: Bench) -> None:
    failing.attempt(max_attempts=1)

    call = failing.runner.calls[-1]
    assert call.args[:-2] == ARGS
    assert failing.runner.event()["params"] == PARAMS
    assert call.env["SALES_SECRET"] == ENV["SALES_SECRET"]
    run = failing.ledger.runs.get("run-1")
    assert (run.args, dict(run.params)) == (ARGS, PARAMS), "a redrive needs them"


def test_the_error_and_log_of_a_task_have_no_secret(failing: Bench) -> None:
    script = f"s3://{BUCKET}/scripts/default.py"
    event = {"sparklet": {"script": script, "args": list(ARGS)}, "login": {"password": 'quo"ted pass'}}
    event |= {"url": PARAMS["url"], "secret": "from-the-environment", "db_token": "t0ken-value"}
    for _ in CAUSES:
        (outcome,) = failing.invoke(event)
        assert isinstance(outcome.error, SparkletError)
        assert_clean(str(outcome.error), outcome.error.stderr_tail)  # type: ignore[attr-defined]
    assert_clean(failing.log_lines())


def test_a_short_secret_does_not_redact_ordinary_words(bench: Bench) -> None:
    bench.args = ("--password", "at")
    bench.attempt(exits(1, "ValueError", "bad date at line 3"), max_attempts=1)
    assert bench.failure[1].startswith("bad date at line 3")
