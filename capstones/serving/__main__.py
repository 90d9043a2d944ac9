"""`python -m serving`, as the command `serve`."""

import sys

from serving.cli import main

sys.exit(main())
