"""Mutants: a function without its body, beside the rest of its module as it is."""

from typing import Any

import pytest

from sparklet.planning.packing import pack_shards
from tests.mutate import Mutating, functions


def mutant(function: str, how: str) -> dict[str, Any]:
    """The module of a function, imported with the mutant."""
    made = {"__name__": "mutated"}
    exec(Mutating(f"sparklet.model.quantities:{function}:{how}").get_code(""), made)
    return made


def test_a_mutant_does_nothing_or_raises() -> None:
    doing_nothing = mutant("parse_size_bytes", "none")

    assert doing_nothing["parse_size_bytes"]("1 MB") is None
    assert doing_nothing["parse_duration_s"]("2s") == 2.0
    with pytest.raises(RuntimeError, match="mutant"):
        mutant("parse_size_bytes", "raise")["parse_size_bytes"]("1 MB")


def test_each_public_function_is_a_mutant() -> None:
    names = {each.key for each in functions("sparklet.planning")}

    assert f"{pack_shards.__module__}:pack_shards" in names
    assert not any(":_" in name for name in names)
