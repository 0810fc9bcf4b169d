"""Has Java call an object of this process again and again, and collect its garbage; a commit to Hudi may do so."""

from typing import Any

from pyspark.java_gateway import launch_gateway

from sparklet.connectors.tables.hudi import let_java_call

TIMES = 4


class Answer:
    """Has Java collect what earlier scripts have left there."""

    def __init__(self, java: Any) -> None:
        self._java = java

    def accept(self, *_: Any) -> None:
        self._java.lang.System.gc()
        self._java.lang.System.runFinalization()
        print("called")

    class Java:
        """What py4j asks for."""

        implements = ("java.util.function.BiConsumer",)


def main() -> None:
    gateway = launch_gateway()
    let_java_call(gateway)
    entries = gateway.jvm.java.util.HashMap()
    for number in range(TIMES):
        entries.put(number, number)
    entries.forEach(Answer(gateway.jvm.java))


if __name__ == "__main__":
    main()
