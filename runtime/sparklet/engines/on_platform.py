"""The program for a spark-submit that runs one shard, on EMR Serverless, EMR, Glue, or any cluster.

``spark-submit --py-files …/sparklet-worker.zip on_platform.py --sparklet '{"env": {…}, "command": ["shard", …]}'``

This file is stored beside the package. Its syntax can be read by every Python 3, so that an old Python reports which
version is needed.
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
DEPENDENCIES = "dependencies"  # the package's folder of Sparklet's dependencies, where executors do not find them
BOTO = {"boto3", "botocore", "s3transfer"}  # their versions must fit together
LEAST = (3, 11)


def main() -> int:
    """Unpack the worker and run the shard; return the exit code."""
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
        threading.Thread(target=_end_with_jvm, args=(os.getppid(),), daemon=True).start()
        from sparklet.engines.one_shard import main as one_shard

        return one_shard(document["command"][1:])
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # noqa: TID251 - made above; the code of ``delete_own`` is in it


def unpack(package: str, folder: str, path: Any) -> str:
    """Unpack the worker into ``folder``, from which scripts import; return the folder of hidden dependencies.

    Our botocore knows few services. So scripts import the dependencies that the platform has on its ``path``; only the
    others are moved into ``folder``.
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
    """Standard output, a pipe to the JVM. Text that is written after the JVM's end is lost without an error."""

    def write(self, content: Any) -> int:
        """Write the content, or lose it; return its length in both cases."""
        with contextlib.suppress(OSError):
            super().write(content)
        return len(content)


def _end_with_jvm(jvm: int) -> None:
    """Send SIGTERM to this process once the JVM has ended, so that the worker releases its shard."""
    # A process whose parent has ended gets another parent, without any signal.
    while os.getppid() == jvm:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    code = main()
    # Glue would report SystemExit as a failure even with code 0.
    if code:
        sys.exit(code)
