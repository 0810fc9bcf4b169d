"""The worker's own Java classes, compiled by Spark's Janino, ahead of time if possible.

The image and local workers (``local.prepared_jars``) have a jar of these classes on the class path. A JVM without the
jar compiles them before its first task, which takes more than half a second of CPU.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparklet.job.spark_lines import is_known

FOR_ALL = (
    *("JvmState", "WarmJvm", "Seen", "ParquetPart", "TextPart", "SparkInput", "SmallInputs", "PutOnce", "DeltaCommit"),
    *("TaskS3A", "StagedS3A", "AttemptCommit", "CatalogNames", "InferredTypes"),
)
SOURCES = (*FOR_ALL, "SparkInsides", "KeptContext")
"""Each class can use those before it. A class that differs for a Hadoop version also has ``<name>-<version>.java``."""
HUDI_LOCK = "org/apache/hudi/client/transaction/lock/HudiLock.class"
EXTENDED = "org/apache/hudi/client/transaction/lock/StorageBasedLockProvider.class"
"""``HUDI_LOCK`` is only compiled if ``EXTENDED`` is on the class path."""
_ESCAPED = str.maketrans({character: f"\\{character}" for character in "\\ =:#!"})
_ESCAPED |= str.maketrans({"\n": r"\n", "\r": r"\r", "\t": r"\t", "\f": r"\f"})


def mark() -> str:
    """The name of the empty file that marks a jar of exactly these classes."""
    # It has a digest of the sources, so that a jar of an older version is not used: Janino compiles them instead.
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.java")):
        digest.update(path.read_bytes())
    return f"sparklet-java-{digest.hexdigest()[:16]}"


def are_ahead(jvm: Any) -> bool:
    """Whether the compiled classes are on the class path."""
    return class_loader(jvm).getResource(mark()) is not None


def class_loader(jvm: Any) -> Any:
    """The class loader of the class path."""
    return jvm.java.lang.Thread.currentThread().getContextClassLoader()


def compile_class(jvm: Any, name: str, parent: Any) -> Any:
    """Compile a class; return the compiler, whose class loader has it. ``parent`` loads the classes that it uses."""
    compiler = jvm.org.codehaus.janino.SimpleCompiler()
    compiler.setParentClassLoader(parent)
    compiler.cook(_source(name, jvm.org.apache.hadoop.util.VersionInfo.getVersion()))
    return compiler


def files(jvm: Any) -> Iterator[tuple[str, bytes]]:
    """The jar's files by name; classes for kept contexts only if this Spark's contexts can be kept."""
    yield mark(), b""
    loader = class_loader(jvm)
    version = getattr(getattr(jvm.org.apache.spark, "package$"), "MODULE$").SPARK_VERSION()
    hudi = () if loader.getResource(EXTENDED) is None else ("HudiLock",)
    for name in (*(SOURCES if is_known(version) else FOR_ALL), *hudi):
        compiler = compile_class(jvm, name, loader)
        loader = compiler.getClassLoader()
        bytecodes = compiler.getBytecodes()
        # An array, since iterating a Java set ends with an exception that pyspark can only translate with a context.
        for class_name in sorted(bytecodes.keySet().toArray()):
            yield f"{class_name.replace('.', '/')}.class", bytes(bytecodes.get(class_name))


def encode_properties(properties: Mapping[str, str]) -> str:
    """Properties as one text in the format of ``java.util.Properties``, so that one call can set them all."""
    return "\n".join(f"{key.translate(_ESCAPED)}={value.translate(_ESCAPED)}" for key, value in properties.items())


def _source(name: str, hadoop_version: str) -> str:
    minor_version = ".".join(hadoop_version.split(".")[:2])
    path = Path(__file__).with_name(f"{name}-{minor_version}.java")
    return (path if path.exists() else path.with_name(f"{name}.java")).read_text()
