"""What a run leaves behind: one JSON record per script, read by the log, the tests and `study`."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import io
import json
import math
import platform
import re
import subprocess
import sys
import tokenize
from pathlib import Path

from shared.artifacts import write_atomic
from shared.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "transformers", "tokenizers", "xgboost")
REQUIRED = [
    "script",
    "command",
    "mode",
    "options",
    "seed",
    "threads",
    "device",
    "data",
    "seconds",
    "date",
    "commit",
    "code",
    "versions",
    "checks",
    "claims",
    "falsifiers",
    "metrics",
    "figures",
]
ROWS = {
    "checks": {"name", "against", "kind", "error", "passed"},
    "claims": {"name", "at_least", "at_most", "mean", "low", "high", "n", "verdict", "paper"},
    "falsifiers": {"name", "breaks", "mean", "broken"},
    "metrics": {"name", "value", "unit", "rtol"},
    "figures": {"file", "title"},
}


def script_of_main(source: Path) -> Path:
    """The script whose `main` stands in `source`: the idea, if that is its evidence."""
    return source.parent.parent / source.name if source.parent.name == "evidence" else source


def key_of(script: Path) -> str:
    """`weeks/14/minimal_gpt` for the file of that name; the stem for a file outside the project."""
    script = script.resolve()
    if script.is_relative_to(ROOT):
        return script.relative_to(ROOT).with_suffix("").as_posix()
    return script.stem


def script_of(key: str) -> Path:
    """The script that `key` names."""
    return ROOT / f"{key}.py"


def results_of(script: Path) -> Path:
    """Where the committed record and figures of `script` live."""
    return script.resolve().parent / "results"


def record_of(script: Path) -> Path:
    """The committed record of `script`."""
    return results_of(script) / f"{script.stem}.json"


def figures_of(script: Path) -> set[str]:
    """Names of the committed figures of `script`, less those of a script whose name begins so."""
    longer = tuple(f"{other.stem}_" for other in script.parent.glob(f"{script.stem}_*.py"))
    files = results_of(script).glob(f"{script.stem}_*")
    found = {path.name for path in files if path.suffix in (".png", ".gif")}
    return {name for name in found if not name.startswith(longer)}


def load(path: Path) -> dict:
    """Read a record.

    Raises
    ------
    UserError
        If there is none, or it is not a record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no record {readable(path)}; run the script with --record") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"record {readable(path)} is not valid JSON: {error}") from None
    if not isinstance(record, dict):
        raise UserError(f"record {readable(path)} is not a JSON object")
    missing = [field for field in REQUIRED if field not in record]
    if missing:
        raise UserError(f"record {readable(path)} lacks {', '.join(missing)}")
    for kind, fields in ROWS.items():
        rows = record[kind] if isinstance(record[kind], list) else [None]
        if not all(isinstance(row, dict) and fields <= row.keys() for row in rows):
            raise UserError(
                f"record {readable(path)}: each of its {kind} needs {', '.join(sorted(fields))}"
            )
    return record


def save(record: dict, path: Path) -> None:
    """Write a record as diff-friendly JSON, atomically."""
    text = json.dumps(record, indent=1, ensure_ascii=False, default=_plain, allow_nan=False)
    write_atomic(path, text + "\n")


def problems(record: dict) -> list[str]:
    """What keeps a record from being evidence: a failed check, or none against a reference."""
    found = [f"check failed: {c['name']}" for c in record["checks"] if not c["passed"]]
    if not any(c["kind"] != "consistency" for c in record["checks"]):
        found.append("no check against a library or a theorem")
    return found


