"""Tables of Glue's Data Catalog by name: as a run's input, and in scripts."""
