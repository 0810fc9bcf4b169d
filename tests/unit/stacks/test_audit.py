"""The result of pip-audit's reports: a distribution that was not audited counts as a fault."""

import json
from pathlib import Path

import pytest

from docker import audit
from docker.audit import lists, main

SOUND = {"name": "six", "version": "1.17.0", "vulns": []}
SKIPPED = {"name": "six", "skip_reason": "Dependency not found on PyPI and could not be audited: six (1.17.0)"}
HOLE = {"id": "PYSEC-1", "fix_versions": ["2.9", "3.0"], "aliases": ["CVE-2026-1"], "description": "…"}
HOLED = {"name": "urllib3", "version": "2.8.0", "vulns": [HOLE]}


def _report(*entries: object) -> str:
    return json.dumps({"dependencies": entries, "fixes": []})


def _auditor(program: Path, answers: dict[str, str]) -> Path:
    """Write a fake of .venv-audit's Python that prints a report for each service, or fails."""
    cases = "".join(f"*{service}*) echo '{answer}';;\n" for service, answer in answers.items())
    program.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}*) echo "no route to the service" >&2; exit 1;;\nesac\n')
    program.chmod(0o755)
    return program


def test_everything_that_is_installed_is_audited(tmp_path: Path) -> None:
    files = dict(lists(tmp_path))

    assert {"image spark-3.5", "local.lock", "local-spark-4.1.lock"} <= files.keys()
    names = {line.partition("==")[0] for line in files["image spark-3.5"].read_text().splitlines()}
    assert {"pyspark", "awslambdaric", "pydeequ"} <= names


CLEAN = "no known vulnerability"
HOLE_AND_FIX = "VULNERABLE  local.lock: urllib3 2.8.0: PYSEC-1, CVE-2026-1; fixed by 2.9 or 3.0"


@pytest.mark.parametrize(
    ("answers", "required", "code", "says"),
    [
        ({"pypi": _report(SOUND)}, "1", 0, f"local.lock: {CLEAN}"),
        ({"pypi": _report(SOUND, HOLED)}, "", 1, HOLE_AND_FIX),
        # OSV knows a distribution that PyPI does not.
        ({"pypi": _report(SKIPPED), "osv": _report(HOLED)}, "", 1, HOLE_AND_FIX),
        ({"pypi": _report(SKIPPED)}, "", 0, "WARNING  local.lock: NOT AUDITED: six"),
        ({}, "", 0, "NOT AUDITED"),
        ({}, "1", 1, "NOT AUDITED"),
    ],
)
def test_holes_fail_and_unaudited_lists_where_they_must_not_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: dict[str, str],
    required: str,
    code: int,
    says: str,
) -> None:
    monkeypatch.setattr(audit, "AUDITOR", _auditor(tmp_path / "python", answers))
    monkeypatch.setenv("REQUIRE_AUDIT", required)

    assert main([]) == code

    printed = capsys.readouterr()
    assert says in (printed.out if CLEAN in says else printed.err)
    assert ("NOT AUDITED" in printed.err) is ("NOT AUDITED" in says)
