"""A checker in a process of its own, behind the proxy as workers are: ``python -m benchmarks.chaos.checker RUN``."""

import os
import sys
import time

from sparklet.aws.clients import AwsClients
from sparklet.aws.services import compose
from sparklet.errors import SparkletError
from sparklet.runs.checker import check

CHECK_S = 0.5


def main() -> None:
    """Check a run until it has ended."""
    bucket, table, queue_url = (os.environ[f"SPARKLET_{name}"] for name in ("BUCKET", "LEDGER_TABLE", "QUEUE_URL"))
    deployment = compose(AwsClients(), bucket, table, queue_url)
    while True:
        try:
            if check(deployment, sys.argv[1]).run.state.ended:
                return
        except SparkletError as error:
            print(error, file=sys.stderr, flush=True)
        time.sleep(CHECK_S)


if __name__ == "__main__":
    main()
