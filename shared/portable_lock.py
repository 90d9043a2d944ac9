"""Strip download addresses from uv.lock: the git clean filter behind `.gitattributes`.

A lock file names the index it was made with, which works for nobody behind another mirror. The
committed one keeps versions, markers and dependencies only; `uv` takes the versions as preferences
and fills in addresses from the reader's own index.

    git config filter.portable-lock.clean "python shared/portable_lock.py"   # `study setup-git`

Standard library only: git runs it with whatever Python it finds.
"""

import re
import sys

DROPPED_TABLES = ("[package.metadata]", "[package.metadata.requires-dev]")
DROPPED_KEYS = ("sdist", "wheels")


def portable(lock: str) -> str:
    """The lock file `lock` without addresses; applied twice, it changes nothing more."""
    kept, skipping_table, depth = [], False, 0
    for line in lock.splitlines():
        if depth:  # inside a dropped multi-line array
            depth += line.count("[") - line.count("]")
            continue
        if line.startswith("["):
            skipping_table = line in DROPPED_TABLES
        if skipping_table:
            continue
        key = line.split(" = ")[0]
        if key in DROPPED_KEYS:
            depth = line.count("[") - line.count("]")
            continue
        kept.append(re.sub(r'registry = "[^"]*"', 'registry = "."', line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8")
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    sys.stdout.write(portable(sys.stdin.read()))
