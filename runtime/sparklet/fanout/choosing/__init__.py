"""Dispatch modes, what a run costs and takes, commands for other engines, and settings that contradict each other."""
