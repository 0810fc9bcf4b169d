"""The stand-in for Glue's library: a script's arguments, and errors for names that the stand-in lacks."""

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
    """Make the library importable as in scripts, and remove it after the test."""
    monkeypatch.syspath_prepend(AWSGLUE)
    finders = list(sys.meta_path)
    yield
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.split(".")[0] in ("awsglue", "awsgluedq")]:
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


def test_option_names_are_resolved_as_in_glue() -> None:
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


@pytest.mark.parametrize("module", ["context", "data_sink", "dynamicframe", "job", "utils"])
def test_a_star_import_brings_only_glues_own_names(module: str) -> None:
    brought: dict[str, Any] = {}
    exec(f"from awsglue.{module} import *", brought)

    brought.pop("__builtins__")
    assert [name for name, value in brought.items() if value.__module__.split(".")[0] != "awsglue"] == []
    assert brought


@pytest.mark.parametrize(
    ("path", "expected"),
    [("s3a://b/out/a/", True), ("s3://b/out/a/x", True), ("s3://b/out/ab", False), ("s3://b/out", False)],
)
def test_a_path_is_the_attempts_output_only_below_its_folder(path: str, expected: bool) -> None:
    from awsglue.context import is_inside

    assert is_inside(path, "s3://b/out/a") is expected


UNSUPPORTED = {
    "from awsglue.transforms import *\nSplitRows.apply(None, {'a': {'>': 1}})": "where",
    "from awsglue.transforms import FlatMap\nFlatMap.apply(None, None)": "a loop",
    "from awsglue.dynamicframe import DynamicFrameCollection\nDynamicFrameCollection({}, None).map(len)": "a loop",
    "from awsglue.dynamicframe import DynamicFrame\nDynamicFrame(None, None).errorsAsDynamicFrame()": "--isolate",
    "from awsglue.transforms import EvaluateDataQuality": "awsgluedq.transforms",
    "import awsglue\nimport awsgluedq.rules": "toDF",
    "import awsglue\nimport gs_explode": "toDF",
    "from awsglue.gluetypes import Field": "pyspark.sql.types",
    "from awsglue.context import DataSource": "create_dynamic_frame",
    "from awsglue.dynamicframe import Unknown": "toDF",
}


@pytest.mark.parametrize("code", UNSUPPORTED)
def test_a_missing_name_is_refused_with_a_replacement(code: str) -> None:
    with pytest.raises((AttributeError, ImportError), match=r"Sparklet's awsglue has no .*: use ") as refused:
        exec(code, {})

    assert UNSUPPORTED[code] in str(refused.value)


OF_GLUE = {  # as of aws-glue-libs for Glue 6
    "dynamicframe.DynamicFrame": "with_frame_schema schema show filter mapPartitions map mapPartitionsWithIndex toDF "
    "printSchema fromDF unbox drop_fields select_fields split_fields split_rows rename_field write count spigot join "
    "unnest relationalize apply_mapping unnest_ddb_json simplify_ddb_json resolveChoice mergeDynamicFrame union "
    "getNumPartitions repartition coalesce errorsAsDynamicFrame errorsCount stageErrorsCount assertErrorThreshold",
    "context.GlueContext": "getSource getStreamingSource get_catalog_schema_as_spark_schema getSink get_logger "
    "create_sample_dynamic_frame_from_catalog create_sample_dynamic_frame_from_options write_from_options purge_table "
    "purge_s3_path transition_table transition_s3_path currentTimeMillis getSampleStreamingDynamicFrame forEachBatch "
    "add_ingestion_time_columns start_transaction commit_transaction cancel_transaction extract_jdbc_conf "
    "create_dynamic_frame_from_rdd write_dynamic_frame_from_jdbc_conf",
    "transforms": "Unbox RenameField DropFields SplitFields SelectFields SplitRows UnnestFrame Relationalize Map Union "
    "SelectFromCollection MapToCollection ErrorsAsDynamicFrame FlatMap DropNullFields Join ApplyMapping Repartition "
    "ResolveChoice Spigot Filter Coalesce",
}


def use_name(where: str, name: str) -> None:
    """Import or read a name of Glue's library, as a script would."""
    module, _, of_class = where.partition(".")
    there = importlib.import_module(f"awsglue.{module}")
    if not of_class:
        getattr(there, name).apply(mock.Mock(), "a", "b")
    elif of_class == "DynamicFrame":
        getattr(there.DynamicFrame(mock.Mock(), None), name)
    else:
        context = object.__new__(there.GlueContext)
        vars(context).update(create_dynamic_frame=there._Ways(), write_dynamic_frame=there._Ways())
        getattr(context, name)


@pytest.mark.parametrize("where", OF_GLUE)
def test_each_name_of_glue_exists_or_has_a_replacement(where: str) -> None:
    from awsglue import OTHERWISE

    without = []
    for name in OF_GLUE[where].split():
        try:
            use_name(where, name)
        except AttributeError as refused:
            without += [name] if OTHERWISE in str(refused) else []

    assert without == []


def test_the_librarys_errors_are_not_retried() -> None:
    from awsglue.utils import GlueArgumentError

    from sparklet.worker.executor import PERMANENT_CAUSES

    assert {AttributeError.__name__, ImportError.__name__, GlueArgumentError.__name__} <= PERMANENT_CAUSES


def test_the_finder_leaves_all_other_modules_alone() -> None:
    import awsglue  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="No module named 'awsglued'"):
        importlib.import_module("awsglued")
