"""The guide's table of a caller's rights has every call that the code makes, and names the one that is taken out."""

from dataclasses import replace
from pathlib import Path

import pytest

from docs import rights

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide" / "deploy.md"


def test_every_call_of_aws_is_a_callers_or_somebody_elses() -> None:
    assert rights.unknown() == set()
    assert len(rights.called()) > 50


@pytest.mark.parametrize("place", range(len(rights.NEEDS)))
def test_a_call_that_is_taken_out_is_named(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    need = rights.NEEDS[place]
    for call in need.calls:
        fewer = replace(need, calls=tuple(each for each in need.calls if each != call))
        monkeypatch.setattr(rights, "NEEDS", (*rights.NEEDS[:place], fewer, *rights.NEEDS[place + 1 :]))

        assert rights.unknown() == {call}
        monkeypatch.undo()


def test_the_guide_has_the_table_as_it_is_made() -> None:
    """Else: python -m docs.rights docs/guide/deploy.md."""
    assert rights.table() in GUIDE.read_text(encoding="utf-8")
