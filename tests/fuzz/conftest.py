"""A campaign says what it did; the small size in CI keeps quiet."""

import pytest

from tests.fuzz.figures import FIGURES, LEAST_INPUTS, TARGET


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the figures; the whole campaign fails if it tried little, whatever its tests say."""
    if not FIGURES.counts or "not campaign" in str(session.config.option.markexpr):
        return
    FIGURES.write()
    if FIGURES.total()["inputs"] < LEAST_INPUTS and not session.config.option.keyword:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not FIGURES.counts or "not campaign" in str(config.option.markexpr):
        return
    terminalreporter.section("fuzzing")
    line = "{:32} {:>8} {:>9} {:>9} {:>8} {:>9} {:>11} {:>10} {:>6}"
    terminalreporter.write_line(
        line.format("kind", "inputs", "distinct", "refused", "tasks", "problems", "slowest ms", "peak kB", "x size")
    )
    for kind, count in [*sorted(FIGURES.counts.items()), ("total", None)]:
        told = FIGURES.total() if count is None else count.told()
        terminalreporter.write_line(
            line.format(
                kind,
                *(told[key] for key in ("inputs", "distinct", "refused", "tasks", "problems")),
                f"{told['slowest_s'] * 1000:.1f}",
                f"{told['peak_bytes'] / 1000:.0f}",
                told["peak_per_input_byte"],
            )
        )
    terminalreporter.write_line(f"{FIGURES.total()['seconds']} s; written to {TARGET}; a campaign has {LEAST_INPUTS:,}")
