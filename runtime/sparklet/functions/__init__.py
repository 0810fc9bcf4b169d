"""Python functions in parallel: a ``concurrent.futures.Executor`` over Lambda and local processes.

How a call is sent, performed and answered::

    executor      LambdaExecutor takes functions and arguments, starts tries, and sets results
    remote        the decorator by which functions call the executor themselves
    calls         Call and Answer, signed; large contents are stored beside them
    backend       the port: local (processes, threads), deployed (Lambda)
    handler       in Lambda: claims a call in the ledger and records its answer there (recorded_calls)
    performer     in any worker: checks the signature, finds the function, calls it, and signs the answer

Do not rename what ``calls`` and ``remote`` define: pickles that are sent refer to the names.
"""
