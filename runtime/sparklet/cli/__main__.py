"""Runs the command line by ``python -m sparklet.cli``, for systems without the console script on the path."""

import sys

from sparklet.cli import main

sys.exit(main())
