"""What others published, beside what the simulator says: the experiment, Sparklet's settings, held-out measurements."""

import gc
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import Pool
from statistics import median

from benchmarks.simulate.constants import RANGES, drawn, usual
from benchmarks.simulate.setup import NEVER, Scaling, Setup, by_queue, of_2022
from benchmarks.simulate.simulation import simulate

PUBLISHED = 103
MUST_HAVE = {"retry_most_s": 45.0, "slots_a_throttle": 0.0}
A_MINUTE = 100.0
"""Fitted, so no prediction. 103 dead letters ask for long waits and a mapping that ignores throttles; "1,000 at once
after some ten minutes" asks for 100 more a minute, where AWS said 60."""

Simulated = Callable[[], Sequence[float]]
REHAN = "rehanvdm.com, 7 SQS Lambda ESM scaling behaviours"


@dataclass(frozen=True, slots=True)
class Band:
    """What many seeds came to."""

    results: Sequence[tuple[int, int, int, float]]  # dead letters, of these done all the same, lost, minutes

    def line(self, **more: object) -> str:
        """For the terminal; percentiles by rank."""
        dead = sorted(each[0] for each in self.results)
        last = len(dead) - 1
        figures = {
            "seeds": len(dead),
            "dlq_p5": dead[round(0.05 * last)],
            "dlq_median": round(median(dead)),
            "dlq_p95": dead[round(0.95 * last)],
            **more,
            "end_minutes_median": round(median(each[3] for each in self.results), 1),
        }
        return " ".join(f"{name}={figure}" for name, figure in figures.items())

    @property
    def lost(self) -> int:
        """Shards of all seeds that were never done."""
        return sum(each[2] for each in self.results)


def predicted(seed: int) -> Setup:
    """The experiment as AWS describes its time, unknowns drawn anew for each seed."""
    return of_2022(drawn(random.Random(seed)))


def fitted(seed: int, changes: Mapping[str, float] = MUST_HAVE, **more: object) -> Setup:
    """The experiment with what it must have had."""
    return of_2022({**usual(), **MUST_HAVE, **changes}, **{"scaling": Scaling(5, A_MINUTE, 1_250), **more})


def shorter(seed: int) -> Setup:
    """The same, so that it ends sooner: only messages of less than two minutes, or more than 1,000 at once, do."""
    return fitted(seed, changes={"retry_most_s": 110.0}, seconds=(100.0,))


def ours_then(seed: int) -> Setup:
    """The experiment's messages and scaling, with Sparklet's queue, ledger and consumer of dead letters."""
    setup = predicted(seed)
    ours = by_queue(setup.shards, setup.seconds, setup.capacity)
    return replace(setup, visibility_s=ours.visibility_s, max_receives=ours.max_receives, ledger=ours.ledger)


def ours_now(seed: int) -> Setup:
    """The same on today's scaling, with MaximumConcurrency at the account's limit, of which others use a part."""
    return by_queue(15_000, (120.0,), 1_000, drawn(random.Random(seed)))


def band(setup: Callable[[int], Setup], seeds: int, jobs: int | None = None) -> Band:
    """Simulate a setup with many seeds, on all cores."""
    with Pool(jobs or os.cpu_count(), gc.disable) as pool:
        return Band(pool.map(partial(_once, setup), range(seeds), chunksize=4))


def _once(setup: Callable[[int], Setup], seed: int) -> tuple[int, int, int, float]:
    result = simulate(setup(seed), seed)
    return result.dead, result.dead_though_done, result.lost, result.last_success_s / 60


def sensitivity(seeds: int = 3) -> Iterator[tuple[str, str, int, float]]:
    """Each unknown at both ends of its range, the others as fitted: its name, value, dead letters, minutes."""
    cases: list[tuple[str, str, partial[Setup]]] = [("as fitted", "", partial(fitted))]
    for name, each in RANGES.items():
        cases += [(name, f"{value:g}", partial(fitted, changes={name: value})) for value in (each.least, each.most)]
    cases += [("most at once", "1000", partial(fitted, scaling=Scaling(5, A_MINUTE, 1_000)))]
    cases += [
        ("more a minute", f"{value:g}", partial(fitted, scaling=Scaling(5, value, 1_250))) for value in (60.0, 300.0)
    ]
    cases += [("account's limit", f"{value}", partial(fitted, capacity=value)) for value in (1_150, 1_250)]
    cases += [("a message's seconds", "100", partial(fitted, seconds=(100.0,)))]
    for name, value, setup in cases:
        results = [simulate(setup(seed), seed) for seed in range(seeds)]
        dead, minutes = (
            median(found) for found in zip(*((r.dead, r.last_success_s / 60) for r in results), strict=True)
        )
        yield name, value, round(dead), round(minutes, 1)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A published measurement beside the simulator's."""

    what: str
    published: float
    predicted: float
    source: str

    @property
    def error(self) -> str:
        """Of the prediction, in percent of what was published."""
        if not self.published:
            return "none" if not self.predicted else "not 0"
        return f"{100 * (self.predicted / self.published - 1):+.0f} %"


