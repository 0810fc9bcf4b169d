"""What a user can do, for the command line (``cli``) and for Python programs (``client``) alike.

Enter at ``stack.open_stack``, which opens the local stack or a deployed one; every action takes the ``OpenStack``::

    start.run_request → start.begin → watch.watch      a run from its options to its end
    status.view_run, explain.explain, logs.LogReader   what is known about it
    redrive.redrive_run, clean.delete_run              what changes it
    start.invoke_script                                a script on one event

Actions report progress to a ``reporter.Reporter``. ``documents`` makes what ``--json`` prints and the client returns.
"""
