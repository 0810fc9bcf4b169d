"""How long a state machine waits between two looks at a run: soon enough for its end, seldom enough for its history.

An execution may have 25,000 events. A turn (check, choose, wait) makes some ten, a wave some fifteen. Three bounds make
a wait:

- at least a fortieth of the time since the execution began. So turns grow rare like a geometric series: 40 turns
  while the wait is at its least, 40 more for each e-fold of time until it is 300 s, then one every 300 s. In three days
  that is at most 40 × ln(300) + 864 = 1,100 turns, whatever the run does (a test counts them);
- longer while the end is far: a tenth of the estimated rest, from the run's throughput so far;
- but no more than a tenth of the run's age, since an estimate that rests on its first shards is worth little. So an
  end is seen late by a tenth of the run's own time at most.

Waves keep a distance of a twentieth of the execution's age, 900 s at most: some 400 in three days. A wave lasts as long
as its children, so hardly any ever waits for that; but shards that are lost one by one must not make a wave each.
"""

import math

from sparklet.model import Counts, Run

SMALL_RUN_SHARDS = 40
LEAST_OF_SMALL_S, LEAST_S, LONGEST_S = 1, 5, 300
TURNS_PER_AGE = 40
LOOKS_PER_REST = 10
LATEST_SHARE = 10
WAVES_PER_AGE = 20
LONGEST_BETWEEN_WAVES_S = 900


def wait_s(run: Run, counts: Counts, now_s: float, since_s: float | None = None) -> int:
    """How long to wait before the next look.

    Parameters
    ----------
    since_s
        When the execution began whose history is to be spared; None: with the run.
    """
    age_s, run_age_s = _ages_s(run, now_s, since_s)
    far_s = min(_rest_s(run, counts, run_age_s) / LOOKS_PER_REST, run_age_s / LATEST_SHARE)
    return math.ceil(min(LONGEST_S, max(_least_s(run, counts), age_s / TURNS_PER_AGE, far_s)))


def between_waves_s(run: Run, counts: Counts, now_s: float, since_s: float | None = None) -> float:
    """The least time from when a wave was handed out to the next one."""
    age_s, _ = _ages_s(run, now_s, since_s)
    return min(LONGEST_BETWEEN_WAVES_S, max(_least_s(run, counts), age_s / WAVES_PER_AGE))


def _least_s(run: Run, counts: Counts) -> float:
    return LEAST_OF_SMALL_S if run.sealed and counts.total <= SMALL_RUN_SHARDS else LEAST_S


def _ages_s(run: Run, now_s: float, since_s: float | None) -> tuple[float, float]:
    """Of the execution, and of the run."""
    run_age_s = max(0.0, now_s - run.created_s)
    return (run_age_s if since_s is None else max(0.0, now_s - since_s)), run_age_s


def _rest_s(run: Run, counts: Counts, age_s: float) -> float:
    """The time until the run's end, from its throughput since it began; 0 if nobody can say.

    Of a redriven run nobody can: shards that ended in earlier generations tell nothing of this one.
    """
    ended = counts.total - counts.open
    return age_s * counts.open / ended if ended and not run.generation else 0.0
