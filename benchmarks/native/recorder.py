"""Runs a script as a client of a Connect server, and writes the constructs of the plans that it has executed.

SPARK_REMOTE=sc://127.0.0.1:50051 python -m benchmarks.native.recorder OUT.json SCRIPT --input … --output …
"""

import contextlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from pyspark.sql.connect.client import SparkConnectClient

from benchmarks.native.gate import normal, of_plan


def main() -> None:
    """Run the script, whatever becomes of it."""
    to, sys.argv = Path(sys.argv[1]), sys.argv[2:]
    found: set[str] = set()
    made = SparkConnectClient._execute_plan_request_with_metadata

    def remembered(client: Any) -> Any:
        request = made(client)
        requests.append(request)
        return request

    requests: list[Any] = []
    SparkConnectClient._execute_plan_request_with_metadata = remembered
    with contextlib.suppress(Exception, SystemExit):
        runpy.run_path(sys.argv[0], run_name="__main__")
    for request in requests:
        found |= normal(of_plan(request.plan))
    source = Path(sys.argv[0]).read_text(encoding="utf-8")
    found |= {name for name in ("rdd", "_jvm") if f".{name}" in source}
    to.write_text(json.dumps(sorted(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
