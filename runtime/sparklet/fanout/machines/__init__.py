"""What the state machines call: steps, waves of shards, batches of objects without a planner."""
