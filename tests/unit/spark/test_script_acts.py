"""Acts that a script's process records by an audit hook; each case is a process, since the hook cannot be removed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from sparklet.spark import script_acts
script_acts.watch("job.py", ["--day", "1"])
exec(sys.argv.pop())
script_acts.end()
"""
CONNECTS = "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 1))\nexcept OSError:\n    pass\n"


@pytest.mark.parametrize(
    ("script", "marks"),
    [
        ("print(sys.argv[0], len(sys.argv))", ""),
        ("sys.argv[1:]", "arguments"),
        ("list(sys.argv)", "arguments"),
        ("import argparse\nargparse.ArgumentParser().parse_known_args()", "arguments"),
        ("import os\nos.environ.get('HOME')", ""),
        ("import os\nos.environ.get('INPUT_PATH')", "asked"),
        ("import os\nos.getenv('SPARKLET_EVENT')", "asked"),
        ("import os\ndict(os.environ)", "asked"),
        ("import os\nopen(os.path.join('..', 'event.json')).read() if 0 else None", ""),
        ("open(EVENT_FILE)", "asked"),
        (CONNECTS, "elsewhere"),
        ("import subprocess\nsubprocess.run(['true'])", "elsewhere"),
        ("import os\nos.system('true')", "elsewhere"),
        ("import platform\nplatform.processor()", ""),
        ("import json, sqlite3, decimal", ""),  # compiled modules of Python
        ("import pandas\npandas.DataFrame().to_csv('x.csv')", ""),  # pandas looks for compressors
        ("import scipy.sparse", ""),  # some compiled modules of scipy have names without a package
        ("open('x.csv', 'w').write('1')", ""),
        ("open('x.csv', 'w').write('1')\nopen('x.csv').read()", "read"),
        ("import os, shutil\nshutil.rmtree(os.getcwd())\ntry:\n    open('x')\nexcept OSError:\n    pass\n", ""),
        ("import pickle\nassert type(pickle.loads(pickle.dumps(sys.argv))) is list", "arguments"),
    ],
)
def test_each_act_of_a_script_is_recorded(tmp_path: Path, script: str, marks: str) -> None:
    (tmp_path / "work").mkdir()
    (seen := tmp_path / "seen").touch()
    (event := tmp_path / "event.json").write_text("{}")
    own = {"SPARKLET_OUTCOME_FILE": str(tmp_path / "work" / "outcome.json"), "SPARKLET_EVENT_FILE": str(event)}
    code = RUN.replace("sys.argv.pop()", repr(script.replace("EVENT_FILE", repr(str(event)))))

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "work",
        env={**os.environ, **own, "INPUT_PATH": "s3://in/"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert " ".join(sorted({json.loads(line)["seen"] for line in seen.read_text().splitlines()})) == marks
