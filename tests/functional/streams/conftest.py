"""Fixtures that tests of streams share with those of scripts."""

from tests.functional.job.conftest import jars

__all__ = ["jars"]
