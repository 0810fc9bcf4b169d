"""Copy CSV to Parquet; wait or fail at the input that a parameter names, so that a test can act meanwhile."""

import fcntl
import sys

from sparklet.job import Job

job = Job.from_args()
input_name = job.inputs[0].rsplit("/", 1)[-1]
print(f"doing {input_name}")
spark = job.spark()
frame = spark.read.csv(list(job.inputs), header=True)
if input_name == job.params.get("slow_on"):
    with open(job.params["held"]) as held:
        fcntl.flock(held, fcntl.LOCK_SH)
if input_name == job.params.get("fail_on"):
    print("about to fail", file=sys.stderr)
    raise ValueError(f"{input_name} is not to my taste")
frame.write.mode("overwrite").parquet(job.output)
job.report(rows=frame.count(), outputs=[job.output])
