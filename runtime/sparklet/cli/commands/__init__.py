"""The commands, in the groups that the help shows."""
