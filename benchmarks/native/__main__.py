"""Is what Sail stages what Spark 3.5 stages? ``make native``: the generated suite and the scripts, certified.

Raw results go to ``build/native-*.json`` as they are found; ``benchmarks.native.judge`` makes figures of them.

    python -m benchmarks.native generated --seed 1
    python -m benchmarks.native scripts  # and: plain
    python -m benchmarks.native plans
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.certify import samples
from benchmarks.native.inputs import make
from benchmarks.native.sample import write
from sparklet.certify.certificate import certify
from sparklet.cli.console import Screen

HERE = Path(__file__).parent
ALL, PORT = 10**7, 50077


def generated(folder: Path, seed: int) -> list[dict[str, Any]]:
    """The request of the generated suite: both halves, each a shard with values of its own."""
    files: dict[str, str] = {}
    for number, half in enumerate("ab"):
        files |= make(folder, half, 2 * seed + number)
    inputs = [str(folder / f"{half}.parquet") for half in "ab"]
    script, suite = str(HERE / "generated.py"), [str(HERE / "constructs.py")]
    return [{"script": script, "py_files": suite, "inputs": inputs, "files": files, "max_objects": 1}]


def plain(folder: Path) -> list[dict[str, Any]]:
    """The requests of the scripts in users' styles, on orders without quotes, gaps and odd numbers."""
    inputs = write(folder / "sample", plain=True)
    return [{"script": str(each), **inputs} for each in sorted((HERE / "scripts").glob("*.py"))]


def scripts(folder: Path) -> list[dict[str, Any]]:
    """The requests of scripts in users' styles, on the same inputs, and of the example scripts."""
    inputs = write(folder / "sample")
    of_users = [{"script": str(each), **inputs} for each in sorted((HERE / "scripts").glob("*.py"))]
    (folder / "examples").mkdir()
    return [*of_users, *samples(folder / "examples")]


def plans(folder: Path) -> dict[str, list[str]]:
    """The constructs in the plans of each script in users' styles, as their client sends them to Sail."""
    given = write(folder / "sample")
    words = ["--input", *given["inputs"]]
    for name, path in given["files"].items():
        words += ["--param", f"{name}={path}"]
    sail = [str(Path(sys.prefix).parent / ".venv-native" / "bin" / "sail"), "spark", "server", "--port", str(PORT)]
    found = {}
    with subprocess.Popen(sail, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        while socket.socket().connect_ex(("127.0.0.1", PORT)) and server.poll() is None:
            time.sleep(0.2)
        for script in sorted((HERE / "scripts").glob("*.py")):
            to = folder / f"{script.stem}.json"
            command = [sys.executable, "-m", "benchmarks.native.recorder", str(to), str(script), *words]
            env = {**os.environ, "SPARK_REMOTE": f"sc://127.0.0.1:{PORT}"}
            subprocess.run([*command, "--output", str(folder / script.stem)], env=env, check=True, capture_output=True)
            found[script.stem] = json.loads(to.read_text())
        server.terminate()
    return found


def main() -> None:
    """Certify and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("generated", "scripts", "plain", "plans"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--to", type=Path, default=None)
    asked = parser.parse_args()
    to = asked.to or Path(f"build/native-{asked.what}.json")
    to.parent.mkdir(parents=True, exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        if asked.what == "plans":
            to.write_text(json.dumps(plans(Path(folder)), indent=1), encoding="utf-8")
            return
        of = {"generated": lambda at: generated(at, asked.seed), "scripts": scripts, "plain": plain}
        requests = of[asked.what](Path(folder))
        for certificate in certify(requests, "native", Screen(as_json=True), workers=1, timeout_s=3600, most=ALL):
            print(f"{Path(certificate.script).stem}: {certificate.verdict}, {len(certificate.differences)}", flush=True)
            found.append(certificate.document())
            to.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
