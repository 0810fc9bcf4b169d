"""Makes figures of raw results: verdicts, the smallest example of each, and what a gate would let through.

python -m benchmarks.native.judge --generated build/native-generated.json --scripts build/native-scripts.json \
        --plain build/native-plain.json --plans build/native-plans.json --to benchmarks/results/native/pysail-0.7.2.json
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.native.constructs import AT_ONCE, columns, frames, writers
from benchmarks.native.gate import learn, normal, of_sql
from benchmarks.native.inputs import ROWS

SILENT = ("type", "columns", "row", "value")
Found = Mapping[str, Any]


def tried() -> dict[str, tuple[str, str, set[str]]]:
    """Each construct's folder, description, and names for the gate."""
    found: dict[str, tuple[str, str, set[str]]] = {}
    for number, named in enumerate(columns().values()):
        for n, (name, text) in enumerate(named):
            found[name] = (f"columns_{number}_{n // AT_ONCE * AT_ONCE}", text, normal(of_sql(text)))
    for name, told, _ in frames():
        form, *words = told.split(" ", 1)
        kind = name.split("_")[1]
        names = of_sql(told)
        if name.startswith(("csv_", "json_")):
            options = {
                part.split("'")[1].lower() for part in words[0].split(",") if part.count("'") >= 2 and ":" in part
            }
            names = {f"read:{form}", f"schema:{form}.{'guessed' if kind == 'guessed' else 'given'}"}
            names |= {f"option:{form}.{each}" for each in options}
            names |= {"option:csv.header"} if form == "csv" else set()
            names |= {"option:csv.inferschema"} if (form, kind) == ("csv", "guessed") else set()
        elif name.startswith("text_"):
            names = {"read:text"} | ({"option:text.wholetext"} if "whole" in name else set())
        found[name] = (name, told, normal(names))
    for name, form, given in writers():
        names = {f"write:{form}", *(f"written:{form}.{each.lower()}" for each in given if each != "partitionBy")}
        names |= {"write:partitioned"} if "partitionBy" in given else set()
        found[name] = (name, f"{form} {dict(given)}", normal(names))
    return found


def errors(certificate: Found, shard: int) -> tuple[dict[str, str], dict[str, str]]:
    """What has failed on each side, by construct."""
    for each in certificate["differences"]:
        if (each["kind"], each["place"]) == ("answer", f"shard {shard}"):
            return json.loads(each["first"]), json.loads(each["second"])
    return {}, {}


def verdicts(certificate: Found, shard: int) -> tuple[dict[str, str], dict[str, Found]]:
    """Each construct's verdict in one half, and the smallest difference of each."""
    spark, sail = errors(certificate, shard)
    in_place: dict[str, list[Found]] = {}
    noisy = set()
    for each in (*certificate["differences"], *certificate["not_comparable"]):
        where, _, folder = each["place"].partition(", output/")
        if where == f"shard {shard}" and folder:
            in_place.setdefault(folder.split("/")[0], []).append(each)
    for each in certificate["not_comparable"]:
        folder = each["place"].partition(", output/")[2].split("/")[0]
        noisy.add(each["column"].split(".")[0] if folder.startswith("columns_") else folder)
    told: dict[str, str] = {}
    examples: dict[str, Found] = {}
    for name, (folder, _, _) in tried().items():
        own = [each for each in in_place.get(folder, []) if folder == name or each["column"].split(".")[0] == name]
        silent = [each for each in own if each["kind"] in SILENT]
        whole = folder != name and any(each["kind"] == "row" for each in in_place.get(folder, []))
        missing = {side for each in silent for side in ("first", "second") if each[side] == "(none)"}
        if name in spark or (folder in spark and folder != name):
            told[name] = (
                "neither" if name in sail or folder in sail else "lenient" if name in spark else "not comparable"
            )
        elif name in sail or folder in sail:
            told[name], examples[name] = "refused", {"error": sail.get(name) or sail[folder]}
        elif whole or name in noisy or folder in noisy:
            told[name] = "not comparable"
        elif silent and not (folder != name and missing):
            told[name] = "different"
            examples[name] = min(silent, key=lambda each: len(each["first"]) + len(each["second"]))
        elif silent:
            raise ValueError(f"{name} has no column on one side, and no error: {silent[0]}")
        else:
            told[name] = "nullability" if own else "equal"
    return told, examples


