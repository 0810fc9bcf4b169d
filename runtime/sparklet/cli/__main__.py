"""``python -m sparklet.cli``, where the console script is not on the path."""

import sys

from sparklet.cli import main

sys.exit(main())
