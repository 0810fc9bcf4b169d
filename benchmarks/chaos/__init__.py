"""``make chaos``: one table for all shards under kills, double deliveries, zombies and faults of the network.

A *trial* is a run of two or three small shards into one table: planned, done by real worker processes with real Spark
against the local stack, checked until it has ended. One thing goes wrong in it, chosen by the trial's seed (``plans``).
Every request of a worker passes a proxy (``proxy``), so a worker can be killed, or stopped for a while, before or after
the effect of any request, which is between any two steps of the protocol, without a hook in the product.

Then an independent reader (``reader``), which knows neither Sparklet nor Spark, compares the table with the truth, row
by row; while the run lasts it has looked for half a commit. ``plain`` is the baseline: each shard appends by itself.
"""