def held_out(jobs: int | None = None) -> Iterator[HeldOut]:
    """Measurements that no constant and no range was made from, but for the first two, which follow from them."""
    cases = list(_cases())
    with Pool(jobs or os.cpu_count(), gc.disable) as pool:
        for (rows, _), found in zip(cases, pool.imap(_called, [case for _, case in cases]), strict=True):
            for (what, published, source), figure in zip(rows, found, strict=True):
                yield HeldOut(what, published, figure, source)


def _cases() -> Iterator[tuple[Sequence[tuple[str, float, str]], Simulated]]:
    """What was published, and the simulation that gives the same figures."""
    aws = "AWS Compute Blog, 2023-11; follows from its constants"
    yield [("2022: minutes to 1,250 at once", 20, aws)], partial(_minutes_to_most, "sqs_2022")
    yield [("2026: minutes to 1,250 at once, five times faster", 4, aws)], partial(_minutes_to_most, "sqs_2026")
    demo = "Z. Charles, 2023-01: AWS's demo"
    yield [("MaximumConcurrency 5, one receive: dead letters", 0, demo)], partial(_dead_letters, 5)
    for share, at_once in ((0.01, 25), (0.05, 16), (0.10, 13)):
        yield [(f"{share:.0%} errors: at once, of 60", at_once, REHAN)], partial(_at_once_with_errors, share)
    for ms, most, peak in ((400, 120, 128), (400, 90, 91), (400, 60, 60), (50, 120, 120), (50, 50, 50), (50, 25, 50)):
        what = f"{ms} ms, MaximumConcurrency {most}: most at once"
        yield [(what, peak, REHAN)], partial(_most_at_once, ms / 1_000, most)
    ramps = ((100, 70, 157, 50_871), (200, 80, 265, 55_734), (400, 170, 281, 128_758), (600, 210, 297, 163_997))
    for ms, ramp_s, cold, invocations in ramps:
        what = f"{ms} ms, while it grows for {ramp_s} s:"
        rows = [(f"{what} cold starts a minute", cold, REHAN), (f"{what} invocations", invocations, REHAN)]
        yield rows, partial(_ramp, ms / 1_000, ramp_s)


def _called(case: Simulated) -> Sequence[float]:
    return case()


def _now(seconds: Sequence[float], most: int | None = None) -> Setup:
    """A plain function behind today's mapping, and more messages than it gets through."""
    return by_queue(
        1_000_000, seconds, 1, sent_a_s=NEVER, scaling=Scaling.named("sqs_2026", most), capacity=3_000, ledger=None
    )


def _minutes_to_most(scaling: str) -> Sequence[float]:
    setup = replace(_now((3_600.0,)), shards=2_000, scaling=Scaling.named(scaling), limit_s=1_500)
    return [simulate(setup).peak_s / 60]


def _dead_letters(most: int) -> Sequence[float]:
    return [simulate(replace(_now((10.0,), most), shards=2_000, visibility_s=20.0, max_receives=1)).dead]


def _at_once_with_errors(share: float) -> Sequence[float]:
    """The mean of the last two of four minutes with errors; the sender is what 60 at once get through."""
    setup = replace(_now((0.05,)), sent_a_s=60 / 0.05, errors=share, errors_from_s=30, limit_s=270)
    found = [each for each in simulate(setup).samples if each.at_s >= 150]
    return [round(sum(each.running for each in found) / len(found), 1)]


def _most_at_once(seconds: float, most: int) -> Sequence[float]:
    return [simulate(replace(_now((seconds,), most), limit_s=40)).peak]


def _ramp(seconds: float, ramp_s: float) -> Sequence[float]:
    result = simulate(replace(_now((seconds,)), limit_s=ramp_s))
    return [round(result.cold_starts / ramp_s * 60), result.attempts]
