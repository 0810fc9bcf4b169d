"""Glue's rules of data quality, for scripts that import ``awsgluedq.transforms``."""
