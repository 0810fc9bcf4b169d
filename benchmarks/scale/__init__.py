"""Many shards through the whole path on the stand-in: real planner, queue, handler, ledger, checker, manifests.

    python -m benchmarks.scale [--shards 100000] [--json]

Only two things are not Sparklet's own: the script's runner, which notes what it was asked to do (``environment``),
and what stands in for Lambda's event source mapping (``mapping``). A clean pass is followed by one with faults
(``faults``). What was lost or doubled is found from those notes, the input and the result files, not from the
ledger's own figures (``account``).
"""
