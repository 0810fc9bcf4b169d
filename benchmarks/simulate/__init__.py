"""A simulator of a run on AWS: queue, mapping, functions, ledger, dead letters, checks. Outside of the wheel.

Begin with ``simulation``, the discrete events. ``constants`` has what AWS and others say, each with source and date,
and the ranges of what nobody says; ``setup`` makes a simulation's input of them; ``experiments`` compares with what
others published; ``answers`` says how long a run takes, what limits it and what it costs.
"""
