"""Settings from the environment: wrong names and values are refused, without secrets in the error."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparklet import settings
from sparklet.errors import SettingsError
from sparklet.settings import (
    NAMES,
    fanout_settings,
    planner_settings,
    script_variables,
    spark_settings,
    worker_settings,
)

RUNTIME = Path(settings.__file__).parent
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def test_every_name_in_the_code_is_known() -> None:
    used: dict[str, str] = {}
    for path in RUNTIME.rglob("*.py"):
        text = path.read_text()
        text = text.partition("Every variable that begins with")[2] or text  # behind the list of names itself
        for name in re.findall(r"\bSPARKLET_[A-Z0-9_]*[A-Z0-9]\b", text):
            used.setdefault(name, str(path.relative_to(RUNTIME)))

    assert {name: where for name, where in used.items() if name not in NAMES} == {}, "add it to sparklet.settings.NAMES"
    assert set(used) >= NAMES


@pytest.mark.parametrize("read", [worker_settings, spark_settings, fanout_settings, planner_settings])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SPARKLET_RUNER", "is SPARKLET_RUNNER meant"),
        ("SPARKLET_HEAP_MIB", "is SPARKLET_HEAP_MB meant"),
        ("SPARKLET_SCRIPT_PREFIX", "is SPARKLET_SCRIPT_PREFIXES meant"),
        ("SPARKLET_XYZZY_QUUX_FROB", "unset it"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_nearest_name(read: object, name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"there is no setting {name}; {message}"):
        read({name: SECRET})  # type: ignore[operator]


def test_foreign_variables_are_ignored() -> None:
    assert worker_settings({"SPARKLETS": "x", "sparklet_runner": "x", "MY_SPARKLET_X": "x"}).runner == "warm"


def test_difflib_is_imported_only_for_a_misspelt_name() -> None:
    code = "import sys, sparklet.settings as s; s.worker_settings({}); print('difflib' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SPARKLET_RUNNER", "hot", "'hot'; it must be warm or submit"),
        ("SPARKLET_KEEP_CONTEXT", "yes", "'yes'; it must be on or off"),
        ("SPARKLET_KAFKA_FAILURES", "ignore", "'ignore'; it must be raise or report"),
        ("SPARKLET_GRACE_S", "nan", "must not be negative and at most 600"),
        ("SPARKLET_GRACE_S", "inf", "at most 600"),
        ("SPARKLET_GRACE_S", "900", "at most 600"),
        ("SPARKLET_TASKS_PER_JVM", "0", "must be at least 1"),
        ("SPARKLET_TASKS_PER_JVM", "1.5", "must be a whole number"),
        ("SPARKLET_MIN_FREE_BYTES", "-1", "must not be negative"),
        ("SPARKLET_MIN_FREE_BYTES", "9" * 5_000, "SPARKLET_MIN_FREE_BYTES is "),
        ("SPARKLET_SCRIPT_PREFIXES", "s3://ok/,/etc/", "'/etc/' must look like s3://bucket/folder/"),
        ("SPARKLET_OUTPUT_PREFIXES", "s3://b/x", "'s3://b/x' must look like s3://bucket/folder/"),
    ],
)
def test_a_wrong_value_is_refused_by_name_in_a_few_words(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as error:
        worker_settings({name: value})

    assert str(error.value).startswith(name)
    assert message in str(error.value)
    assert len(str(error.value)) < 250


def test_a_heap_larger_than_the_function_is_refused() -> None:
    with pytest.raises(SettingsError, match="SPARKLET_HEAP_MB is 4096, but the function has 3008 MB"):
        spark_settings({"SPARKLET_HEAP_MB": "4096", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3008"})
    assert spark_settings({"SPARKLET_HEAP_MB": "4096"}).heap_mb == 4096


@pytest.mark.parametrize(
    "name",
    [
        *("SPARKLET_RUNNER", "SPARKLET_GRACE_S", "SPARKLET_TASKS_PER_JVM", "SPARKLET_KAFKA_FAILURES"),
        *("SPARKLET_SCRIPT_PREFIXES", "SPARKLET_OUTPUT_PREFIXES", "SPARKLET_MIN_FREE_BYTES"),
    ],
)
@pytest.mark.parametrize("value", [SECRET, f"x{SECRET}x", "AKIAIOSFODNN7EXAMPLE", "my-secret", "hunter2"])
def test_a_value_that_looks_like_or_is_a_credential_is_not_shown(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as error:
        worker_settings({name: value, "DB_PASSWORD": "hunter2"})

    assert value not in str(error.value)
    assert "may be a secret" in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPARKLET_JAVA_OPTIONS", "-Dpassword='hunter2"),
        ("SPARKLET_JAVA_OPTIONS", "'" + "hunter2" * 10_000),
        ("SPARKLET_SPARK_CONF", "hunter2"),
        ("SPARKLET_SPARK_CONF", '["hunter2"]'),
        ("SPARKLET_SPARK_CONF", '{"spark.hadoop.fs.s3a.secret.key": "hunter2", "x": 1}'),
        ("SPARKLET_SPARK_CONF", '{"hunter2-hunter2": "x"}'),
        ("SPARKLET_SPARK_CONF", "[" * 10_000 + "hunter2"),
    ],
)
def test_options_that_may_hold_credentials_are_never_shown(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as error:
        spark_settings({name: value, "DB_PASSWORD": "hunter2"})

    assert "hunter2" not in str(error.value)


def test_settings_within_one_variable_count_like_their_own() -> None:
    within = {"SPARKLET_RUNNER": "submit", "SPARKLET_HEAP_MB": "900", "SPARKLET_JAVA_OPTIONS": "-Xss4m"}
    env = {"SPARKLET_WORKER_SETTINGS": json.dumps(within)}

    assert worker_settings(env).runner == "submit"
    assert spark_settings(env).heap_mb == 900
    assert spark_settings({**env, "SPARKLET_HEAP_MB": "700"}).heap_mb == 700  # a variable of its own wins
    assert script_variables(env) == {"SPARKLET_JAVA_OPTIONS": "-Xss4m"}  # workers of engines get these, too


@pytest.mark.parametrize("read", [worker_settings, spark_settings])
@pytest.mark.parametrize(
    ("within", "message"),
    [
        ("hunter2", "SPARKLET_WORKER_SETTINGS is not a JSON object"),
        ('{"SPARKLET_HEAP_MB": 900}', "SPARKLET_HEAP_MB' is a int; values are strings"),
        ('{"HEAP_MB": "900"}', "keys begin with SPARKLET_"),
        ('{"SPARKLET_HEAP_MIB": "900"}', "is SPARKLET_HEAP_MB meant"),
    ],
)
def test_wrong_settings_within_one_variable_are_refused(read: object, within: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as error:
        read({"SPARKLET_WORKER_SETTINGS": within, "DB_PASSWORD": "hunter2"})  # type: ignore[operator]
    assert "hunter2" not in str(error.value)


def test_a_workers_output_prefixes_follow_from_its_settings() -> None:
    env = {"SPARKLET_BUCKET": "b", "output_path": "s3a://mine/out", "SPARKLET_OUTPUT_PREFIXES": "s3://x/y/, s3://z/"}

    assert worker_settings(env).output_prefixes == (
        "s3://b/runs/",
        "s3://b/staged/",
        "s3://b/output/",
        "s3://mine/out/",
        "s3://x/y/",
        "s3://z/",
    )
    assert worker_settings({"output_path": "/local/out"}).output_prefixes == ()
    assert worker_settings({"OUTPUT_PATH": "s3://mine/out/"}).output_prefixes == ("s3://mine/out/",)


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_REGION", "SPARKLET_RUNNER", "SPARK_HOME", "LD_PRELOAD", "PYTHONPATH", "PYTHONSTARTUP", "PATH", "HOME"),
        *("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "TMPDIR", "HADOOP_CONF_DIR", "_HANDLER", "LAMBDA_TASK_ROOT"),
        *("A=B", "", "ä"),
    ],
)
def test_no_script_variable_breaks_the_worker(name: str) -> None:
    with pytest.raises(SettingsError, match="SPARKLET_SCRIPT_ENV cannot set"):
        worker_settings({"SPARKLET_SCRIPT_ENV": json.dumps({name: "x"})})


def test_a_scripts_variables_are_read_and_its_output_is_known() -> None:
    given = {"input_path": "s3://in/x.csv", "output_path": "s3a://out/y", "Path": "1", "PATHS": "2", "REGION": "3"}

    settings = worker_settings({"SPARKLET_SCRIPT_ENV": json.dumps(given)})

    assert settings.script_env == given
    assert "s3://out/y/" in settings.output_prefixes


def test_keys_of_events_are_separated_by_commas() -> None:
    assert worker_settings({}).event_variables == ()
    read = worker_settings({"SPARKLET_EVENT_VARIABLES": "INPUT_PATH, OUTPUT_PATH,day,"})
    assert read.event_variables == ("INPUT_PATH", "OUTPUT_PATH", "day")


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_REGION", "SPARKLET_RUNNER", "SPARK_HOME", "SPARKY", "LD_PRELOAD", "PYTHONPATH", "PYTHONSTARTUP"),
        *("JAVA_TOOL_OPTIONS", "JAVAX", "PATH", "HOME", "PYSPARK_PYTHON", "HADOOP_CONF_DIR", "A=B", "a b", "ä"),
    ],
)
def test_no_event_can_set_variables_of_the_worker(name: str) -> None:
    with pytest.raises(SettingsError, match="SPARKLET_EVENT_VARIABLES cannot set"):
        worker_settings({"SPARKLET_EVENT_VARIABLES": f"INPUT_PATH,{name}"})


@pytest.mark.parametrize("wrong", ["x", "[]", '{"a": 1}', '{"a": ["hunter2"]}'])
def test_script_variables_are_a_json_object_of_strings(wrong: str) -> None:
    with pytest.raises(SettingsError, match="SPARKLET_SCRIPT_ENV is") as caught:
        worker_settings({"SPARKLET_SCRIPT_ENV": wrong})
    assert "hunter2" not in str(caught.value)
