"""``flights_daily`` with a fault for the demo: it hangs on purpose on one input.

Parameter ``hang_on``: a shard with an input whose uri contains this text hangs until the worker's deadline ends it.
Every other shard is done by ``flights_daily``, which is passed by ``--py-files``; the repair is to run that script.
"""

import time

import flights_daily  # type: ignore[import-not-found]  # from --py-files

from sparklet.job import Job


def main() -> None:
    """Hang if an input's uri contains ``hang_on``; else do the job."""
    job = Job.from_args()
    hanging_inputs = [uri for uri in job.inputs if job.params.get("hang_on", "\0") in uri]
    if hanging_inputs:
        print(f"hanging on purpose: {hanging_inputs[0]}", flush=True)
        while True:
            time.sleep(1)
    flights_daily.main()


if __name__ == "__main__":
    main()
