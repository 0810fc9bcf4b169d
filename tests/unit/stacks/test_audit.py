"""What pip-audit's answers mean here: a distribution that nobody looked at is not a sound one."""

import json
from pathlib import Path

import pytest

from docker import audit
from docker.audit import Verdict, lists, main, told, verdict_of

SOUND = {"name": "six", "version": "1.17.0", "vulns": []}
SKIPPED = {"name": "six", "skip_reason": "Dependency not found on PyPI and could not be audited: six (1.17.0)"}
HOLE = {"id": "PYSEC-1", "fix_versions": ["2.9", "3.0"], "aliases": ["CVE-2026-1"], "description": "…"}
HOLED = {"name": "urllib3", "version": "2.8.0", "vulns": [HOLE]}


def _report(*entries: object) -> str:
    return json.dumps({"dependencies": entries, "fixes": []})


def _auditor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> None:
    """A program in the place of .venv-audit's Python that answers for each service, or fails."""
    program = tmp_path / "python"
    cases = "".join(f"*{service}*) echo '{answer}';;\n" for service, answer in answers.items())
    program.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}*) echo "no route to the service" >&2; exit 1;;\nesac\n')
    program.chmod(0o755)
    monkeypatch.setattr(audit, "AUDITOR", program)


def test_a_vulnerability_is_shown_with_its_fix() -> None:
    assert verdict_of(_report(SOUND, HOLED)) == Verdict(
        ("urllib3 2.8.0: PYSEC-1, CVE-2026-1; fixed by 2.9 or 3.0",), (), ""
    )


def test_skipped_packages_do_not_count_as_audited() -> None:
    verdict = verdict_of(_report(SKIPPED))

    assert verdict.unaudited == ("six",)
    assert "WARNING  image: NOT AUDITED: six" in told("image", verdict)


def test_everything_that_is_installed_is_audited(tmp_path: Path) -> None:
    files = dict(lists(tmp_path))

    assert {"image spark-3.5", "local.lock", "local-spark-4.1.lock"} <= files.keys()
    assert {"pyspark==", "awslambdaric==", "pydeequ=="} <= {
        line.partition("==")[0] + "==" for line in files["image spark-3.5"].read_text().splitlines()
    }


def test_a_vulnerability_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _auditor(tmp_path, monkeypatch, {"pypi": _report(SOUND, HOLED)})

    assert main([]) == 1
    assert "VULNERABLE  local.lock: urllib3 2.8.0: PYSEC-1" in capsys.readouterr().err


@pytest.mark.parametrize(("required", "code"), [("", 0), ("1", 1)])
def test_an_unreachable_service_fails_only_where_it_must_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], required: str, code: int
) -> None:
    _auditor(tmp_path, monkeypatch, {})
    monkeypatch.setenv("REQUIRE_AUDIT", required)

    assert main([]) == code
    assert "NOT AUDITED" in capsys.readouterr().err


def test_osv_is_queried_where_pypi_has_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _auditor(tmp_path, monkeypatch, {"pypi": _report(SKIPPED), "osv": _report(HOLED)})

    assert main([]) == 1
    assert "NOT AUDITED" not in capsys.readouterr().err


def test_a_clean_list_is_reported_as_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _auditor(tmp_path, monkeypatch, {"pypi": _report(SOUND)})

    assert main([]) == 0
    assert "local.lock: no known vulnerability" in capsys.readouterr().out
