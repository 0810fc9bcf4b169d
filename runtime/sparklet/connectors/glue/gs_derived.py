"""What Glue Studio's scripts import for a derived column, which is ``DynamicFrame.gs_derived``."""
