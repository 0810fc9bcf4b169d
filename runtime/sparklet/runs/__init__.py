"""From the first message to the end of a run: check, dead letters, state machines, cancel, redrive, manifests."""
