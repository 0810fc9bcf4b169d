"""What a machine lacks: a fresh installation lacks nothing that its first run does not bring."""

from pathlib import Path

import pytest

from sparklet.app.doctor import Finding, examine


def of_jars(state: Path) -> Finding:
    return next(each for each in examine(state) if each.what == "jars")


def test_a_fresh_installation_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its third command ended with "cannot be had … this is offline mode", before anything was fetched."""
    monkeypatch.setenv("SPARKLET_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("SPARKLET_OFFLINE", raising=False)

    assert of_jars(tmp_path).good and "the first run fetches them" in of_jars(tmp_path).found
    monkeypatch.setenv("SPARKLET_OFFLINE", "1")
    assert not of_jars(tmp_path).good and "offline" in of_jars(tmp_path).found
