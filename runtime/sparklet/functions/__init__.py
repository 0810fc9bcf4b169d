"""Python functions in parallel: a ``concurrent.futures.Executor`` over Lambda, Fargate and local processes."""
