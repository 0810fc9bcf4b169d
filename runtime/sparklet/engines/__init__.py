"""Engines do shards that are too large for a function: a larger one, Fargate, EMR Serverless, EMR, Glue, a cluster.

The way of a shard to an engine and back::

    worker.shards        a function runs out of memory or time: the ledger has the shard PENDING for an engine
    runs.engine_workers  the checker starts a worker for it: Engine.start(token, ("shard", "--run", …))
    create               the engines by their names in SPARKLET_ENGINES, one module each:
                         lambda_large, fargate, and emr_serverless, emr, glue over spark_platform; clusters here
    one_shard            the worker: it claims the shard, runs the script, and writes the result to the ledger
    runs.engine_workers  later checks ask Engine.stopped why a worker ended without a claim, and start another

The large function's worker is that of the functions. On Fargate ``one_shard`` is the image's command ``shard``. On EMR
Serverless, EMR and Glue the driver's program is ``on_platform``: it unpacks ``worker_package`` and calls ``one_shard``,
and scripts use the driver's JVM (``attached``). An engine only starts processes. All workers go through the same claims
and leases, so a superfluous one does no harm.
"""
