"""The simulator's constants have sources, and its settings agree with the template."""

import re
from pathlib import Path

from benchmarks.simulate.answers import Question
from benchmarks.simulate.constants import FACTS
from benchmarks.simulate.setup import (
    MAX_RECEIVES,
    VISIBILITY_TIMEOUTS,
)
from sparklet.app.costs import WorkerSize

ROOT = Path(__file__).parents[2]


def test_every_constant_has_a_source_and_a_date() -> None:
    assert not [name for name, each in FACTS.items() if not each.source or not re.match(r"20\d\d-\d\d", each.date)]


def test_the_simulators_settings_equal_the_templates() -> None:
    template = (ROOT / "sam" / "template.yaml").read_text()
    defaults = dict(re.findall(r"^  (\w+):\n    Type: \w+\n    Default: (\d+)$", template, re.M))
    visibility = re.findall(r'"(\d+)": \{ Queue: (\d+) \}', template)

    assert int(defaults["MaxReceiveCount"]) == MAX_RECEIVES
    assert int(defaults["MaximumConcurrency"]) == WorkerSize.concurrency == Question.concurrency
    assert {int(queue) / int(timeout) for timeout, queue in visibility} == {VISIBILITY_TIMEOUTS}
    assert "Schedule: rate(1 minute)" in template
