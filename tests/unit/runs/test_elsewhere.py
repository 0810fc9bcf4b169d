"""The commands for other engines, read back as a shell, the AWS command line and the script read them."""

import json
import shlex
from dataclasses import replace
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from sparklet.cli.engines import ENGINES, Command, ElsewhereJob, Places, commands, fargate, job_of_run, job_of_shard
from sparklet.errors import PlanError
from sparklet.job import Job
from sparklet.model import (
    Access,
    InputObject,
    ListSource,
    Run,
    RunOptions,
    ScriptRef,
    Shard,
    ShardRecord,
    Slice,
    SliceKind,
)
from sparklet.worker.one_shard import DEFAULT_TIMEOUT_S, ShardCommand, parse
from tests.unit.worker.test_staging import MISREAD

AWKWARD = ('s3://b/in/it\'s "one" file.csv', "s3://b/in/a+b %20;$(rm).csv", "s3://b/in/{{x}} späte,r.csv")
PLAIN = ElsewhereJob(
    "s3://b/etl.py", AWKWARD, "s3://b/my out", {"schema": "id INT, n STRING"}, ("--fast", "yes"), ("s3://b/lib.zip",)
)
AT = Places("s3://b/staging", "spark://m:7077", "j-123", "00f1", "arn:aws:iam::123456789012:role/r")
RUN = Run(
    "etl-1",
    ("s3://b/in/",),
    "s3://b/out",
    (ScriptRef("s3://d/runs/etl-1/script/abc/etl.py", "abc", "etl.py", ("s3://d/runs/etl-1/script/def/lib.zip",)),),
    args=("--fast", "yes"),
    params={"limit": 3, "note": "a {{b}}"},
)
READABLE = (*AWKWARD[:2], "s3://b/in/$x späte,r.csv")
SHARD = Shard(7, tuple(InputObject(uri, 1) for uri in READABLE))


RECORD = ShardRecord(RUN.run_id, SHARD.number, "part", 0, 1, 1, 1)


def through_a_shell(command: Command) -> list[str]:
    return shlex.split(shlex.join(command))


def options(command: Command) -> dict[str, str]:
    """What the AWS command line is told, by option."""
    words = through_a_shell(command)[3:]
    return dict(zip(words[::2], words[1::2], strict=True))


def told(command: Command) -> list[str]:
    """What reaches the script, in argv."""
    words = through_a_shell(command)
    if words[0] == "spark-submit":
        return after_the_script(words)
    given = options(command)
    if "--steps" in given:
        (step,) = json.loads(given["--steps"])
        return after_the_script(step["Args"])
    if "--job-driver" in given:
        return list(json.loads(given["--job-driver"])["sparkSubmit"]["entryPointArguments"])
    pairs = {"--JOB_NAME": given["--job-name"], **json.loads(given["--arguments"])}  # Glue adds its own
    return [word for pair in pairs.items() for word in pair]


def after_the_script(words: list[str]) -> list[str]:
    return words[next(place for place, word in enumerate(words) if word.endswith("etl.py")) + 1 :]


def last(job: ElsewhereJob, engine: str) -> Command:
    return list(commands(job, engine, AT))[-1]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_script_gets_the_same_input_on_every_engine(engine: str) -> None:
    job = Job.from_args(told(last(PLAIN, engine)), {})

    assert job.inputs == AWKWARD
    assert job.output == "s3://b/my out"
    assert job.params == {"schema": "id INT, n STRING"}
    assert job.args[-2:] == ("--fast", "yes")
    assert job.run_id is None


@pytest.mark.parametrize("engine", ENGINES)
def test_a_shard_elsewhere_is_the_same_shard(engine: str) -> None:
    job = Job.from_args(told(last(job_of_shard(RUN, RECORD, SHARD), engine)), {})

    assert (job.run_id, job.shard, job.generation) == ("etl-1", 7, 0)
    assert job.inputs == READABLE
    assert job.output == RUN.shard_output(7)
    assert job.params == {"limit": 3, "note": "a {{b}}"}  # with its types
    assert job.args[-2:] == ("--fast", "yes")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_whole_run_elsewhere_reads_its_folders(engine: str) -> None:
    job = Job.from_args(told(last(job_of_run(RUN), engine)), {})

    assert (job.inputs, job.output, job.run_id) == (("s3://b/in/",), "s3://b/out", None)
    assert job.params == {"limit": 3, "note": "a {{b}}"}


