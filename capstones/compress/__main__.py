"""`python -m compress`, as the command `compress`."""

import sys

from compress.cli import main

sys.exit(main())
