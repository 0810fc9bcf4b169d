"""What the ledger has of a run, for people and documents: sums, pace, causes, where an object went."""
