"""Every state of every shard: the rules, and the ledger in memory. DynamoDB's is ``sparklet.aws.dynamodb``."""
