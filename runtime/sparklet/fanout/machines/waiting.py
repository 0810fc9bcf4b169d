"""How long a state machine waits between two looks at a run: soon enough for its end, seldom enough for its history.

An execution may have 25,000 events. A look (check, choose, wait) makes some ten, a map batch some fifteen. Three bounds
make a wait:

- at least a fortieth of the time since the execution began. So looks become rare like a geometric series: 40 of them
  while the wait is at its least, 40 more for each e-fold of time until it is 300 s, then one every 300 s. In three days
  that is at most 40 × ln(300) + 864 = 1,100 looks, whatever the run does (a test counts them);
- longer while the end is far: a tenth of the estimated rest, from the run's throughput so far;
- but no more than a tenth of the run's age, since an estimate from its first shards is worth little. So an end is seen
  late by a tenth of the run's own time at most.

Map batches are a twentieth of the execution's age apart, 900 s at most: some 400 in three days. A batch lasts as long
as its children, so hardly any waits for that; but shards that are lost one by one must not make a batch each.
"""

import math

from sparklet.model import Counts, Run

SMALL_RUN_SHARDS = 40
MIN_OF_SMALL_S, MIN_S, MAX_S = 1, 5, 300
LOOKS_PER_AGE = 40
LOOKS_PER_REST = 10
LATEST_SHARE = 10
BATCHES_PER_AGE = 20
MAX_BETWEEN_BATCHES_S = 900


def wait_s(run: Run, counts: Counts, now_s: float, since_s: float | None = None) -> int:
    """How long to wait before the next look.

    Parameters
    ----------
    since_s
        When the execution began whose history is to be spared; None: with the run.
    """
    run_age_s = max(0.0, now_s - run.created_s)
    far_s = min(_rest_s(run, counts, run_age_s) / LOOKS_PER_REST, run_age_s / LATEST_SHARE)
    return math.ceil(min(MAX_S, max(_min_s(run, counts), _age_s(run, now_s, since_s) / LOOKS_PER_AGE, far_s)))


def between_batches_s(run: Run, counts: Counts, now_s: float, since_s: float | None = None) -> float:
    """The least time from one map batch to the next one."""
    return min(MAX_BETWEEN_BATCHES_S, max(_min_s(run, counts), _age_s(run, now_s, since_s) / BATCHES_PER_AGE))


def _min_s(run: Run, counts: Counts) -> float:
    return MIN_OF_SMALL_S if run.sealed and counts.total <= SMALL_RUN_SHARDS else MIN_S


def _age_s(run: Run, now_s: float, since_s: float | None) -> float:
    return max(0.0, now_s - (run.created_s if since_s is None else since_s))


def _rest_s(run: Run, counts: Counts, age_s: float) -> float:
    """The estimated time until the run's end, from its throughput since it began; 0 if it is unknown.

    It is unknown for a redriven run: shards that ended in earlier generations say nothing about this one.
    """
    ended = counts.total - counts.open
    return age_s * counts.open / ended if ended and not run.generation else 0.0
