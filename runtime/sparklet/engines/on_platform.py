"""The program of a spark-submit that does one shard, on EMR Serverless, EMR, Glue, or any cluster.

``spark-submit --py-files …/sparklet-worker.zip on_platform.py --sparklet '{"env": {…}, "command": ["shard", …]}'``

It is stored beside the package, in syntax that every Python 3 reads, so that an old Python gets a message with the
version that it needs.
"""

import contextlib
import importlib.machinery
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "sparklet-worker.zip"
DEPENDENCIES = "dependencies"  # Sparklet's, in the package: out of the sight of executors
BOTO = {"boto3", "botocore", "s3transfer"}  # of one version
LEAST = (3, 11)


def main() -> int:
    """Unpack the worker and do the shard; return the exit code."""
    if sys.version_info < LEAST:
        version, least = (".".join(map(str, release[:2])) for release in (sys.version_info, LEAST))
        sys.exit("this Python is " + version + ", and Sparklet's worker needs " + least + ": set spark.pyspark.python")
    package = next((path for path in sys.path if path.endswith(PACKAGE)), PACKAGE)
    document = json.loads(sys.argv[sys.argv.index("--sparklet") + 1])
    folder = tempfile.mkdtemp(prefix="sparklet-worker-")  # botocore reads files beside its modules
    try:
        dependencies = unpack(package, folder, sys.path)
        os.environ.update(document["env"])
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
        sys.path[:0] = [folder, dependencies]
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(Output(1, "w", closefd=False)))
        threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
        from sparklet.engines.one_shard import main as one_shard

        return one_shard(document["command"][1:])
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # noqa: TID251 - this made the folder; ``delete_own`` is in it


def unpack(package: str, folder: str, path: Any) -> str:
    """Unpack the worker into ``folder``, which scripts see; return the folder of dependencies hidden from them.

    botocore here knows few services, so scripts find the platform's, and ours only where that has none on its ``path``.
    """
    with zipfile.ZipFile(package) as content:
        content.extractall(folder)
    dependencies = Path(folder, DEPENDENCIES)
    ours = {module_path.stem: module_path for module_path in dependencies.iterdir()}
    theirs = {name for name in ours if importlib.machinery.PathFinder.find_spec(name, path)}
    theirs |= BOTO if theirs & BOTO else set()
    for name in ours.keys() - theirs:
        ours[name].rename(Path(folder, ours[name].name))
    return str(dependencies)


class Output(io.FileIO):
    """Standard output, the JVM's pipe; text that is written after the JVM's end is lost, without an error."""

    def write(self, content: Any) -> int:
        """Write all of it, or nothing."""
        with contextlib.suppress(OSError):
            super().write(content)
        return len(content)


def _follow(jvm: int) -> None:
    """Release the shard if the JVM ends, which does not end this process by itself."""
    # A process whose parent has ended gets another parent, and no signal tells it of that.
    while os.getppid() == jvm:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    code = main()
    if code:  # Glue reports every SystemExit as a failure
        sys.exit(code)
