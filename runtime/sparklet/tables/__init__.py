"""Tables of Iceberg, Delta and Hudi: each row exactly once."""
