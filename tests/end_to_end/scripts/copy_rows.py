"""CSV → Parquet; waits, fails or prints where a parameter says so, so that a test can catch it in the act."""

import fcntl
import sys

from sparklet.job import Job

job = Job.from_args()
named = job.inputs[0].rsplit("/", 1)[-1]
print(f"doing {named}")
spark = job.spark()
frame = spark.read.csv(list(job.inputs), header=True)
if named == job.params.get("slow_on"):
    with open(job.params["held"]) as held:
        fcntl.flock(held, fcntl.LOCK_SH)
if named == job.params.get("fail_on"):
    print("about to fail", file=sys.stderr)
    raise ValueError(f"{named} is not to my taste")
frame.write.mode("overwrite").parquet(job.output)
job.report(rows=frame.count(), outputs=[job.output])
