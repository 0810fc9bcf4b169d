"""Progress: throughput and the estimated end come from observed counts; a pipe gets plain lines."""

import io
from dataclasses import replace

from rich.console import Console

from sparklet.cli.console import RunDisplay, Screen, exit_code
from sparklet.model import Counts, Run, RunState, ScriptRef
from tests.stand_ins.memory import FakeClock

RUN = Run("flights-1", ("s3://in/",), "s3://out/", (ScriptRef("s3://b/s.py", "0" * 64, "s.py"),), shard_count=10)


def shown(*looks: tuple[Run, Counts], is_terminal: bool = False) -> str:
    """The output of a display that is updated with these runs and counts, 10 s apart."""
    text, clock = io.StringIO(), FakeClock()
    screen = Screen(out=Console(file=text, width=200, force_terminal=is_terminal))
    with RunDisplay(screen, "flights-1", clock) as display:
        for run, counts in looks:
            display.show(run, counts)
            clock.advance(10)
    return text.getvalue()


def lines_of(*ended: int) -> list[str]:
    """What a pipe gets of a run of 1,000 shards of which so many have ended, one look after another."""
    run = replace(RUN, shard_count=1000)
    return shown(*((run, Counts(succeeded=number, pending=1000 - number)) for number in ended)).splitlines()


def test_the_end_is_estimated_from_the_last_minute() -> None:
    assert lines_of(*range(0, 100, 20), *range(100, 900, 10))[-1].endswith(
        "60 shards/min · about 1 min 50 s left · 14 min 00 s"
    )


def test_no_end_is_estimated_while_nothing_has_ended() -> None:
    (line,) = lines_of(0, 0, 0)
    assert "left" not in line and "/min" not in line


def test_a_pipe_gets_plain_lines_and_the_end_on_the_last() -> None:
    first, last = shown((RUN, Counts(pending=9, running=1)), (RUN, Counts(succeeded=9, failed=1))).splitlines()

    assert "0 succeeded, 1 running, 9 pending, 0 failed of 10 shards" in first
    assert "9 succeeded, 0 running, 0 pending, 1 failed of 10 shards" in last


def test_a_terminal_shows_every_state() -> None:
    told = shown((RUN, Counts(pending=4, running=1, succeeded=3, failed=2)), is_terminal=True)

    for part in ("3 succeeded", "1 running", "4 pending", "2 failed", "5/10"):
        assert part in told


def test_planning_and_cancelling_are_shown() -> None:
    cancelled = replace(RUN, cancelled_s=1.0), Counts(running=1, failed=9)

    assert "of 4+ shards, planning …" in shown((replace(RUN, shard_count=None), Counts(pending=4)))
    assert "being cancelled" in shown(cancelled, is_terminal=True)


def test_details_are_below_the_counts_and_warnings_above() -> None:
    text, clock = io.StringIO(), FakeClock()
    screen = Screen(out=Console(file=text, width=100, force_terminal=True, highlight=False))
    with RunDisplay(screen, "flights-1", clock, lambda run: "slow ones") as display:
        clock.advance(60)
        display.show(RUN, Counts(pending=4, running=1))
        display.warn("it broke [off]")
    assert "slow ones" in text.getvalue() and "it broke [off]" in text.getvalue()


def test_exit_codes_are_as_documented() -> None:
    codes = {state: exit_code(state) for state in RunState}

    assert codes == {
        RunState.PLANNING: 3,
        RunState.RUNNING: 3,
        RunState.SUCCEEDED: 0,
        RunState.SUCCEEDED_WITH_FAILURES: 0,
        RunState.FAILED: 2,
        RunState.CANCELLED: 3,
    }
