"""The variables of the user's shell that reach processes of the local mode."""

import os
from pathlib import Path

import pytest

from sparklet.local.environment import applied, client_env, emulator_env, function_env, host_env
from sparklet.local.state import StateDir

USERS = {
    "AWS_ACCESS_KEY_ID": "AKIAREALONE",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_PROFILE": "production",
    "AWS_ENDPOINT_URL_S3": "http://elsewhere",
    "http_proxy": "http://proxy",
    "HTTPS_PROXY": "http://proxy",
    "SPARK_HOME": "/opt/other-spark",
    "HADOOP_CONF_DIR": "/etc/hadoop",
    "SPARKLET_LEDGER_TABLE": "production-ledger",
    "PATH": "/bin",
    "HOME": "/home/me",
    "LC_ALL": "C",
    "LANG": "de_DE.ISO-8859-1",
}


def test_only_harmless_variables_of_the_shell_are_passed_on() -> None:
    passed = host_env(USERS)

    assert passed.keys() - {"PYTHONPATH"} == {"PATH", "HOME", "LANG"}
    assert all(passed[name] == USERS[name] for name in ("PATH", "HOME"))
    assert passed["LANG"] == "C.UTF-8"  # as in the image


def test_a_checkout_is_found_by_programs_of_its_own_python() -> None:
    import sparklet

    folders = host_env({"PYTHONPATH": "/mine"})["PYTHONPATH"].split(os.pathsep)

    assert folders == [str(Path(sparklet.__file__).parents[1]), "/mine"]


def test_a_variable_of_the_command_line_wins_for_a_worker(tmp_path: Path) -> None:
    given = {"JAVA_HOME": "/java", "SPARKLET_SCRATCH": "/big"}

    env = emulator_env(StateDir(tmp_path), "http://127.0.0.1:1", "token", given)

    assert env["JAVA_HOME"] == "/java"
    assert env["SPARKLET_SCRATCH"] == "/big"
    assert env["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert env["AWS_SESSION_TOKEN"] == "token"


def test_clients_of_a_local_stack_use_no_aws_keys_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in USERS.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)

    with applied(client_env("http://127.0.0.1:1", "token")):
        settings = {name for name in os.environ if name.startswith("AWS_")}
        assert settings == set(client_env("", ""))
        assert os.environ["AWS_ACCESS_KEY_ID"] != "AKIAREALONE"
        assert not {"http_proxy", "HTTPS_PROXY"} & set(os.environ)
        assert os.environ["HOME"] == "/home/me"

    assert dict(os.environ) == before


def test_local_functions_measure_nothing_by_default(tmp_path: Path) -> None:
    """People read the local logs, so the template's namespace is not used."""
    state = StateDir(tmp_path)

    assert function_env(state, {})["SPARKLET_METRICS_NAMESPACE"] == ""
    assert function_env(state, {"SPARKLET_METRICS_NAMESPACE": "mine"})["SPARKLET_METRICS_NAMESPACE"] == "mine"
