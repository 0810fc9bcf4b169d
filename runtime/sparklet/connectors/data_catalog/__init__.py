"""Tables of Glue's Data Catalog by their names: as a run's input, and in scripts."""
