"""Runs scripts one after the other in one application, each with arguments of its own.

The list is a file of JSON: ``[[script, [argument, …]], …]``.
"""

import json
import runpy
import sys
from pathlib import Path

for script, arguments in json.loads(Path(sys.argv[1]).read_text()):
    sys.argv = [script, *arguments]
    print(f"== {Path(script).name}", flush=True)
    runpy.run_path(script, run_name="__main__")
