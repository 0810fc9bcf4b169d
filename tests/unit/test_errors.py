"""Rules that every error class of Sparklet must follow."""

from sparklet import errors
from sparklet.errors import ScriptFailedError, SparkletError


def everything() -> dict[str, type[SparkletError]]:
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    own = {name: value for name, value in classes.items() if value.__module__.startswith("sparklet.")}
    return {name: value for name, value in own.items() if name != "SparkletError"}


def test_every_error_class_is_a_sparklet_error() -> None:
    assert all(issubclass(error, SparkletError) for error in everything().values())


def test_a_failed_script_is_retried_unless_it_must_fail_again() -> None:
    assert ScriptFailedError("s3://b/x.py", 1).retryable
    assert not ScriptFailedError("s3://b/x.py", 1, permanent=True).retryable


def test_every_message_can_be_written_whatever_it_quotes() -> None:
    told = str(ScriptFailedError("s3://b/\ud800ü.py", 1))

    assert told.encode().decode() == r"s3://b/\ud800ü.py exited with 1"


def test_a_failed_script_is_named_with_its_cause() -> None:
    error = ScriptFailedError("s3://b/x.py", 3, cause_class="KeyError", cause="'day'")

    assert str(error) == "s3://b/x.py exited with 3: KeyError: 'day'"
