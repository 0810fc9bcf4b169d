"""Is what Sail (pysail) stages what Spark 3.5 stages? The campaign of docs/decisions/0067-no-native-engine.md."""
