"""Certifies scripts: the first side runs each twice, the other side once, and what was staged is compared."""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from sparklet.app.reporter import Reporter
from sparklet.certify.compare import FAILURE, NONE, Difference, Staged, differences, unstable
from sparklet.certify.side import side
from sparklet.errors import PlanError, SettingsError

Against = Literal["spark-4.1", "native"]
NEEDED = {"spark-4.1": "bin/python", "native": "bin/sail"}
MADE_BY = {"spark-4.1": "make venv STACK=spark-4.1", "native": "make native-venv"}
MAX_DIFFERENCES = 1000
Done = tuple[Mapping[str, Any], Staged]  # figures, and what was staged


@dataclass(frozen=True)
class Certificate:
    """What was found of one script: ``equal`` only if everything could be compared."""

    script: str
    verdict: str
    sides: tuple[Mapping[str, Any], ...]  # version, time, memory, cost; the first side's of its first run
    differences: tuple[Difference, ...]  # the first ones
    not_comparable: tuple[Difference, ...]  # within the first side, and failures of both

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def certify(
    requests: Sequence[Mapping[str, Any]],
    against: Against,
    reporter: Reporter,
    environment: Path | None = None,
    tolerance: float = 0.0,
    within_s: float = 3600.0,
    **of_workers: Any,
) -> Iterator[Certificate]:
    """Certify scripts, each with the options of its run; one stack a side does them all.

    Parameters
    ----------
    environment
        The other side's; by default ``.venv-spark-4.1`` or ``.venv-native`` beside this Python's.
    within_s
        For all shards of one run.
    of_workers
        Options of the stacks, as ``sparklet.client.Stack`` has them.

    Raises
    ------
    SettingsError, PlanError
        The environment is missing or another, or an input is not local.
    """
    folder = environment or Path(sys.prefix).parent / f".venv-{against}"
    if not (needed := (folder / NEEDED[against]).absolute()).exists():
        raise SettingsError(
            f"{needed} is not there, which certify needs for {against}: {MADE_BY[against]} makes it in a checkout; "
            "--environment names another folder"
        )
    if far := [each for given in requests for each in given.get("inputs", ()) if "://" in each]:
        raise PlanError(f"{far[0]} is not local: certify needs a sample on this machine")
    if any("output" in given for given in requests):
        raise PlanError("certify keeps no output: leave out --output")
    python, sail = (needed, None) if against != "native" else (Path(sys.executable), needed)
    with tempfile.TemporaryDirectory(prefix="sparklet-certify-") as state, ExitStack() as held:
        opened = held.enter_context(side(Path(sys.executable), Path(state, "1"), reporter, within_s, of_workers))
        firsts = [[opened.run(given, f"certify-{n}-{k}") for k in "12"] for n, given in enumerate(requests)]
        held.pop_all().close()
        opened = held.enter_context(side(python, Path(state, "2"), reporter, within_s, of_workers, sail))
        if not sail and not opened.version.startswith(f"{against}.".replace("-", " ").capitalize()):
            raise SettingsError(f"{needed} has {opened.version}, not {against}: --environment names another folder")
        for n, (given, (first, again)) in enumerate(zip(requests, firsts, strict=True)):
            yield _certificate(str(given["script"]), first, again, opened.run(given, f"certify-{n}-1"), tolerance)


def _certificate(script: str, first: Done, again: Done, other: Done, tolerance: float) -> Certificate:
    noise = unstable(first[1], again[1], tolerance)
    found = tuple(islice(differences(first[1], other[1], tolerance, noise), MAX_DIFFERENCES))
    one, two = first[1].facts, other[1].facts
    alike = [Difference(*fact, "", one[fact], two[fact]) for fact in one if fact[0] == FAILURE and fact in two]
    if all(kind == "plan" for kind, *_ in (*one, *two)):
        alike = [Difference("staged", "all shards", "", "", NONE, NONE)]  # nothing is not equal to nothing
    verdict = "different" if found else "not comparable" if noise or alike else "equal"
    return Certificate(script, verdict, (first[0], other[0]), found, (*noise.values(), *alike))
