"""Glue's library where Glue is not: the arguments of a script, and what it says of names that it lacks."""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from sparklet.job.outcome import EVENT
from sparklet.spark.spark_options import AWSGLUE

SHARD = {"run": "run-1", "shard": 7, "attempt": "a1", "generation": 0}


@pytest.fixture(autouse=True)
def glue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library, as scripts import it; gone afterwards."""
    monkeypatch.syspath_prepend(AWSGLUE)
    finders = list(sys.meta_path)
    yield
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.split(".")[0] == "awsglue"]:
        del sys.modules[name]


def resolved(options: list[str], *argv: str, params: Any = None) -> dict[str, Any]:
    from awsglue.utils import getResolvedOptions

    event: dict[str, Any] = {"sparklet": SHARD, "inputs": [], "output_path": "s3://staged/", "params": params or {}}
    with mock.patch.dict(os.environ, {EVENT: json.dumps(event)}):
        found: dict[str, Any] = getResolvedOptions(["/task/my_job.py", *argv], options)
    return found


def test_arguments_parameters_and_environment_are_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("region", "of the environment")
    monkeypatch.setenv("day", "of the environment")
    monkeypatch.setenv("target", "of the environment")

    found = resolved(
        ["JOB_NAME", "target", "day", "region", "limit"],
        *("--target", "s3://out/", "--other", "x"),
        params={"day": "2026-11-23", "target": "of the parameters", "limit": 3},
    )

    assert found == {
        "JOB_NAME": "my_job",
        "target": "s3://out/",
        "day": "2026-11-23",
        "region": "of the environment",
        "limit": "3",
        "TempDir": None,
        "JOB_RUN_ID": "run-1_000007",
    }


def test_a_job_run_is_a_shard_or_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from awsglue.utils import getResolvedOptions

    assert resolved(["JOB_RUN_ID"])["JOB_RUN_ID"] == "run-1_000007"
    assert resolved([], "--JOB_RUN_ID", "jr_1")["JOB_RUN_ID"] == "jr_1"
    monkeypatch.setenv(EVENT, "{}")
    one, other = (getResolvedOptions(["job.py"], options)["JOB_RUN_ID"] for options in ([], ["JOB_RUN_ID"]))
    assert (one or "").startswith("jr_")
    assert one == other


def test_a_scripts_own_input_and_output_are_not_the_shards() -> None:
    found = resolved(["output", "event_date"], "--output", "s3://mine/", "--event_date", "2026-11-23")

    assert (found["output"], found["event_date"]) == ("s3://mine/", "2026-11-23")


def test_names_are_those_of_glue() -> None:
    assert resolved(["JOB_NAME", "my-option"], "--JOB_NAME", "nightly", "--my-option=a b")["my_option"] == "a b"
    assert resolved(["JOB_NAME"], "--JOB_NAME", "nightly")["JOB_NAME"] == "nightly"
    assert resolved([], "--TempDir", "s3://tmp/")["TempDir"] == "s3://tmp/"


def test_a_missing_option_is_named_with_the_ways_to_give_it() -> None:
    from awsglue.utils import GlueArgumentError

    with pytest.raises(GlueArgumentError, match=r"--target.*-p NAME=.*--env NAME=.*-- --NAME"):
        resolved(["JOB_NAME", "target"])


def test_a_job_begins_and_ends_without_a_bookmark() -> None:
    from awsglue.job import Job

    job = Job(None)
    job.init("my_job", {"JOB_NAME": "my_job"})
    job.commit()


UNSUPPORTED = [
    "from awsglue.transforms import *\nResolveChoice.apply(frame=None, specs=[('id', 'cast:long')])",
    "from awsglue.transforms import *\nRelationalize.apply(frame=None, staging_path='s3://x/')",
    "from awsglue.dynamicframe import DynamicFrame\nDynamicFrame(None, None).resolveChoice(choice='make_cols')",
    "from awsglue.dynamicframe import DynamicFrame\nDynamicFrame(None, None).errorsAsDynamicFrame()",
    "from awsglue.dynamicframe import DynamicFrameCollection",
    "from awsglue.transforms import EvaluateDataQuality",
    "from awsglue.context import DataSink",
    "import awsglue.gluetypes",
]


@pytest.mark.parametrize("code", UNSUPPORTED)
def test_what_is_not_there_is_named_with_the_dataframes_way(code: str) -> None:
    with pytest.raises((AttributeError, ImportError), match=r"Sparklet's awsglue has no .*: use .*DF\(") as refused:
        exec(code, {})

    named = [word for word in ("ResolveChoice", "Relationalize", "Join", "resolveChoice", "errorsAs") if word in code]
    assert all(name in str(refused.value) for name in named)


def test_the_errors_are_those_that_no_attempt_repeats() -> None:
    from awsglue.utils import GlueArgumentError

    from sparklet.worker.executor import PERMANENT_CAUSES

    assert {AttributeError.__name__, ImportError.__name__, GlueArgumentError.__name__} <= PERMANENT_CAUSES


def test_the_finder_leaves_all_other_modules_alone() -> None:
    import awsglue  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="No module named 'awsglued'"):
        importlib.import_module("awsglued")
