"""The local stack: an emulator of AWS in a process of its own, into which ``sam/template.yaml`` is deployed.

``stack`` is the entry for clients: it attaches to the stack of a state folder or starts it (``attach``). The ``host``
starts the ``emulator`` (ministack), deploys into it (``deploy``), runs workers of single shards, and stops everything.
Functions run in ``worker_process``. ``lock`` excludes other processes. ``jars``, ``ivy``, ``java``, ``prepared_jars``
and ``class_data`` provide Spark's environment; the image's build uses them, too.
"""
