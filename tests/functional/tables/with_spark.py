"""Does steps at tables with Spark, in a process of its own.

As a script it has the steps, pickled, in its argument, and prints the answers as JSON. The steps:
``("commit", commit)``, ``("append", table, folder)`` as a script outside of runs does,
``("read", format, place, condition, column, …)``.
"""

import json
import pickle
import sys
from dataclasses import asdict
from subprocess import CompletedProcess
from typing import Any

from sparklet.connectors.tables.commit import commit
from sparklet.job import Job
from tests.functional.job.warm_jvm import WarmJvm


def call(jvm: WarmJvm, *steps: tuple[Any, ...], **env: str) -> CompletedProcess[str]:
    return jvm.run(__file__, pickle.dumps(steps).hex(), **env)


def answers(jvm: WarmJvm, *steps: tuple[Any, ...], **env: str) -> list[Any]:
    done = call(jvm, *steps, **env)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    job = Job.from_args([])
    spark, told = job.spark(), list[Any]()
    for kind, *arguments in pickle.loads(bytes.fromhex(sys.argv[1])):
        if kind == "commit":
            (planned,) = arguments
            told.append(asdict(commit(planned, spark)))
        elif kind == "append":
            table, folder = arguments
            told.append(job.append(spark.read.parquet(folder), table))
        else:
            format_, place, condition, *columns = arguments
            told.append(spark.read.format(format_).load(place).where(condition).select(*columns).collect())
    print(json.dumps(told))
    spark.stop()


if __name__ == "__main__":
    main()
