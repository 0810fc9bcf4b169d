"""Every shard to a known end: the checker, dead letters, cancel and redrive, follow-ups, manifests, notices."""
