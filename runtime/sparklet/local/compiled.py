"""The worker's own Java as a jar, compiled once: see ``worker.java_classes``."""

import os
import tempfile
import zipfile
from pathlib import Path

from sparklet.worker.java_classes import files, mark


def compiled_jar(java: Path, spark_jars: Path, folder: Path) -> Path:
    """A jar of the worker's Java, made in ``folder`` if it is not there; its date is always the same.

    Two may make it at a time: each writes a file of its own, and all are alike.
    """
    jar = folder / f"{mark()}.jar"
    if jar.is_file():
        return jar
    from py4j.java_gateway import JavaGateway

    folder.mkdir(parents=True, exist_ok=True)
    gateway = JavaGateway.launch_gateway(
        classpath=f"{spark_jars}{os.sep}*", java_path=str(java), die_on_exit=True, enable_auth=True
    )
    try:
        content = list(files(gateway.jvm))
    finally:
        gateway.shutdown()
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        made = Path(draft, jar.name)
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content:
                archive.writestr(zipfile.ZipInfo(name), data)
        os.utime(made, (0, 0))
        made.replace(jar)
    return jar
