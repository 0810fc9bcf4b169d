"""Sparklet: ordinary PySpark scripts inside AWS Lambda containers, fanned out over small files."""

__version__ = "0.1.0"
