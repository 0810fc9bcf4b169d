"""A user without a name is noticed; what Hadoop makes of one is seen in the image (tests/container)."""

import os

import pytest

from sparklet.spark.processes import has_name


def test_the_superuser_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)

    assert has_name()


def test_an_id_missing_from_passwd_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)

    assert not has_name()