def differences(fresh: dict, recorded: dict) -> list[str]:
    """How a fresh run departs from the record, one line each.

    Checks, claims and falsifiers must be the same ones with the same outcome; a metric must lie
    within the relative tolerance that the record gives it (None: never compared).
    """
    found = problems(fresh)
    outcome = {"checks": "passed", "claims": "verdict", "falsifiers": "broken", "metrics": "value"}
    for kind, field in outcome.items():
        new, old = ({row["name"]: row for row in r[kind]} for r in (fresh, recorded))
        found += [f"{kind}: {name!r} is new" for name in new if name not in old]
        found += [f"{kind}: {name!r} is gone" for name in old if name not in new]
        for name in (name for name in new if name in old):
            value, expected = new[name][field], old[name][field]
            if kind != "metrics":
                if value != expected:
                    found.append(f"{kind}: {name!r}: {value}, recorded {expected}")
            elif old[name]["rtol"] is not None and not math.isclose(
                value, expected, rel_tol=old[name]["rtol"]
            ):
                percent = f"tolerance {100 * old[name]['rtol']:.3g} %"
                found.append(f"metric {name!r}: {value:.6g}, recorded {expected:.6g} ({percent})")
    return found


def sources_of(script: Path) -> list[Path]:
    """The idea, its evidence, and further evidence modules that this one imports."""
    evidence = script.parent / "evidence" / script.name
    if not evidence.exists():
        return [script]
    found = [script, evidence]
    for path in found[1:]:
        for name in re.findall(
            r"^from week\d\d\.evidence(?:\.(\w+))? import (.+)$",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        ):
            for stem in [name[0]] if name[0] else re.findall(r"\w+", name[1]):
                other = evidence.with_name(f"{stem}.py")
                if other.exists() and other not in found:
                    found.append(other)
    return found


def digest_of(script: Path) -> str:
    """SHA-256 of the code of `sources_of(script)`, see `code_digest`."""
    joined = "".join(code_digest(path) for path in sources_of(script))
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


def code_digest(script: Path) -> str:
    """SHA-256 of a file's code, blind to comments, docstrings and blank lines."""
    return source_digest(script.read_text(encoding="utf-8"))


def source_digest(source: str) -> str:
    """The same of a text."""
    lines = source.split("\n")
    strings, comments = [], []
    inside = set()  # lines that end within a string, where blanks count
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, row = tokenize.tok_name[token.type], token.start[0]
        if kind == "COMMENT":
            comments.append(token.start)
        elif kind in ("FSTRING_START", "TSTRING_START"):
            strings.append(row)
        elif kind in ("FSTRING_END", "TSTRING_END"):
            inside |= set(range(strings.pop() - 1, token.end[0] - 1))
        elif kind == "STRING":
            inside |= set(range(row - 1, token.end[0] - 1))
    for row, column in comments:
        lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
            top, bottom = first.lineno - 1, first.end_lineno - 1
            before = lines[top].encode()[: first.col_offset].decode()
            after = lines[bottom].encode()[first.end_col_offset :].decode()
            lines[top : bottom + 1] = [before + after] + [""] * (bottom - top)
            inside -= set(range(top, bottom + 1))
    code = "\n".join(
        line if i in inside else line.rstrip()
        for i, line in enumerate(lines)
        if i in inside or line.strip()
    )
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that this process has loaded."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        if name.replace("scikit-learn", "sklearn").replace("-", "_") in sys.modules:
            found[name] = importlib.metadata.version(name)
    return found


def git_files(*patterns: str) -> list[str]:
    """Names of the files that git tracks or would track, none outside git."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard", *patterns]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:  # no git here
        return []
    return [name for name in done.stdout.decode().split("\0") if name]


def commit() -> str:
    """Short hash of HEAD, with a `+` when tracked files differ from it; "" outside git."""

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
            )
        except OSError:  # no git here
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=10", "HEAD")
    return head + "+" if head and git("status", "--porcelain", "-uno") else head


def readable(path: Path) -> str:
    """The path from the project's root; the name of a file outside it."""
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _plain(value):
    if hasattr(value, "tolist"):  # NumPy and torch scalars and arrays
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"cannot record a {type(value).__name__}")
