"""Patches that pause ministack's pollers and logs; the other patches are tested in a stack (tests/functional)."""

import subprocess
from importlib.metadata import version

from sparklet.local import ministack_patches
from sparklet.local.emulator_packages import emulator_python, ensure_emulator
from tests.waiting import deadline_s

PROGRAM = """\
from ministack.services import cloudwatch_logs, eventbridge, lambda_svc
calls = []
lambda_svc._poll_sqs = lambda: calls.append("mapping")
eventbridge._tick_scheduled_rules = lambda: calls.append("schedule")
from sparklet.local.ministack_patches import Processing
processing = Processing()
def tick():
    lambda_svc._poll_sqs(), eventbridge._tick_scheduled_rules()
    found = calls[:]
    calls.clear()
    return found
print("before", tick())
processing.start()
print("started", tick())
processing.stop()
print("stopped", tick())
lambda_svc._emit_lambda_logs({"FunctionName": "f"}, "id", "a line", False, 5)
print("log groups", len(cloudwatch_logs._log_groups._data))
"""


def test_mappings_and_schedules_wait_and_no_logs_are_kept() -> None:
    command = emulator_python(ensure_emulator(print), PROGRAM)
    done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s())

    expected = "before []", "started ['mapping', 'schedule']", "stopped []", "log groups 0"
    assert tuple(done.stdout.splitlines()) == expected, done.stderr


def test_the_patches_are_for_the_ministack_that_is_installed() -> None:
    """Before this is changed for another version, try whether each patch can be removed, as the module says."""
    assert f"ministack {version('ministack')}," in str(ministack_patches.__doc__)
