"""Databases by JDBC, and the tokens that cap their connections."""
