"""The worker's own Java, compiled ahead: ``compile_java.py TARGET`` writes its jar and the ORDER that names it last.

What lies in TARGET is laid over the image's folder of jars, before the class-data archive is made.
"""

import os
import sys
from pathlib import Path

from sparklet.local.prepared_jars import compiled_jar

JARS = Path("/opt/sparklet/jars")
ORDER = JARS / "ORDER"


def main(target: Path) -> None:
    """Write both, dated 0: the archive is bound to the dates of jars."""
    java, spark_jars = Path(os.environ["JAVA_HOME"], "bin", "java"), Path(os.environ["SPARK_HOME"], "jars")
    jar = compiled_jar(java, [spark_jars, JARS], target)
    order = target / ORDER.name
    order.write_text(f"{ORDER.read_text()}{jar.name}\n")
    for path in (jar, order):
        path.chmod(0o644)
        os.utime(path, (0, 0))
    print(f"{jar.name}: {jar.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
