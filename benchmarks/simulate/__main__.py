"""What if: how long a run takes on AWS, what limits it and what it costs, simulated event by event.

Without --shards or --from-run: the published experiment with many seeds, Sparklet's settings on the same messages, and
held-out measurements, as ``make simulate`` prints them. What is modelled, and what is not known: docs/scaling.md and
docs/decisions/0064-a-simulator.md.

    python -m benchmarks.simulate --shards 100000 --seconds 3 --concurrency 1000 --failure-rate 0.01 --html run.html
    python -m benchmarks.simulate --shards 10 1000 100000 --engine map --concurrency 1000
    python -m benchmarks.simulate --from-run RUN --sweep concurrency=10..1000 --within 5
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.simulate.answers import LAMBDA, MAP, Answer, Question, answer, steps, sweep
from benchmarks.simulate.constants import FACTS, RANGES, fact
from benchmarks.simulate.experiments import (
    A_MINUTE,
    MUST_HAVE,
    PUBLISHED,
    HeldOut,
    band,
    fitted,
    held_out,
    ours_now,
    ours_then,
    predicted,
    sensitivity,
    shorter,
)
from benchmarks.simulate.measured import measured
from benchmarks.simulate.setup import Setup
from sparklet.app.costs import Prices, load_prices
from sparklet.app.reporter import duration_text
from sparklet.errors import SparkletError

ASKED = ("engine", "concurrency", "memory_mb", "account", "pollers", "failed", "lost", "seed")
ENGINES = (LAMBDA, MAP, "lambda-large", "fargate", "emr-serverless", "emr", "glue")
FEW_SEEDS = 20


def main() -> None:
    """Answer what was asked."""
    options = _options()
    if options.constants:
        _constants()
    elif options.sensitivity:
        _sensitivity()
    elif options.shards or options.from_run:
        try:
            _answers(options, load_prices())
        except SparkletError as error:
            sys.exit(str(error))
    else:
        _experiments(options.seeds, options.jobs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", help="several: a line each")
    parser.add_argument("--seconds", type=float, nargs="+", default=[3.0], help="of a shard; several: each as likely")
    parser.add_argument(
        "--from-run", metavar="RUN", help="a run's measured seconds: its result files' folder, or its id"
    )
    parser.add_argument("--stack", default="", help="the deployed stack of --from-run; by default the local one")
    parser.add_argument("--engine", choices=ENGINES, default=LAMBDA, help="map: Lambda by a Distributed Map")
    parser.add_argument("--concurrency", type=int, default=Question.concurrency, help="shards at once, at most")
    parser.add_argument("--account", type=int, default=Question.account, help="invocations at once of the account")
    parser.add_argument("--pollers", type=int, default=0, help="provisioned, in place of --concurrency")
    parser.add_argument(
        "--memory", dest="memory_mb", type=int, default=Question.memory_mb, help="MB of a function; for its price alone"
    )
    parser.add_argument(
        "--failure-rate", dest="failed", type=float, default=0.0, help="of the attempts: the script fails"
    )
    parser.add_argument("--loss-rate", dest="lost", type=float, default=0.0, help="of the attempts: the worker is lost")
    parser.add_argument("--sweep", type=_swept, metavar="concurrency=10..1000", help="the cheapest that ends in time")
    parser.add_argument("--within", type=float, metavar="MINUTES", help="with --sweep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--html", type=Path, help="write plots there; needs vl-convert-python")
    parser.add_argument("--seeds", type=int, default=200, help="of the published experiment")
    parser.add_argument("--jobs", type=int, help="processes; by default as many as cores")
    parser.add_argument("--sensitivity", action="store_true", help="which unknowns carry the published result")
    parser.add_argument("--constants", action="store_true", help="what is assumed, with sources and dates")
    options = parser.parse_args()
    if (options.sweep is None) != (options.within is None):
        parser.error("--sweep and --within belong together")
    if not all(0 <= rate <= 1 for rate in (options.failed, options.lost)) or min(options.seconds) < 0:
        parser.error("rates lie between 0 and 1, seconds above 0")
    most = int(fact("map.children" if options.engine == MAP else "sqs_2026.maximum_concurrency"))
    if options.engine in (LAMBDA, MAP) and options.concurrency > most:
        parser.error(f"AWS allows at most {most:,} at once there; see --engine map and --pollers")
    if min([*(options.shards or [1]), options.concurrency, options.account]) < 1:
        parser.error("--shards, --concurrency and --account are at least 1")
    return options


def _swept(text: str) -> list[int]:
    name, _, values = text.partition("=")
    least, _, most = values.partition("..")
    if name != "concurrency" or not (least.isdigit() and most.isdigit() and 0 < int(least) < int(most)):
        raise argparse.ArgumentTypeError("write concurrency=10..1000")
    return steps(int(least), int(most))


def _answers(options: argparse.Namespace, prices: Prices) -> None:
    seconds, cold_start_s = tuple(options.seconds), None
    shards = options.shards
    if options.from_run:
        found = measured(options.from_run, options.stack)
        seconds, cold_start_s = found.seconds, found.cold_start_s
        shards = shards or [len(seconds) + found.environments]
    questions = [
        Question(
            shards=count, seconds=seconds, cold_start_s=cold_start_s, **{name: getattr(options, name) for name in ASKED}
        )
        for count in shards
    ]
    swept = list(sweep(questions[0], options.sweep, prices)) if options.sweep else []
    found_all = swept or [answer(each, prices) for each in questions]
    chosen, in_time = _cheapest(swept, options.within) if swept else (found_all[-1], True)
    if options.json:
        print(json.dumps([each.document() for each in found_all], indent=2))
    else:
        if len(found_all) > 1:
            print(_rows(found_all) + "\n")
        print(_table(chosen))
    if options.html:
        from benchmarks.simulate.page import page

        options.html.write_text(page(chosen, _table(chosen), swept))
    if swept and not in_time:
        sys.exit(f"none ends within {options.within:g} minutes")


def _cheapest(swept: Sequence[Answer], within_minutes: float) -> tuple[Answer, bool]:
    """The cheapest that ends in time; the fastest if none does."""
    in_time = [each for each in swept if each.end_s <= within_minutes * 60]
    return (min(in_time, key=lambda a: a.cost), True) if in_time else (min(swept, key=lambda a: a.end_s), False)


def _rows(found: Sequence[Answer]) -> str:
    lines = [f"{'shards':>10} {'at once':>8} {'ends':>12} {'shards/min':>11} {'USD':>10}  limited by"]
    for each in found:
        pace = f"{each.question.shards / each.end_s * 60:,.0f}"
        at_once, ends = f"{each.setup.scaling.most:,}", duration_text(each.end_s)
        line = f"{each.question.shards:>10,} {at_once:>8} {ends:>12} {pace:>11} {each.cost:>10,.2f}"
        lines.append(f"{line}  {each.limited_by}")
    return "\n".join(lines)


def _table(found: Answer) -> str:
    question, result = found.question, found.result
    late = result.states["open"]
    most_waiting = max(each.waiting for each in result.samples)
    states = " ".join(f"{name}={count}" for name, count in result.states.items() if name in ("succeeded", "failed"))
    limits = sorted(found.limits.items(), key=lambda each: each[1])
    costs = sorted(found.costs.items(), key=lambda each: -each[1])
    rows = {
        "run": f"{question.shards:,} shards of {fmean(question.seconds):.3g} s, {question.engine}, "
        f"{found.setup.scaling.most:,} at once, {question.memory_mb:,} MB",
        "ends after": f"{duration_text(found.end_s)}; its last shard after {duration_text(result.end_s)}",
        "pace": f"{question.shards / found.end_s * 60:,.0f} shards a minute"
        + "".join(
            f"; {ended:,} in the first {name}"
            for name, ended in zip(("minute", "hour", "day"), result.ended_within.values(), strict=False)
        ),
        "limited by": f"{found.limited_by}; shards a second: "
        + ", ".join(f"{name} {limit:,.1f}" for name, limit in limits),
        "at once": f"{result.peak:,}, after {duration_text(result.peak_s)}",
        "queue": f"at most {most_waiting:,} wait; {result.receives:,} receives, {result.throttles:,} throttled",
        "attempts": f"{result.attempts:,}, of these again {result.retries:,}; {result.cold_starts:,} cold starts",
        "shards": f"{states} lost={result.lost - late} dead_letters={result.dead}"
        + f"; {late:,} FAILED at the time limit of {duration_text(found.setup.limit_s)}" * bool(late),
        "cost": f"USD {found.cost:,.2f}: " + ", ".join(f"{name} {usd:,.2f}" for name, usd in costs),
    }
    return "\n".join(f"{name:<11} {text}" for name, text in rows.items())


def _experiments(seeds: int, jobs: int | None) -> None:
    started = time.monotonic()
    print("The published experiment, predicted: AWS's statements of 2022, unknowns drawn for each seed")
    print("  " + band(predicted, seeds, jobs).line(published=PUBLISHED))
    known = ", ".join(f"{name}={value:g}" for name, value in MUST_HAVE.items())
    print(f"What it must have had, fitted, so no prediction: {known}, {A_MINUTE:g} more a minute")
    must_have = band(fitted, seeds, jobs)
    print("  " + must_have.line(published=PUBLISHED))
    done = sum(each[1] for each in must_have.results) / max(1, sum(each[0] for each in must_have.results))
    print(f"  of these dead letters {done:.0%} were done all the same: they began after more than eight minutes")
    print("At most 1,000 at once, 15,000 × 120 s take 30.0 minutes even if all run from the first second; with 100 s,")
    print(
        "and retry_most_s=110, also fitted\n  " + band(shorter, min(seeds, FEW_SEEDS), jobs).line(published=PUBLISHED)
    )
    cases: list[tuple[str, Callable[[int], Setup]]] = [
        ("Sparklet's queue and ledger, scaling of 2022", ours_then),
        ("Sparklet's settings, scaling of 2026", ours_now),
    ]
    for name, setup in cases:
        found = band(setup, min(seeds, FEW_SEEDS), jobs)
        print(f"{name}\n  {found.line(lost=found.lost)}")
    print(f"\n{'held out, not tuned':<58} {'published':>9} {'predicted':>9} {'error':>7}  source")
    for each in held_out(jobs):
        print(_held_out(each))
    print(f"took {time.monotonic() - started:.0f} s")


def _held_out(each: HeldOut) -> str:
    return f"{each.what:<58} {each.published:>9,} {each.predicted:>9,.6g} {each.error:>7}  {each.source}"


def _sensitivity() -> None:
    print(
        f"{'as fitted, but':<20} {'':>6} {'dead letters':>12} {'end, minutes':>12}   (published: {PUBLISHED}, about 30)"
    )
    for name, value, dead, minutes in sensitivity():
        print(f"{name:<20} {value:>6} {dead:>12} {minutes:>12}")


def _constants() -> None:
    for name, figure in FACTS.items():
        print(f"{name:<28} {figure.value:>12g}  {figure.date:<8} {figure.source}")
    for name, each in RANGES.items():
        print(f"{name:<28} {each.least:g} to {each.most:g}, usually {each.usual:g}: {each.why}")


if __name__ == "__main__":
    main()
