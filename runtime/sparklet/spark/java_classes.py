"""The worker's own Java: compiled by Janino, which Spark brings, ahead of time where it can be.

Local workers have a jar of it on the class path (``local.prepared_jars``). A JVM without that jar compiles the classes
after its first task, which costs the first answer more than half a second of CPU.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCES = ("WarmJvm", "SparkInsides", "KeptContext")
"""Each may know those before it."""
KEPT_SPARK = "3.5."  # whose insides all but the first know


def mark() -> str:
    """The name of an empty file in a jar of exactly these classes."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update(_source(name).encode())
    return f"sparklet-java-{digest.hexdigest()[:16]}"


def are_ahead(jvm: Any) -> bool:
    """Whether the class path has them."""
    return class_loader(jvm).getResource(mark()) is not None


def can_keep(jvm: Any) -> bool:
    """Whether its Spark is of the line whose contexts can be kept."""
    version: str = getattr(getattr(jvm.org.apache.spark, "package$"), "MODULE$").SPARK_VERSION()
    return version.startswith(KEPT_SPARK)


def class_loader(jvm: Any) -> Any:
    """The one of the class path."""
    return jvm.java.lang.Thread.currentThread().getContextClassLoader()


def compiled(jvm: Any, name: str, parent: Any) -> Any:
    """A compiler that has compiled a class, for which ``parent`` has all that it knows."""
    compiler = jvm.org.codehaus.janino.SimpleCompiler()
    compiler.setParentClassLoader(parent)
    compiler.cook(_source(name))
    return compiler


def files(jvm: Any) -> Iterator[tuple[str, bytes]]:
    """What a jar of them holds, by name; for a Spark whose contexts cannot be kept, without what keeps them."""
    yield mark(), b""
    loader = class_loader(jvm)
    for name in SOURCES if can_keep(jvm) else SOURCES[:1]:
        compiler = compiled(jvm, name, loader)
        loader = compiler.getClassLoader()
        bytecodes = compiler.getBytecodes()
        # An array: iterating a map of Java's ends in an exception there, which pyspark translates only with a context.
        for class_name in sorted(bytecodes.keySet().toArray()):
            yield f"{class_name}.class", bytes(bytecodes.get(class_name))


def _source(name: str) -> str:
    return Path(__file__).with_name(f"{name}.java").read_text()
