"""Python functions in parallel: a ``concurrent.futures.Executor`` over Lambda and local processes."""
