"""Whatever knows Spark's insides: the JVM, the runners, the process of a script."""
