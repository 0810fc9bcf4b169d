"""What the ledger says of a run, for people and documents: sums, pace, causes, one object's fate."""
