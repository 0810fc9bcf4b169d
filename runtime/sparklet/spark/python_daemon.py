"""Starts Spark's Python workers in the task's folder, as under spark-submit.

The workers are children of the JVM, and a kept JVM cannot change its own folder. Spark runs this module in place of
``pyspark.daemon`` (``spark.python.daemon.module``).
"""

import os
import sys

if __name__ == "__main__":
    os.chdir(os.environ["PWD"])
    if not sys.flags.safe_path:
        sys.path[0] = os.environ["PWD"]  # in place of the JVM's folder, where an earlier task may have left modules
    from pyspark.daemon import manager

    manager()
