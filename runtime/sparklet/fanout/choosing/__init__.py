"""Which way a run should go, what that costs and takes, and what contradicts what."""
