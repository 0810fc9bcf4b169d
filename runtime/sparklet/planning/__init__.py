"""From a request to shards in the ledger and messages in the queue."""
