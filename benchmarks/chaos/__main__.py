"""``make chaos``: trials by their seeds; see the package.

Each trial's result is a line of ``--out``; seeds that are in it already are not tried again, so ranges of seeds add up
over many runs. The last line is ``trials=… lost=… duplicated=… partial=… unaccounted=…``, the baseline left out; the
exit code is 1 unless the sums are 0, and the trials at least ``--least``. ``python -m benchmarks.chaos.table`` prints
the table of what was tried.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.chaos import steps
from benchmarks.chaos.engine import NAME as ENGINE
from benchmarks.chaos.engine import StruckEngine
from benchmarks.chaos.plans import FORMATS, FULL_SIZE_BLOCKS, KINDS, STRIKES, WAYS, Plan, plan, seeds
from benchmarks.chaos.proxy import Proxy
from benchmarks.chaos.readers import Readers
from benchmarks.chaos.table import line, table
from benchmarks.chaos.trial import Trial
from benchmarks.chaos.workers import Pool
from benchmarks.chaos.world import World, free_of_aws, say, world
from benchmarks.facts import ROOT, facts
from sparklet.local.jars import load_stack
from sparklet.local.spark_installation import stack_file
from tests.stand_ins.read_queues import Received, readable

TRIALS_A_STACK = 80  # then a new one: the stand-in grows slow with what it holds
QUICK_MIN, QUICK_TRIALS = 2.0, 10  # no further trial begins later; these all run at once
STACK = stack_file()
RESULTS = ROOT / "benchmarks" / "results" / "reliability"
RESULTS /= "chaos.jsonl" if STACK.stem == "spark-3.5" else f"chaos-{STACK.stem}.jsonl"
THERE = tuple(name for name in FORMATS if name in load_stack(STACK).groups)
DELIVERIES = 32
END_S = 20.0  # for the stack's end, if this process is told to end


def main() -> None:
    """Try, and print."""
    options = _options()
    free_of_aws()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    if options.record:
        _record(options)
        return
    done = {result["seed"] for result in _results(options.out)}
    plans = [plan(seed, options.formats, options.ways) for seed in options.seeds if seed not in done]
    plans = [replace(each, at=options.at, strikes=options.strikes) for each in plans if each.kind in options.kinds]
    until_s = time.monotonic() + options.minutes * 60
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as out:
        for first in range(0, len(plans), TRIALS_A_STACK):
            for result in _tried(plans[first : first + TRIALS_A_STACK], options, until_s):
                print(json.dumps(result), file=out, flush=True)
            if time.monotonic() > until_s:
                break
    results = [result for result in _results(options.out) if result["seed"] in options.seeds]
    print(table(results))
    print(line(results), flush=True)
    sys.exit(wrong(results, options.least))


def wrong(results: Sequence[Mapping[str, Any]], least: int) -> str | None:
    """What speaks against these results; a campaign that tried little has shown nothing."""
    if len(results) < least:
        return f"{len(results)} trials were done, at least {least} are wanted: look above for why they ended"
    return None if " lost=0 duplicated=0 partial=0 unaccounted=0" in line(results) else "not all rows are there once"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=_seeds, default=seeds(FULL_SIZE_BLOCKS), metavar="FIRST:END")
    parser.add_argument("--formats", type=names(THERE), default=THERE, metavar="NAME,…")
    parser.add_argument("--ways", type=names(WAYS), default=WAYS, metavar="NAME,…")
    parser.add_argument("--kinds", type=names(tuple(KINDS)), default=tuple(KINDS), metavar="NAME,…")
    parser.add_argument("--at", type=_step, metavar="STEP:NUMBER", help="strike there, e.g. 'PUT Hudi timeline:12'")
    parser.add_argument("--strikes", type=int, default=STRIKES, help="at each shard, the committer and the checker")
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="no further trial begins later")
    parser.add_argument("--least", type=int, default=1, help="so many begin, however late; fewer results are a failure")
    parser.add_argument("--workers", type=int, default=(os.cpu_count() or 1) + 1, help="some wait, for leases of Hudi")
    parser.add_argument(
        "--in-flight", type=int, default=10, help="trials at once: most of a trial is waiting for leases"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="results are appended")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_MIN} min, {QUICK_TRIALS} trials, results anew")
    parser.add_argument("--record", action="store_true", help="try nothing, write steps.json")
    options = parser.parse_args()
    if options.quick:
        options.minutes, options.strikes, options.out = QUICK_MIN, 1, ROOT / "build" / "chaos-quick.jsonl"
        options.least = QUICK_TRIALS
        options.out.unlink(missing_ok=True)
    return options


def _seeds(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end) if end else int(first) + 1)


def _step(text: str) -> tuple[str, int]:
    name, _, number = text.rpartition(":")
    return name, int(number)


def names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """An option's type: some of the known names, with commas between."""

    def given_names(text: str) -> tuple[str, ...]:
        given = tuple(name.strip() for name in text.split(","))
        if unknown := [name for name in given if name not in known]:
            raise argparse.ArgumentTypeError(f"there is no {unknown[0]}; there are {', '.join(known)}")
        return given

    return given_names


