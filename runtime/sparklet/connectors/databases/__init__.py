"""Databases by JDBC."""
