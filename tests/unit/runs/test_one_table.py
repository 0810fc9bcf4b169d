"""Each row is in the table exactly once, although a fault happens at any call of any actor through a port.

The actors are the real checker, planner of follow-ups and worker; script and committer are fakes (see
``one_table``). A fault is the actor's death, a sleep during which all others go on
to the run's end, a message that is delivered again, or a user who cancels. After each trial every row of a SUCCEEDED
shard is in the table once, and none of another attempt; no version of the table shows a part of a commit's set.
"""

import itertools
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparklet.errors import SparkletError
from sparklet.model import RunState
from sparklet.runs.cancel import cancel
from sparklet.runs.redrive import redrive
from sparklet.spark.runner import ScriptResult
from tests.unit.runs.one_table import RUN, Row, Seam, Trial
from tests.world import KilledError

BROKEN = ScriptResult(1, cause_class="SyntaxError", cause="bad")
KINDS = ("dies", "sleeps", "again", "cancel")
MAX_ENDS = 8
ENDED_WELL = (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES)


@dataclass(frozen=True)
class Scenario:
    """A run. ``failing``: the shard whose script fails until the first redrive; -1 is the commit script."""

    shards: int
    failing: int | None = None
    options: tuple[tuple[str, Any], ...] = ()
    twice: bool = False
    at_once: int = 10  # messages that workers take between two checks
    again: tuple[int, ...] = ()  # shards that are redriven once the run has ended well


SCENARIOS = {
    "plain": Scenario(2),
    "twice": Scenario(2, twice=True),
    "tolerated": Scenario(3, 1, (("tolerated_failure_count", 1),)),
    "failed": Scenario(2, 1),
    "commit fails": Scenario(2, -1),
    "early": Scenario(3, None, (("commit_every", "1"),), at_once=1),
    "done again": Scenario(3, again=(0, 2)),
}


class Played:
    """One trial from the run's start to SUCCEEDED, with redrives; each time the run ends, the table is compared."""

    def __init__(self, scratch: Path, scenario: Scenario, faults: tuple[tuple[int, str], ...] = ()) -> None:
        self.scenario, self.redriven, self.before = scenario, False, frozenset[Row]()
        self.trial = Trial(scratch, Seam(), fails=self._fails, twice=scenario.twice, at_once=scenario.at_once)
        self.trial.table.upserts = bool(scenario.again)
        for call, kind in faults:
            self.trial.seam.faults[call] = self._act_of(kind)

    def play(self) -> "Played":
        self.trial.enter(self.scenario.shards, **dict(self.scenario.options))
        for _ in range(MAX_ENDS):
            self.go_on()
            is_well, again = self.trial.run_now.state is RunState.SUCCEEDED, None
            if is_well and (self.before or not self.scenario.again):
                return self
            if is_well:
                self.before, again = self.trial.winners(), self.scenario.again
            self.redriven = True
            self.trial.repeat(lambda at, again=again: redrive(at, RUN, again))  # type: ignore[misc]
        raise AssertionError(f"{self.trial.run_now.state} after {MAX_ENDS} ends")

    def go_on(self) -> None:
        self.trial.go_on()
        self.compare()

    def compare(self) -> None:
        """Compare the table with the ledger, once the run has ended."""
        table, run = self.trial.table, self.trial.run_now
        whole = self.trial.commit_sets()
        assert all(rows in whole for rows in table.commits.values()), "a part of a commit is visible"
        assert table.rows <= self.trial.winners() | self.before, "a row of an attempt that does not count"
        if run.state in ENDED_WELL:
            assert table.rows == self.trial.winners(), "a row is missing"
        if self.scenario.failing is not None and not self.scenario.options and not self.redriven:
            assert not table.commits, "a run that FAILED by a shard, or whose committer did nothing, has committed"

    def _fails(self, shard: int) -> ScriptResult | None:
        return BROKEN if shard == self.scenario.failing and not self.redriven else None

    def _act_of(self, kind: str) -> Callable[[], None]:
        return {"dies": _die, "sleeps": self._sleep, "again": self._again, "cancel": self._cancel}[kind]

    def _sleep(self) -> None:
        """All other actors go on while this one sleeps, up to the run's end if they can."""
        for _ in range(6):
            self.trial.world.clock.advance(120)
            self.trial.check_all()
            self.trial.work()

    def _again(self) -> None:
        """Send every shard's message once more."""
        raw = self.trial.world
        raw.queue.send([r.ref.to_body() for run in raw.ledger.runs.list() for r in raw.shards(run.run_id)])

    def _cancel(self) -> None:
        with suppress(SparkletError):  # it has ended
            cancel(self.trial.world.deployment, RUN)


def _die() -> None:
    raise KilledError


def calls_of(scratch: Path, scenario: Scenario) -> int:
    return Played(scratch, scenario).play().trial.seam.calls


def try_all(scratch: Path, name: str, faults: Iterator[tuple[tuple[int, str], ...]]) -> int:
    """Play a trial for each tuple of faults; an error names the faults of its trial. Return the number of trials."""
    count = 0
    for each in faults:
        count += 1
        try:
            Played(scratch, SCENARIOS[name], each).play()
        except BaseException as error:
            error.add_note(f"the run {name!r} with the faults {each}")
            raise
    return count


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder, in memory if the system has /dev/shm: so a trial takes 10 ms."""
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm" if Path("/dev/shm").is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="sparklet-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_in_the_table_once_after_any_fault(scratch: Path, kind: str) -> None:
    """At every call of the plain run. Death after a call is the same as death before the actor's next call."""
    calls = calls_of(scratch, SCENARIOS["plain"])

    assert try_all(scratch, "plain", (((call, kind),) for call in range(1, calls + 1))) == calls > 100


@pytest.mark.parametrize("kind", ["dies", "sleeps"])
@pytest.mark.parametrize("name", list(SCENARIOS)[1:])
def test_each_row_is_in_the_table_once_in_every_scenario(scratch: Path, name: str, kind: str) -> None:
    """At every seventh call; the campaign tries all calls."""
    calls = calls_of(scratch, SCENARIOS[name])

    assert try_all(scratch, name, (((call, kind),) for call in range(1, calls + 1, 7))) > 20


def test_each_row_is_in_the_table_once_after_two_faults(scratch: Path) -> None:
    assert try_some(scratch, random.Random(16), 40) == 40


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_each_row_is_in_the_table_once_in_the_campaign(scratch: Path) -> None:
    for name, scenario in SCENARIOS.items():
        calls = range(1, calls_of(scratch, scenario) + 1)
        try_all(scratch, name, (((call, kind),) for call, kind in itertools.product(calls, KINDS)))
    assert try_some(scratch, random.Random(2026), 20_000, most=4) == 20_000


def try_some(scratch: Path, chance: random.Random, trials: int, most: int = 2) -> int:
    """Play trials with several random faults each, over all scenarios. Return the number of trials."""
    calls = {name: calls_of(scratch, scenario) for name, scenario in SCENARIOS.items()}
    for _ in range(trials):
        name = chance.choice(list(SCENARIOS))
        faults = tuple((chance.randint(1, calls[name]), chance.choice(KINDS)) for _ in range(chance.randint(2, most)))
        try_all(scratch, name, iter([faults]))
    return trials
