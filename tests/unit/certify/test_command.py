"""What the command tells a user who lacks something, before anything is started."""

from pathlib import Path

import pytest

from sparklet.cli import main


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").touch()
    (tmp_path / "a.csv").touch()
    return ["certify", "job.py", "-i", "a.csv"]


@pytest.mark.parametrize(
    ("against", "remedy"), [("spark-4.1", "make venv STACK=spark-4.1"), ("native", "make native-venv")]
)
def test_a_missing_environment_is_named_with_its_command(
    sample: list[str], against: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*sample, "--against", against, "--environment", "gone"]) == 1

    told = " ".join(capsys.readouterr().err.split())
    assert "gone/bin/" in told and remedy in told and "--environment" in told


@pytest.mark.parametrize(
    ("words", "told"), [(["-i", "s3://bucket/a.csv"], "s3://bucket/a.csv is not local"), (["-o", "out"], "--output")]
)
def test_what_certify_cannot_use_is_refused(
    sample: list[str], words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()

    assert main([*sample, *words, "--against", "spark-4.1", "--environment", str(tmp_path)]) == 1
    assert told in " ".join(capsys.readouterr().err.split())
