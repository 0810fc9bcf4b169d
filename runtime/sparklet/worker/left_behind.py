"""Work that a script has done for nothing, as often as there are shards, or nowhere.

Tables and folders of relative paths lie in the task's own folder, and end with it. On EMR, Glue or a laptop both would
stay, so a script that wrote there and nowhere else has lost its work. A script with addresses of its own does all of
them in each shard.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

WAREHOUSE = "spark-warehouse"
MAX_DEPTH = 4
NOTHING = (
    "nothing was written, as far as Sparklet sees, no file in S3, no table, no report and no answer: write to "
    "job.output, OUTPUT_PATH or {output}, to a table by job.append, or answer by job.answer"
)

_OF_SPARK = re.compile(r"(spark|blockmgr|artifacts)-.*|hadoop|hive.*|py-files|metastore_db|rdd-\d+|_.*|\..*")
_WRITTEN = re.compile(r"_SUCCESS|_delta_log|part-.*")
_ASKS = re.compile(
    r"(?im)[\"'](input_path|output_path|--event|SPARKLET_EVENT)|getResolvedOptions|^\s*(from|import)\s+sparklet\b"
)
_ELSEWHERE = re.compile(r"boto3|jdbc|kafka|awswrangler|psycopg|pymysql|snowflake|mongo|elasticsearch|\.foreach")
_UNSEEN = re.compile(  # other writers: the standard library, sources and catalogs of Spark, pandas where an address is
    r"(?i)\b(subprocess|socket|asyncio|ctypes|importlib|smtplib|ftplib|xmlrpc|http\.client|urllib\.request|_jvm)\b"
    r"|os\.(system|popen|exec|spawn|posix)|writeTo\(|insertInto|saveAsTable|write_dynamic_frame"
    r"|\b(insert|merge|create|delete|replace|update)\s+(or\s+replace\s+)?(into|overwrite|table|from|\S+\s+set)\b"
    r"|\.format\(\s*[\"'](?!(parquet|csv|json|orc|avro|text|delta|hudi|xml|binaryFile|console|memory|noop)[\"'])"
    r"|\b(?!(s3[an]?|file|https?):)[a-z][\w+.-]*://|(pandas|pyarrow)[\s\S]*://"
)
_KNOWN = {*sys.stdlib_module_names, "pyspark", "py4j", "sparklet", "awsglue", "numpy", "pandas", "pyarrow"}


def left_behind(folder: Path) -> list[str]:
    """The tables, as ``database.table``, and the folders that Spark wrote below a task's folder."""
    try:
        tables = [path.name for path in sorted((folder / WAREHOUSE).glob("*")) if path.suffix != ".db"]
        tables += [f"{path.parent.stem}.{path.name}" for path in sorted((folder / WAREHOUSE).glob("*.db/*"))]
        return [*tables, *(str(path.relative_to(folder)) for path in _folders(folder, MAX_DEPTH))]
    except OSError:  # the script has deleted its folder, or closed it to us
        return []


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.is_symlink() or path.name == WAREHOUSE or _OF_SPARK.fullmatch(path.name):
            continue
        if any(_WRITTEN.fullmatch(each.name) for each in path.iterdir()):
            yield path
        elif depth:
            yield from _folders(path, depth - 1)


def told(names: list[str], source: str) -> tuple[str, bool]:
    """What to say of names that were left behind, and whether the script's work is lost if it wrote nothing else.

    It is not if the script names each of them again, to read it, or writes to what Sparklet does not see.
    """
    last = {name: name.rpartition("/")[2] for name in names}  # of a path; a table's database may be named elsewhere
    places = {name: _places(source, word) or _places(source, word.rpartition(".")[2]) for name, word in last.items()}
    shown = ", ".join(f"{name}{f' (line {lines[0]})' if lines else ''}" for name, lines in places.items())
    lost = not _ELSEWHERE.search(source) and any(len(lines) < 2 for lines in places.values())
    return (
        f"the script wrote {shown} into the task's own folder, which ends with the task: write to job.output, "
        "OUTPUT_PATH or {output}, to a table by job.append, or to an address such as s3://…",
        lost,
    )


def same_in_each_shard(seen: Path, source: str) -> str:
    """Why each shard of a run repeats or undoes the work of others; "" if nothing shows that.

    ``seen``: what Spark has done. The script asks neither for its inputs nor for its output, so its addresses are the
    same in each shard.
    """
    is_done = {name: (seen / name).exists() for name in ("input", "copy", "output", "written", "deleted")}
    if _ASKS.search(source) or is_done["output"] or not is_done["written"]:
        return ""
    if is_done["input"] or is_done["copy"]:
        what = "each shard overwrites what the others have written" if is_done["deleted"] else ""
    else:
        what = "none of the shard's inputs was read, so each shard does the same"
    return what and (
        f"the script has addresses of its own, and {what}: let the run's arguments name {{input}} and {{output}}, read "
        "INPUT_PATH and write to OUTPUT_PATH, or run it once by sparklet invoke"
    )


def may_write_unseen(source: str, words: str, own_modules: Iterable[str]) -> bool:
    """Whether a script may have written to what Sparklet does not see; ``words``: its arguments and the like."""
    known = "|".join(map(re.escape, {*_KNOWN, *own_modules}))
    foreign = rf"(?m)^\s*(import\s+([\w. ]+,\s*)*|from\s+(?=[\w.]+\s+import\b))(?!({known})\b)\w"
    return any(re.search(each, f"{source}\n{words}") for each in (foreign, _ELSEWHERE, _UNSEEN))


def _places(source: str, name: str) -> list[int]:
    """The lines of a script's texts with this name in them."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return []
    word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    found = [
        node.lineno
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and word.search(node.value)
    ]
    return sorted(found)
