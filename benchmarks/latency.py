"""What a shard takes in a warm worker if each request to S3 and DynamoDB takes as long as it does in a region.

    python -m benchmarks.latency [--delay-ms 25] [--rounds 5] [--shards 10]

A proxy holds each request for that time, and then passes it on to the stand-in. The shards of a case are one CSV, one
Parquet file, or 46 small CSVs. Each shard is the only one of its run, so that the worker fetches the script and the
plan's header, too. The last line is one JSON document: of each case the median and the range of the rounds' medians in
seconds, and the requests of a shard until the answer. To compare two checkouts, run it in each of them in turn.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.contract.lossy_proxy import LossyProxy, proxied
from tests.functional.worker.conftest import local_jars
from tests.functional.worker.ledgered import Function, deployed
from tests.functional.worker.test_requests import Counted

ROWS, SMALL_FILES = 1000, 46
SCRIPT = """
from sparklet.job import Job

job = Job.from_args()
frame = job.spark().read.option("header", True).format("{format}").load(job.input_list())
frame.coalesce(1).write.parquet(job.output)
"""
WARM_UP_SHARDS = 8


class SlowProxy(LossyProxy):
    """Holds each request for ``delay_s``."""

    delay_s = 0.0

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Wait, then forward the request."""
        time.sleep(self.delay_s)
        return super().ask(method, path, headers, body)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--delay-ms", type=float, default=25)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", type=int, default=10, help="of each case and round")
    options = parser.parse_args()
    figures: dict[str, list[tuple[float, float]]] = {}
    with worker() as (function, proxy):
        cases = {"csv": ["one.csv"], "parquet": ["one.parquet"], "packed": [f"{n}.csv" for n in range(SMALL_FILES)]}
        inputs = {case: [Counted(function, proxy).put(name, ROWS) for name in names] for case, names in cases.items()}
        for case in cases:
            for _ in range(WARM_UP_SHARDS):
                shard(function, proxy, case, inputs[case])
        proxy.delay_s = options.delay_ms / 1000
        for _ in range(options.rounds):
            for case in cases:
                trials = [shard(function, proxy, case, inputs[case]) for _ in range(options.shards)]
                wall_s, requests = (statistics.median(values) for values in zip(*trials, strict=True))
                print(case, f"{wall_s:.3f} s", f"{requests:.0f} requests", flush=True)
                figures.setdefault(case, []).append((wall_s, requests))
    print(json.dumps({case: summary(rounds) for case, rounds in figures.items()}))


def summary(rounds: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the median and the range of a case's rounds."""
    seconds, requests = zip(*rounds, strict=True)
    ranges = [round(statistic(seconds), 3) for statistic in (statistics.median, min, max)]
    return {"s": ranges, "requests": statistics.median(requests)}


@contextmanager
def worker() -> Iterator[tuple[Function, SlowProxy]]:
    """Start a worker whose requests pass through the proxy."""
    with (
        tempfile.TemporaryDirectory(prefix="sparklet-bench-") as folder,
        tempfile.TemporaryDirectory(prefix="sparklet-bench-") as scratch,
        proxied(SlowProxy("")) as (proxy, endpoint),
        deployed(
            Path(folder),
            Path(scratch),
            AWS_ENDPOINT_URL_S3=endpoint,
            AWS_ENDPOINT_URL_DYNAMODB=endpoint,
            **local_jars(),
        ) as function,
    ):
        proxy.backend = str(function.clients.s3.meta.endpoint_url)
        yield function, proxy


def shard(function: Function, proxy: LossyProxy, case: str, inputs: list[str]) -> tuple[float, float]:
    """Run one shard; return its seconds and the requests to S3 and the ledger until the answer."""
    script = SCRIPT.format(format="parquet" if case == "parquet" else "csv").encode()
    ref = function.with_line(function.plan(script, inputs))
    del proxy.asked[:]
    began_s = time.monotonic()
    if function.deliver(ref):
        raise SystemExit(f"a shard of {case} failed: {function.worker.log.read_text(errors='replace')[-3000:]}")
    return time.monotonic() - began_s, len(proxy.asked)


if __name__ == "__main__":
    main()
