"""Let Java call a Python object several times and collect garbage in each call, as a commit to Hudi can do."""

from typing import Any

from pyspark.java_gateway import launch_gateway

from sparklet.connectors.tables.hudi import let_java_call

TIMES = 4


class CollectingConsumer:
    """A callback that makes Java collect what earlier scripts have left in the JVM."""

    def __init__(self, java: Any) -> None:
        self._java = java

    def accept(self, *_: Any) -> None:
        self._java.lang.System.gc()
        self._java.lang.System.runFinalization()
        print("called")

    class Java:
        """The Java interface of the callback; py4j looks for a class with this name."""

        implements = ("java.util.function.BiConsumer",)


def main() -> None:
    gateway = launch_gateway()
    let_java_call(gateway)
    entries = gateway.jvm.java.util.HashMap()
    for number in range(TIMES):
        entries.put(number, number)
    entries.forEach(CollectingConsumer(gateway.jvm.java))


if __name__ == "__main__":
    main()
