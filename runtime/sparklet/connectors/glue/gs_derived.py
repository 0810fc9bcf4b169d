"""Glue Studio's scripts import this module for a derived column; the method is ``DynamicFrame.gs_derived``."""
