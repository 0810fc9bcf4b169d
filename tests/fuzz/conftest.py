"""A campaign says what it did; the small size in CI keeps quiet."""

import pytest

from tests.fuzz.figures import INPUTS, LEAST_INPUTS, REFUSED, TASKS


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the whole campaign if it tried little, whatever its tests say."""
    if not INPUTS or "not campaign" in str(session.config.option.markexpr):
        return
    if INPUTS.total() < LEAST_INPUTS and not session.config.option.keyword:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not INPUTS or "not campaign" in str(config.option.markexpr):
        return
    terminalreporter.section("fuzzing")
    for kind, inputs in sorted(INPUTS.items()):
        terminalreporter.write_line(f"{kind:32} {inputs:8,} inputs {REFUSED[kind]:8,} refused {TASKS[kind]:8,} tasks")
    terminalreporter.write_line(f"{INPUTS.total():,} inputs; a campaign has {LEAST_INPUTS:,} at least")
