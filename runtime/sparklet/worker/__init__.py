"""From a Lambda event to the outcome of each of its tasks."""
