"""Engines run shards that are too much for a function: Fargate, EMR, EMR Serverless, Glue, a Spark cluster."""
