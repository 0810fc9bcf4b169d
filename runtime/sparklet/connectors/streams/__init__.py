"""Records of Kinesis, Kafka and DynamoDB Streams as DataFrames; ``aggregates`` opens those of Kinesis."""
