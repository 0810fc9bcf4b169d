"""PySpark's side of a kept context: Python's SparkContext is new for each script, Java's need not be.

What PySpark calls to make a context and to stop it is turned to ``WarmJvm.java``; all else in PySpark's
SparkContext, as the environment of Python's workers, is made anew by PySpark itself.
"""

from typing import Any

import pyspark
from pyspark import SparkContext, accumulators

from sparklet.worker.java_classes import KEPT_SPARK

_stop = SparkContext.stop


def install() -> None:
    """Let this process's contexts be kept ones, where Java's can be."""
    if not pyspark.__version__.startswith(KEPT_SPARK):
        return
    SparkContext._initialize_context = _acquire
    SparkContext.stop = _release
    accumulators.AccumulatorServer.shutdown = _shutdown


def _acquire(self: SparkContext, jconf: Any) -> Any:
    assert self._gateway is not None
    return self._gateway.entry_point.context(jconf)


def _release(self: SparkContext) -> None:
    if getattr(self, "_jsc", None):
        assert self._gateway is not None
        self._gateway.entry_point.release()
        self._jsc = None
    _stop(self)  # has nothing to do in the JVM any more


def _shutdown(self: Any) -> None:
    """Do not wait for a thread that looks up every half second, or every second while it reads; it dies with us."""
    self.server_shutdown = True
    self._BaseServer__shutdown_request = True
    self.server_close()
