"""Reads Hudi tables with plain Spark, for ``readers``; requests and answers as ``reader`` has them."""

import json
import os
import sys
from typing import Any

from sparklet.job.session import spark_session


def main() -> None:
    """Answer a line for each line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints
    spark = spark_session(
        "reader", {"spark.ui.enabled": "false", "spark.driver.memory": "700m", "spark.master": "local[1]"}
    )
    path = spark._jvm.org.apache.hadoop.fs.Path
    for line in sys.stdin:
        place = json.loads(line)["place"]
        answer: dict[str, Any]
        try:
            marker = path(f"{place}/.hoodie/hoodie.properties")
            if marker.getFileSystem(spark._jsc.hadoopConfiguration()).exists(marker):
                found = spark.read.format("hudi").load(place)
                rows = (
                    found.select("id", "name").collect() if "id" in found.columns else []
                )  # no commit yet: no columns
                answer = {"rows": [list(row) for row in rows]}
            else:
                answer = {"rows": None}
        except Exception as error:  # noqa: BLE001 - whatever Spark raises is its answer
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
