"""Parts of a primed worker that need no Spark: keys for scripts, the restore hook, and an init that never fails."""

import importlib
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparklet.settings import spark_settings
from sparklet.spark.warm_runner import WarmRunner
from sparklet.worker import priming
from sparklet.worker.priming import container_keys, prime, renew_after_restore
from tests.stand_ins.lambda_environment import lambda_environment
from tests.stand_ins.memory import FakeClock

RUNTIME = Path(__file__).parents[2] / "stand_ins" / "lambda_runtime"


def runner_without_java(scratch: Path) -> WarmRunner:
    return WarmRunner(spark_settings({"JAVA_HOME": str(scratch / "none")}), scratch)


def test_container_keys_are_fetched_anew_for_each_script() -> None:
    with lambda_environment({}) as lambda_env:
        env = lambda_env.variables()
        assert container_keys(env)["AWS_ACCESS_KEY_ID"] == "AT-INIT"

        lambda_env.key = "TODAY"

        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        assert container_keys(env) == dict(zip(names, ("TODAY", "secret", "token of TODAY"), strict=True))


def test_without_container_credentials_nothing_is_fetched(capfd: pytest.CaptureFixture[str]) -> None:
    with lambda_environment({}) as lambda_env:
        env = lambda_env.variables()
        assert container_keys({**env, "AWS_ACCESS_KEY_ID": "own"}) == {}
        assert container_keys({}) == {}
        assert capfd.readouterr().out == ""

        # Logs a warning, raises no error.
        assert container_keys({**env, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "wrong"}) == {}

    assert "keys" in capfd.readouterr().out


def test_priming_without_java_raises_no_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert not prime(runner_without_java(tmp_path), tmp_path, ("files",))

    assert '"jvm_kept": false' in capfd.readouterr().out
    assert list(tmp_path.glob("task-*")) == []


def test_no_priming_step_begins_after_half_of_the_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deadline would end the step, and with it the JVM and all earlier priming."""
    runner, clock = runner_without_java(tmp_path), FakeClock()
    monkeypatch.setattr(priming, "time", SimpleNamespace(monotonic=clock.now_s))

    assert not prime(runner, tmp_path, ("files",), limit_s=100.0, clients=lambda: clock.sleep(51))

    # The one line is the summary: nothing was tried, so nothing failed.
    assert len(capfd.readouterr().out.splitlines()) == 1


def test_the_restore_hook_renews_random_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RUNTIME))
    hooks = importlib.import_module("snapshot_restore_py").get_after_restore()
    runner = runner_without_java(tmp_path)
    renew_after_restore(runner, {"AWS_LAMBDA_INITIALIZATION_TYPE": "provisioned-concurrency"})
    assert hooks == []

    renew_after_restore(runner, {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"})
    drawn = set()
    for _ in range(2):  # two environments of one snapshot
        random.seed(42)
        for hook, args, kwargs in hooks:
            hook(*args, **kwargs)
        drawn.add(random.random())

    assert len(drawn) == 2
    hooks.clear()