def _results(file: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in file.read_text().splitlines()] if file.exists() else []


# --- trials on one stack ---


def _tried(plans: Sequence[Plan], options: argparse.Namespace, until_s: float) -> Iterator[dict[str, Any]]:
    """The results, as the trials end."""
    known = facts()
    same = {"commit": known["commit"], "measured": known["measured"]}
    with stage(options.workers) as at, _trials(options.in_flight) as trials:

        def tried(number: int, each: Plan) -> dict[str, Any] | None:
            if number >= options.least and time.monotonic() > until_s:
                return None
            result = at.trial(each).run()
            problems = f": {'; '.join(result['problems'])}" if result["problems"] else ""
            say(
                f"[{time.strftime('%H:%M:%S')}] {each.seed} {each.format} {each.way}, {each.kind} {result['struck']}: "
                f"{result['seconds']} s{problems}"
            )
            return {**result, **same}

        for done in as_completed([trials.submit(tried, *each) for each in enumerate(plans)]):
            if result := done.result():
                yield result


@contextmanager
def _trials(in_flight: int) -> Iterator[ThreadPoolExecutor]:
    """Threads of trials; if this process is to end, it waits for none of them."""
    trials = ThreadPoolExecutor(in_flight)
    try:
        yield trials
    except BaseException as error:
        say(f"the trials end: {error!r}")
        trials.shutdown(wait=False, cancel_futures=True)
        threading.Timer(END_S, os._exit, [1]).start()
        raise
    trials.shutdown()


def _record(options: argparse.Namespace) -> None:
    """Do a run of each format and way in peace, one after the other, and note the steps."""
    with stage(1) as at:  # workers in turn: none waits for a lease
        for number, (format_, way) in enumerate((f, w) for f in options.formats for w in options.ways):
            peace = replace(plan(0), seed=10_000_000 + number, format=format_, way=way, kind="record")
            trial = at.trial(peace)
            result = trial.run()
            say(json.dumps(result))
            roles = {"shard": "shard 0", "commit": "commit 0", "checker": "checker"}
            taken = {f"{format_}/{way}/{name}": trial.strikes.taken.get(role) for name, role in roles.items()}
            steps.record({key: each for key, each in taken.items() if each})


class _Stage:
    """What trials on one stack share: workers, readers, and the mapping that delivers messages."""

    def __init__(self, at: World, pool: Pool, readers: Readers, trials: dict[str, Trial]) -> None:
        self._world, self._pool, self._readers, self._trials = at, pool, readers, trials
        self._deliveries = ThreadPoolExecutor(DELIVERIES)
        self._ending = threading.Event()
        self._mapping = threading.Thread(target=self._map, daemon=True)
        self._mapping.start()

    def trial(self, each: Plan) -> Trial:
        """A trial whose messages arrive."""
        self._trials[each.name] = Trial(each, self._world, self._pool, self._readers, self._deliver)
        return self._trials[each.name]

    def _map(self) -> None:
        """Receive, and have each message delivered: the event source mapping."""
        while not self._ending.is_set():
            for message in readable(self._world.deployment.queue).receive(10, 1):
                base = json.loads(message.body)["run_id"].partition("-commit-")[0]
                self._deliver(self._trials[base.removesuffix("-rival")], message)

    def _deliver(self, trial: Trial, message: Received) -> None:
        body = json.loads(message.body)
        commit = body["run_id"].partition("-commit-")[2]
        role = f"commit {commit}" if commit else f"shard {body['shard']}"
        if body["run_id"].startswith(trial.plan.rival):
            role = f"rival's {role}"
        self._deliveries.submit(trial.deliver, message, role).add_done_callback(_tell)

    def close(self) -> None:
        """No more messages."""
        self._ending.set()
        self._mapping.join()
        self._deliveries.shutdown(wait=False, cancel_futures=True)


def _tell(delivery: Any) -> None:
    if not delivery.cancelled() and (error := delivery.exception()):
        say(f"a delivery failed: {error!r}")


@contextmanager
def stage(workers: int) -> Iterator[_Stage]:
    """A stack with workers and readers, for a while."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True)))
        hosted = closing.enter_context(world(folder, workers))
        proxy = Proxy(hosted.info.endpoint_url)
        closing.callback(proxy.close)
        pool = Pool(hosted, proxy, workers)
        closing.callback(pool.close)
        trials = dict[str, Trial]()
        engine = StruckEngine(pool, lambda run_id: trials[run_id].strikes)
        hosted = replace(hosted, deployment=replace(hosted.deployment, engines={ENGINE: engine}))
        readers = Readers(hosted)
        closing.callback(readers.close)
        stage = _Stage(hosted, pool, readers, trials)
        closing.callback(stage.close)
        yield stage


if __name__ == "__main__":
    main()
