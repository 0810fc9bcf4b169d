"""Before the first task a cold start loads only the standard library and Sparklet's core."""

import json
import subprocess
import sys

HEAVY = {
    *("boto3", "botocore", "pyspark", "py4j", "pydantic", "typer", "rich", "cloudpickle", "numpy", "pandas"),
    *("pyarrow", "pyiceberg"),
    *("platformdirs", "yaml", "asyncio", "urllib3", "concurrent.futures.thread", "xml", "http.client"),
}


def test_importing_the_handler_loads_nothing_heavy() -> None:
    code = "import json, sys, sparklet.worker.handler; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(json.loads(done.stdout))

    assert "sparklet.worker.worker" in loaded
    assert (HEAVY | {"sparklet.worker.priming"}) & loaded == set()
