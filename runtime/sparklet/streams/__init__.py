"""Records of Kinesis, Kafka and DynamoDB Streams, for scripts."""
