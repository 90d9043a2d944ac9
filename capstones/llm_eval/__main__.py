"""`python -m llm_eval`, as the command `llm-eval`."""

import sys

from llm_eval.cli import main

sys.exit(main())
