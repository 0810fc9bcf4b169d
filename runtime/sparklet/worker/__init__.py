"""From an event of Lambda to the outcome of each of its tasks."""
