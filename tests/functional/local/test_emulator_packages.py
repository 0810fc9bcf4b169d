"""The emulator has packages of its own, which no other process imports."""

import subprocess
from pathlib import Path

import pytest

from sparklet.errors import LocalStackError
from sparklet.local.emulator_packages import emulator_python, ensure_emulator, packages_folder

PRINT_BOTOCORE = "import botocore; print(botocore.__file__)"


def test_only_the_emulators_process_has_its_packages() -> None:
    folder = ensure_emulator(print)
    of_child = f"import subprocess; subprocess.run([sys.executable, '-c', {PRINT_BOTOCORE!r}], check=True)"

    for code, is_own in ((PRINT_BOTOCORE, True), (of_child, False)):
        done = subprocess.run(emulator_python(folder, code), capture_output=True, text=True, check=True)

        assert done.stdout.startswith(str(folder)) is is_own


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARKLET_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("empty_cache")
def test_no_package_is_fetched_offline() -> None:
    with pytest.raises(LocalStackError, match="run once with a network"):
        ensure_emulator(print, offline=True)


@pytest.mark.usefixtures("empty_cache")
def test_a_cache_that_cannot_be_written_is_named(empty_cache: Path) -> None:
    (empty_cache / "emulator").write_text("in the way")

    with pytest.raises(
        LocalStackError, match=r"emulator cannot be written: .*another cache folder with SPARKLET_CACHE_DIR"
    ):
        ensure_emulator(print)


def test_a_failed_fetch_names_the_cause_and_leaves_no_file(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{empty_cache}/no-index")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_USER", "1")  # pip would refuse it together with a target folder

    with pytest.raises(LocalStackError, match=r"(?s)No matching distribution.*PIP_INDEX_URL"):
        ensure_emulator(print)

    assert not packages_folder().exists() and [path.name for path in packages_folder().parent.iterdir()] == ["lock"]