def bound(wrong: int, of: int) -> float | None:
    """With no error in ``of`` independent trials: the rate below which it lies with 95 % confidence."""
    return None if wrong or not of else round(1 - 0.05 ** (1 / of), 6)


def judged(names: Mapping[str, set[str]], learnt: Mapping[str, str], held: Mapping[str, str]) -> dict[str, Any]:
    """What a gate, learnt from some verdicts, lets through of others, and what of it differs in silence."""
    allowed = learn(names, learnt)
    through = [name for name, each in held.items() if names[name] and names[name] <= allowed and each != "neither"]
    wrong = [name for name in through if held[name] in ("different", "lenient")]
    inputs = ROWS * len(through)
    return {
        "constructs": len(allowed),
        "cases": len(held),
        "through": len(through),
        "inputs_through": inputs,
        "different_in_silence": wrong,
        "bound_95_of_cases": bound(len(wrong), len(through)),
        "bound_95_of_inputs": bound(len(wrong), inputs),
    }


def of_scripts(certificates: Iterable[Found]) -> dict[str, dict[str, Any]]:
    """Each script's verdict, with its smallest difference."""
    found = {}
    for each in certificates:
        kinds = {one["kind"] for one in each["differences"]}
        verdict = each["verdict"]
        if verdict == "different":
            verdict = "refused" if "failure" in kinds else "different" if kinds - {"nullability"} else "nullability"
        shown = [one for one in each["differences"] if verdict == "nullability" or one["kind"] != "nullability"]
        least = min(shown, key=lambda one: len(one["first"]) + len(one["second"]), default=None)
        found[Path(each["script"]).stem] = {"verdict": verdict, "example": least, "sides": each["sides"]}
    return found


def main() -> None:
    """Judge."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("generated", "scripts", "plain", "plans", "to"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    asked = parser.parse_args()
    [certificate] = json.loads(asked.generated.read_text())
    scripts, plain = (of_scripts(json.loads(path.read_text())) for path in (asked.scripts, asked.plain))
    plans = {name: set(each) for name, each in json.loads(asked.plans.read_text()).items()}
    cases = tried()
    names = {name: each for name, (_, _, each) in cases.items()}
    (one, examples), (other, more) = (verdicts(certificate, shard) for shard in (0, 1))
    both = {name: max(one[name], other[name], key=ORDER.index) for name in one}
    even = {name: each for n, (name, each) in enumerate(sorted(both.items())) if n % 2 == 0}
    odd = {name: each for name, each in both.items() if name not in even}
    allowed = learn(names, both)
    passing = sorted(name for name, each in plans.items() if each <= allowed)
    document = {
        "pysail": certificate["sides"][1]["version"],
        "spark": certificate["sides"][0]["version"],
        "sides": certificate["sides"],
        "rows_of_each_half": ROWS,
        "generated": {"constructs": len(both), **Counter(both.values())},
        "scripts": Counter(each["verdict"] for name, each in scripts.items() if name in plans),
        "scripts_on_plain_files": Counter(each["verdict"] for each in plain.values()),
        "examples": Counter(each["verdict"] for name, each in scripts.items() if name not in plans),
        "gate_on_unseen_values": judged(names, one, other),
        "gate_on_unseen_constructs": judged(names, even, odd),
        "gate_on_scripts": {
            "scripts": len(plans),
            "through": passing,
            "different_in_silence": [
                name for name in passing if "different" in (scripts[name]["verdict"], plain[name]["verdict"])
            ],
        },
        "by_script": scripts,
        "by_script_on_plain_files": plain,
        "by_construct": {
            name: {"sql": cases[name][1], "verdict": both[name], "example": examples.get(name) or more.get(name)}
            for name in both
        },
    }
    asked.to.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for key in (
        "generated",
        "scripts",
        "scripts_on_plain_files",
        "examples",
        "gate_on_unseen_values",
        "gate_on_unseen_constructs",
        "gate_on_scripts",
    ):
        print(key, json.dumps(document[key]))


ORDER = ("equal", "nullability", "not comparable", "neither", "refused", "lenient", "different")

if __name__ == "__main__":
    main()