@pytest.mark.parametrize("engine", ["emr", "emr-serverless"])
@pytest.mark.parametrize(
    "job", [PLAIN, job_of_run(RUN), job_of_shard(RUN, RECORD, SHARD)], ids=["plain", "run", "shard"]
)
def test_yarn_finds_no_braces_to_expand(job: ElsewhereJob, engine: str) -> None:
    assert not any("{{" in word or "}}" in word for word in told(last(job, engine)))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, max_size=4))
def test_no_name_breaks_a_command(names: list[str]) -> None:
    inputs = tuple(f"s3://b/{name}" for name in names)
    for engine in ENGINES:
        job = Job.from_args(told(last(replace(PLAIN, inputs=inputs), engine)), {})
        assert job.inputs == inputs


# As AWS's own service models have it


def valid(service: str, operation: str, parameters: dict[str, Any]) -> None:
    model = botocore.session.get_session().get_service_model(service).operation_model(operation)
    assert model.input_shape is not None
    report = ParamValidator().validate(parameters, model.input_shape)
    assert not report.has_errors(), report.generate_report()


def test_emr_is_sent_a_step() -> None:
    command = last(PLAIN, "emr")
    (step,) = json.loads(options(command)["--steps"])

    assert command[:5] == ("aws", "emr", "add-steps", "--cluster-id", "j-123")
    assert step["Type"] == "CUSTOM_JAR"
    jar = {"Jar": step["Jar"], "Args": step["Args"]}
    steps = [{"Name": step["Name"], "ActionOnFailure": step["ActionOnFailure"], "HadoopJarStep": jar}]
    valid("emr", "AddJobFlowSteps", {"JobFlowId": "j-123", "Steps": steps})
    assert step["Args"][:5] == [
        *("spark-submit", "--deploy-mode", "cluster", "--py-files", "s3://b/staging/sparklet-job.zip,s3://b/lib.zip")
    ]


def test_emr_serverless_is_sent_a_job() -> None:
    given = options(last(PLAIN, "emr-serverless"))
    driver = json.loads(given["--job-driver"])

    valid(
        "emr-serverless",
        "StartJobRun",
        {
            "applicationId": given["--application-id"],
            "executionRoleArn": given["--execution-role-arn"],
            "name": given["--name"],
            "jobDriver": driver,
            "clientToken": "t",  # the command line makes one
        },
    )
    assert driver["sparkSubmit"]["entryPoint"] == "s3://b/etl.py"
    assert driver["sparkSubmit"]["sparkSubmitParameters"] == "--py-files s3://b/staging/sparklet-job.zip,s3://b/lib.zip"


def test_glue_is_sent_a_job_and_a_run_of_it() -> None:
    create, start = list(commands(PLAIN, "glue", AT))[-2:]
    made, started = options(create), options(start)
    names = {"--name": "Name", "--role": "Role", "--glue-version": "GlueVersion", "--worker-type": "WorkerType"}

    valid(
        "glue",
        "CreateJob",
        {
            **{field: made[option] for option, field in names.items()},
            "Command": json.loads(made["--command"]),
            "DefaultArguments": json.loads(made["--default-arguments"]),
            "NumberOfWorkers": int(made["--number-of-workers"]),
        },
    )
    arguments = json.loads(started["--arguments"])
    valid("glue", "StartJobRun", {"JobName": started["--job-name"], "Arguments": arguments})
    assert json.loads(made["--default-arguments"]) == {
        "--extra-py-files": "s3://b/staging/sparklet-job.zip,s3://b/lib.zip"
    }


def test_spark_submit_gets_the_bundle_and_s3() -> None:
    words = last(PLAIN, "spark-submit")

    assert words[:7] == (
        *("spark-submit", "--master", "spark://m:7077", "--name", "etl"),
        *("--py-files", "sparklet-job.zip,s3://b/lib.zip"),
    )
    assert "spark.hadoop.fs.s3.impl=org.apache.hadoop.fs.s3a.S3AFileSystem" in words


# What is on this machine is copied first


def test_local_files_are_copied_where_aws_reads_them() -> None:
    job = replace(PLAIN, script="jobs/my etl.py", py_files=("libs/lib.zip",))
    made, *copies, step = commands(job, "emr", AT)

    assert made == ("python", "-m", "sparklet.job.bundle", "sparklet-job.zip")
    assert [copy[3:] for copy in copies] == [
        ("jobs/my etl.py", "s3://b/staging/my etl.py"),
        ("sparklet-job.zip", "s3://b/staging/sparklet-job.zip"),
        ("libs/lib.zip", "s3://b/staging/lib.zip"),
    ]
    assert "s3://b/staging/my etl.py" in json.loads(options(step)["--steps"])[0]["Args"]


