"""Each line of the page on moving to Spark 4 is true for the installed Spark."""

import json
import re
from pathlib import Path

import pyspark
import pytest

from sparklet.job.spark_lines import line_of
from tests.functional.job.warm_jvm import WarmJvm

pytestmark = [pytest.mark.spark, pytest.mark.slow]

PAGE = Path(__file__).parents[3] / "docs" / "guide" / "spark4.md"
SCRIPT = Path(__file__).parent / "evaluated.py"
ROW = re.compile(r"^\| `(.+?)` \| `(.+?)` \| `(.+?)` \| `(.+?)`: `(.+?)` \|$", re.MULTILINE)
LINE = line_of(pyspark.__version__)


def test_each_line_of_the_page_is_true(jvm: WarmJvm) -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len(rows) == PAGE.read_text(encoding="utf-8").count("\n| `") >= 14
    expressions = [each for expression, *_, remedy, _ in rows for each in (expression, remedy)]

    done = jvm.run(str(SCRIPT), "--param", f"expressions={json.dumps(expressions)}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    on_page = {expression: old if LINE == "3.5" else new for expression, old, new, *_ in rows}
    assert {each: found["default"][each] for each in on_page} == on_page
    remedies = {remedy: result for *_, remedy, result in rows}
    assert {each: found["default"][each] for each in remedies} == remedies
    as_before = {expression: old for expression, old, *_ in rows if not expression.startswith("decode(")}
    assert {each: found["false"][each] for each in as_before} == as_before
    assert found["types"] == {"id": "int", "day": "date", "at": "timestamp", "number": "int", "none": "string"}
    assert found["permissive"] == {"rows": [[1, None]]}
