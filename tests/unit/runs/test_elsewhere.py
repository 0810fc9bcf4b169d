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

from sparklet.cli.engines import ENGINES, Command, ElsewhereJob, Places, commands
from sparklet.errors import PlanError
from sparklet.job import Job

AWKWARD = ('s3://b/in/it\'s "one" file.csv', "s3://b/in/a+b %20;$(rm).csv", "s3://b/in/{{x}} späte,r.csv")
PLAIN = ElsewhereJob(
    "s3://b/etl.py", AWKWARD, "s3://b/my out", {"schema": "id INT, n STRING"}, ("--fast", "yes"), ("s3://b/lib.zip",)
)
AT = Places("s3://b/staging", "spark://m:7077", "j-123", "00f1", "arn:aws:iam::123456789012:role/r")


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


@pytest.mark.parametrize("engine", ["emr", "emr-serverless"])
@pytest.mark.parametrize("job", [PLAIN, replace(PLAIN, params={"note": "a {{b}}"})], ids=["words", "event"])
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
    ],
)
def test_options_an_engine_does_not_know_are_refused(engine: str, changes: dict[str, Any], cause: str) -> None:
    with pytest.raises(PlanError, match=cause):
        list(commands(replace(PLAIN, **changes), engine, AT))
