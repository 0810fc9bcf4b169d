"""The actions of a user, for the command line (``cli``) and for Python programs (``client``).

Begin with ``stack.open_stack``, which opens the local stack or a deployed one; every action gets the ``OpenStack``::

    start.run_request → start.begin → watch.watch      start a run, and watch it until it has ended
    status.view_run, explain.explain, logs.LogReader   show a run
    redrive.redrive_run, clean.delete_run              change a run
    start.invoke_script                                run a script on one event

Actions report progress to a ``reporter.Reporter``. ``documents`` makes what ``--json`` prints and the client returns.
"""
