"""What the state machines call: the steps, and the batches of shards that a Map hands out."""