def test_fargate_is_sent_a_task_of_sparklets_own_image() -> None:
    command = fargate("etl-1", 7)

    given = options(command)
    asked = {
        "cluster": given["--cluster"],
        "taskDefinition": given["--task-definition"],
        "launchType": given["--launch-type"],
        "networkConfiguration": json.loads(given["--network-configuration"]),
        "overrides": json.loads(given["--overrides"]),
    }
    shape = botocore.session.get_session().get_service_model("ecs").operation_model("RunTask").input_shape
    assert shape and not ParamValidator().validate(asked, shape).has_errors()
    (container,) = asked["overrides"]["containerOverrides"]
    assert parse(container["command"][1:]) == ShardCommand("etl-1", 7, None, DEFAULT_TIMEOUT_S, redrive=True)


def test_placeholders_of_unnamed_values_are_in_capitals() -> None:
    assert "CLUSTER_ID" in list(commands(PLAIN, "emr"))[-1]
    assert "ROLE_ARN" in list(commands(PLAIN, "emr-serverless"))[-1]


# Refusals, each with its remedy


@pytest.mark.parametrize(
    ("engine", "changes", "cause"),
    [
        ("emr", {"py_files": ("s3://b/a,b.zip",)}, "rename"),
        ("emr", {"inputs": ("data/in.csv",)}, "copy it to S3"),
        ("glue", {"output": "file:///out"}, "copy it to S3"),
        ("emr", {"py_files": ("x/lib.zip", "y/lib.zip")}, "same name"),
        ("emr", {"args": ("{{x}}",)}, "YARN expands"),
        ("emr", {"inputs": tuple(f"s3://bucket/folder/{n:08d}.csv" for n in range(400))}, "at most 10240"),
        ("emr-serverless", {"inputs": tuple(f"s3://b/{n}" for n in range(600))}, "at most 1024"),
        ("emr-serverless", {"args": (" ",)}, "none of them is empty"),
        ("glue", {"args": ("positional",)}, "pairs of --key value"),
        ("glue", {"args": ("--a", "1", "--a", "2")}, "each key once"),
        ("glue", {"inputs": tuple(f"s3://bucket/folder/{n:08d}.csv" for n in range(9000))}, "at most 260000"),
        ("spark-submit", {"params": {"big": "x" * 110_000}}, "fewer objects a shard"),
    ],
)
def test_options_an_engine_does_not_know_are_refused(engine: str, changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(PlanError, match=cause):
        list(commands(replace(PLAIN, **changes), engine, AT))


@pytest.mark.parametrize(
    "narrowed",
    [
        replace(RUN, options=RunOptions(include=("*.csv",))),
        replace(RUN, options=RunOptions(incremental=True)),
        replace(RUN, lists=(ListSource("s3://b/list.csv", "csv"),)),
        replace(RUN, access=Access(role_arn="arn:aws:iam::1:role/r")),
        replace(RUN, inputs=("s3://b/in/", "s3://b/x._COPYING_")),
        replace(RUN, inputs=("s3://b/day=[1]/",)),
    ],
)
def test_a_run_of_a_filtered_input_is_not_taken_for_all_of_it(narrowed: Run) -> None:
    with pytest.raises(PlanError, match="name shards of it"):
        job_of_run(narrowed)


@pytest.mark.parametrize(
    ("item", "access"),
    [
        (InputObject("s3://b/a", 1, version_id="v1"), Access()),
        (InputObject("s3://b/a", 1, slice=Slice(SliceKind.LINES, 0, 1)), Access()),
        (InputObject("s3://b/a", 1), Access(role_arn="arn:aws:iam::1:role/r")),
        (InputObject("s3://b/a", 1), Access(requester_pays=True)),
        *((InputObject(f"s3://b/{key}", 1), Access()) for key in MISREAD),
    ],
)
def test_options_only_a_worker_reads_are_not_sent_elsewhere(item: InputObject, access: Access) -> None:
    with pytest.raises(PlanError, match=r"(?s)shard 3 of etl-1 holds .* which Spark alone cannot read"):
        job_of_shard(replace(RUN, access=access), RECORD, Shard(3, (SHARD.objects[0], item)))
