"""Starts Spark's Python workers in the task's folder, as they do under spark-submit.

They are children of the JVM, and a JVM that is kept cannot change its own folder. Spark
runs this module in place of ``pyspark.daemon`` (``spark.python.daemon.module``).
"""

import os

if __name__ == "__main__":
    from pyspark.daemon import manager

    os.chdir(os.environ["PWD"])
    manager()
