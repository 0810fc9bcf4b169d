"""A few trials of the campaign ``benchmarks.jdbc_kills``: workers are killed, frozen or cut off at a statement."""

from pathlib import Path

import pytest

from benchmarks.jdbc_kills import Trial, campaign

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(600)]


def test_each_row_is_written_once_whatever_is_killed(tmp_path: Path) -> None:
    trials = [
        Trial(0, [("zombie", "COMMIT", "before"), ("twice", "", "")]),
        Trial(1, [("kill", "COMMIT", "after"), ("cut", "COMMIT", "after")]),
        Trial(2, [("cut", "COPY", "within"), ("lost host", "INSERT INTO sparklet_commits", "after")]),
    ]

    result = campaign(tmp_path, trials, workers=2)

    assert result["faults"] == {"zombie": 1, "twice": 1, "kill": 1, "cut": 2, "lost host": 1}
    assert (result["lost"], result["duplicated"], result["wrong"]) == (0, 0, 0), result
