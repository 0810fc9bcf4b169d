"""Work on tables with Spark in a separate process.

As a script this module reads pickled steps from its argument, and prints the results of all steps as a JSON list. The
steps are ``("commit", commit)``, ``("append", table, folder)`` as a script outside of runs does it, and
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
    spark, results = job.spark(), list[Any]()
    for action, *arguments in pickle.loads(bytes.fromhex(sys.argv[1])):
        if action == "commit":
            (planned,) = arguments
            results.append(asdict(commit(planned, spark)))
        elif action == "append":
            table, folder = arguments
            results.append(job.append(spark.read.parquet(folder), table))
        else:
            format_, place, condition, *columns = arguments
            results.append(spark.read.format(format_).load(place).where(condition).select(*columns).collect())
    print(json.dumps(results))
    spark.stop()


if __name__ == "__main__":
    main()
