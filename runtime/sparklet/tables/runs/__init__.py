"""What a run does for tables: its commit step, entries for Athena, and the removal of orphans."""
