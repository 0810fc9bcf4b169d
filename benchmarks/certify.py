"""Do the example scripts stage the same on Spark 3.5 and 4.1? ``make certify``.

Scripts that a run can have, each on a small sample; all with one stack a side. It fails unless each is equal, or as
``EXPECTED`` says. Left out are the programs of ``examples/`` (clients of the stack, a check, a task of the API),
``check_output``, scripts for streams, which need their events, and those that maintain tables: they change them.

    python -m benchmarks.certify [--against native] [--to build/certified.json] [--only SCRIPT]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spark_scripts.demo.flights_data import make_flights
from sparklet.certify.certificate import certify
from sparklet.cli.console import Screen

SCRIPTS = Path(__file__).parents[1] / "spark_scripts"
EXPECTED = {"hello": "not comparable"}  # it stages nothing
PEOPLE = "id,name,born\n1,Ada,1815-12-10\n2,Émilie,1706-12-17\n3,,1906-12-09\n"
CHANGES = "id,city,changed_at\n1,Oslo,2020-01-01 00:00:00\n2,Rome,2020-01-01 00:00:00\n1,Bergen,2021-01-01 00:00:00\n"
TYPES = "id INT, name STRING, born DATE"


def samples(folder: Path) -> Iterator[dict[str, Any]]:
    """Each script's options, with its sample below ``folder``."""

    def texts(name: str, *contents: str) -> list[str]:
        (folder / name).mkdir()
        for number, text in enumerate(contents):
            (folder / name / f"{number}.csv").write_text(text, encoding="utf-8")
        return [str(folder / name)]

    def rows() -> list[str]:
        changed = pa.array([1, 3, 2], pa.timestamp("us", tz="UTC"))
        (folder / "rows").mkdir()
        for name in "ab":
            table = pa.table({"id": [1, 1, 2], "name": ["a", "b", None], "changed_at": changed})
            pq.write_table(table, folder / "rows" / f"{name}.parquet")
        return [str(folder / "rows")]

    people, table = texts("people", PEOPLE), f"delta:{folder}/table"
    flights = make_flights(folder / "nycflights")
    tables = {"airlines": str(flights.airlines), "planes": str(flights.planes)}
    of: Mapping[str, Callable[[], dict[str, Any]]] = {
        "hello": lambda: {"inputs": people},
        "csv_to_parquet": lambda: {"inputs": people, "params": {"schema": TYPES}},
        "csv_to_iceberg": lambda: {"inputs": people, "params": {"schema": TYPES}, "table": table},
        "csv_upsert": lambda: {"inputs": people, "params": {"schema": TYPES}, "table": table},
        "evolve_schema": lambda: {"inputs": people, "params": {"schema": "id INT, born DATE"}, "table": table},
        "slowly_changing": lambda: {
            "inputs": texts("changes", CHANGES),
            "params": {"schema": "id INT, city STRING, changed_at TIMESTAMP"},
            "table": table,
        },
        "wordcount": lambda: {"inputs": texts("words", "To be, or not to be\n", "être ou ne pas être\n")},
        "compact": lambda: {"inputs": rows()},
        "deduplicate": lambda: {
            "inputs": [str(folder / "rows")],
            "params": {"order_by": "changed_at"},
            "table": table,
        },
        "flights_daily": lambda: {"inputs": [str(flights.flights / "2013-01-01.csv")], "files": tables},
    }
    for name, options in of.items():
        yield {"script": str(SCRIPTS / f"{name}.py"), **options()}


def main() -> None:
    """Certify, print what was found, exit with 1 if it is not what is expected."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--against", default="spark-4.1", choices=("spark-4.1", "native"))
    parser.add_argument("--to", type=Path, default=Path("build/certified.json"))
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    found, wrong = [], 0
    with tempfile.TemporaryDirectory() as folder:
        requests = [each for each in samples(Path(folder)) if asked.only in each["script"]]
        for certificate in certify(requests, asked.against, Screen(as_json=True), workers=1):
            name = Path(certificate.script).stem
            verdict, wanted = certificate.verdict, EXPECTED.get(name, "equal")
            wrong += verdict != wanted
            seconds = " and ".join(f"{side['seconds']} s on {side['version']}" for side in certificate.sides)
            print(f"{name}: {verdict}; {seconds}" + ("" if verdict == wanted else f"; expected: {wanted}"), flush=True)
            for each in (*certificate.differences, *certificate.not_comparable)[:5]:
                print(f"  {each.kind} at {each.place} {each.column} {each.key}: {each.first} | {each.second}")
            found.append(certificate.document())
    asked.to.parent.mkdir(parents=True, exist_ok=True)
    asked.to.write_text(json.dumps(found, indent=1), encoding="utf-8")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
