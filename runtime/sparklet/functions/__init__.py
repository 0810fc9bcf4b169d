"""Python functions in parallel: a ``concurrent.futures.Executor`` over Lambda and local processes.

The way of a call and back::

    executor      LambdaExecutor takes functions and arguments, starts tries, and sets results (remote: decorated ones)
    calls         Call and Answer, signed; large contents lie beside them
    backend       the port: local (processes, threads), deployed (Lambda)
    handler       in Lambda: claims a call in the ledger and records its answer there (recorded_calls)
    performer     in any worker: checks the signature, finds the function, calls it, and signs the answer

Names of ``calls`` and ``remote`` are part of what travels: pickles refer to them.
"""
