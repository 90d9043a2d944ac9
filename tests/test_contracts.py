"""What holds everywhere: dependencies, docstrings, shapes, links, and what must not be there."""

import ast
import contextlib
import doctest
import graphlib
import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from enforce import CAPSTONES, PACKAGES, ROOT
from pytest_examples import find_examples

from shared import log, records, tables

SCRIPTS = log.all_scripts()
MARKDOWN = log.markdown_files()
PYTHON = sorted(
    path
    for folder in ("shared", "weeks", "papers", "capstones", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
WEEK_MODULES = [p for p in PYTHON if p.is_relative_to(ROOT / "weeks") and p.stem != "__init__"]
MODULES = WEEK_MODULES + [
    p for p in PYTHON if p.is_relative_to(ROOT / "capstones") and not p.stem.startswith("__")
]


def key(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=key)


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


# ---- dependencies


@each([p for p in PYTHON if p.is_relative_to(ROOT / "shared")])
def test_shared_knows_no_week(path):
    found = [name for name in imports(path) if re.match(r"week\d\d$|capstones|papers", name)]
    assert not found
    assert not imports(path) & set(CAPSTONES)


@each(WEEK_MODULES)
def test_week_imports_no_later_week(path):
    own = path.relative_to(ROOT / "weeks").parts[0]
    weeks = {name[4:] for name in imports(path) if re.match(r"week\d\d$", name)}
    assert all(week <= own for week in weeks)
    assert not imports(path) & {"capstones", "papers", *CAPSTONES}


def modules_of(path: Path, *, typing: bool = True) -> set[str]:
    """Dotted names that a file imports, of submodules too; without `typing`, as it runs."""
    found = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path: Path) -> str:
    """The dotted name of a module of `shared`, a week or a capstone."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "shared":
        parts = (f"week{parts[1]}" if parts[0] == "weeks" else parts[1], *parts[2:])
    return ".".join(parts).removesuffix(".__init__")


PLACED = [p for p in PYTHON if p.relative_to(ROOT).parts[0] in ("shared", "weeks", "capstones")]
IMPORTABLE = {name_of(path): path for path in PLACED}


@each([p for p in PYTHON if not p.is_relative_to(ROOT / "tests")])
def test_nothing_imports_evidence(path):
    """But evidence of the same week."""
    found = {name for name in modules_of(path) if re.match(r"week\d\d\.evidence", name)}
    own = f"week{path.parents[1].name}." if path.parent.name == "evidence" else "-"
    assert all(name.startswith(own) for name in found)


def test_there_is_no_import_cycle():
    graph = {
        name: {m for m in modules_of(path, typing=False) if m in IMPORTABLE and m != name}
        for name, path in IMPORTABLE.items()
        if path.name != "__init__.py"
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_every_folder_is_installed():
    for name in ["shared", *PACKAGES]:
        assert importlib.util.find_spec(name), f"{name} cannot be imported"


REFERENCES = {
    "transformers",
    "tokenizers",
    "tiktoken",
    "sentencepiece",
    "datasketch",
    "xgboost",
    "sklearn",
}


@each(SCRIPTS)
def test_implementation_does_not_import_its_reference(path):
    top = ast.parse(path.read_text(encoding="utf-8")).body
    names = {
        name
        for node in top
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert not {name.split(".")[0] for name in names} & REFERENCES


# ---- scripts


@each(SCRIPTS)
def test_docstring_has_title_command_and_source(path):
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert f"uv run {key(path)}" in doc
    assert re.search(r"\b(1[6-9]|20)\d\d\b", doc), "no source with its year"
    assert len(log.title_of(path)) > 15


@each(sorted({script.parent for script in SCRIPTS}))
def test_week_has_readme_and_notes(path):
    readme = (path / "README.md").read_text(encoding="utf-8")
    assert "results/" in readme, "no figure shown"
    for note in path.glob("*.md"):
        assert note.name == "README.md" or f"]({note.name})" in readme, f"{note.name} not linked"
    if path.parent.name == "weeks":
        week = next(w for w in log.curriculum()["week"] if w["number"] == path.name)
        assert readme.startswith(f"# Week {path.name} · {week['title']}\n")
        assert str(week["date"]) in readme
        assert list(path.glob("[a-z]*.md")), "no note"


@each([p for p in MARKDOWN if p.parent.parent.name == "weeks" and p.name != "README.md"])
def test_note_has_its_parts(path):
    text = path.read_text(encoding="utf-8")
    assert "```python" in text, "no code that shows it"
    assert text.count("<details>") >= 3, "three questions with folded answers"
    assert text.count("<details>") == text.count("</details>")
    assert text.count("<!-- study:nav -->") == 1, "no way on"
    assert "$$" in text
    assert "\n## Sources\n" in text
    assert 60 <= len(text.splitlines()) <= 220


def sources(path: Path) -> list[str]:
    """The bullets of a file's list of sources."""
    text = path.read_text(encoding="utf-8").partition("\n## Sources\n")[2]
    return re.findall(r"^- .*(?:\n  .*)*", text, flags=re.MULTILINE)


@each([p for p in MARKDOWN if "\n## Sources\n" in p.read_text(encoding="utf-8")])
def test_sources_say_whether_they_were_read(path):
    """What is only remembered is marked so; `pytest -k from_memory -rP` lists it."""
    untagged = [s for s in sources(path) if not re.search(r"\[(?:read|from memory)\]", s)]
    assert sources(path)
    assert not untagged


def test_from_memory_is_listed():
    remembered = [(key(p), s) for p in MARKDOWN for s in sources(p) if "[from memory]" in s]
    for name, source in remembered:
        sys.stdout.write(f"{name}: {' '.join(source.split())}\n")
    assert remembered, "no source is from memory any more: this test has done its work"


def test_dates_and_folders_agree():
    for week in log.curriculum()["week"]:
        there = bool(log.scripts_in(ROOT / "weeks" / week["number"]))
        assert there == ("date" in week), f"week {week['number']}"
    known = {paper["folder"] for paper in log.curriculum()["paper"]}
    found = {p.name for p in (ROOT / "papers").iterdir() if p.is_dir()}
    assert found <= known


@each(sorted(ROOT.glob("papers/*/README.md")))
def test_paper_front_matter_is_complete(path):
    matter = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])
    assert {"title", "authors", "year", "venue", "arxiv", "claim", "where", "rules"} <= set(matter)


# ---- ideas

IDEAS = [p for p in WEEK_MODULES if p.parent.name != "evidence" and not p.stem.startswith("bench_")]
LONGEST = 300


@each([p for p in WEEK_MODULES if p.parent.name != "evidence"])
def test_an_idea_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@each([p for p in IDEAS if p.name != "__init__.py"])
def test_an_idea_shows_a_call_and_its_result(path):
    module = importlib.import_module(name_of(path))
    examples = doctest.DocTestFinder(recurse=False).find(module, name_of(path))
    assert examples[0].examples, "no >>> in the module's docstring"
    with contextlib.redirect_stdout(io.StringIO()) as output:
        failed = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(examples[0])
    assert failed.failed == 0, output.getvalue()


@each(IDEAS)
def test_an_idea_does_not_know_its_proof(path):
    assert not modules_of(path) & {"shared.run", "shared.plots", "shared.evidence", "matplotlib"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert "Run" not in [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]


# ---- functions


def public_functions(path: Path):
    """Public functions and methods at module level or in public classes, with their class."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, None
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node, None
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield inner, node


@each(MODULES)
def test_public_names_have_docstrings(path):
    missing = [node.name for node, _ in public_functions(path) if not ast.get_docstring(node)]
    assert not missing


BARE = {"ndarray", "Tensor", "np.ndarray", "torch.Tensor"}
MINIGRAD = ROOT / "weeks" / "08" / "minigrad"  # its Tensor is its own class: shapes are run-time


# Of a capstone, what computes; its other modules pass arrays on.
COMPUTING = [
    path
    for folder in ("data", "model", "training", "generation", "export")
    for path in (ROOT / "capstones" / "tiny_gpt" / folder).glob("*.py")
    if path.stem in ("gpt", "batches", "evaluate", "generate", "decoder", "shards", "folder")
]


@each([p for p in WEEK_MODULES if p.parent.name != "evidence" and p.parent != MINIGRAD] + COMPUTING)
def test_arrays_carry_their_shapes(path):
    """Every public function with arrays says their shapes, so that tests can enforce them."""
    shapeless = []
    for node, _ in public_functions(path):
        if not isinstance(node, ast.FunctionDef) or node.name == "main":
            continue
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        for argument in arguments:
            if argument.arg in ("self", "cls"):
                continue
            annotation = ast.unparse(argument.annotation) if argument.annotation else None
            if annotation is None or annotation in BARE:
                shapeless.append(f"{node.name}({argument.arg}: {annotation})")
        if node.returns is not None and ast.unparse(node.returns) in BARE:
            shapeless.append(f"{node.name} -> {ast.unparse(node.returns)}")
    assert not shapeless


# ---- Markdown


LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)(?: \"[^\"]*\")?\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """GitHub's anchors of a Markdown file's headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE):
        plain = re.sub(r"[`*$]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


@each(MARKDOWN)
def test_links_resolve(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    dead = []
    for match in LINK.finditer(text):
        target = match[1] or match[2]
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / unquote(name)) if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert not dead


@each(MARKDOWN)
def test_figures_have_alternative_text(path):
    assert not re.findall(r"!\[\s*\]\(", path.read_text(encoding="utf-8"))


@each(MARKDOWN)
def test_code_blocks_run(path, monkeypatch):
    """Every ```python block of a file, in order, sharing what the earlier ones defined."""
    monkeypatch.chdir(ROOT)
    namespace = {"__name__": "note"}
    for example in find_examples(path):
        if example.prefix == "python":
            lines_before = "\n" * example.start_line  # so that a traceback names the note's line
            exec(compile(lines_before + example.source, path, "exec"), namespace)


@each(MARKDOWN)
def test_no_paragraph_breaks_at_a_value(path):
    """A line that begins with a comment begins a block of HTML: what follows stays raw."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert not re.findall(r"^\s*(?:[-*] |\d+\. )?<!--[=@].*", text, re.M)


def test_generated_tables_and_values_are_fresh():
    assert tables.update(check=True) == []


# ---- what must not be there


def tracked() -> list[Path]:
    git = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def texts():
    for path in tracked():
        if path.suffix not in (".png", ".gif") and path.name != "uv.lock":
            yield path, path.read_text(encoding="utf-8")


def found(pattern: str) -> list[str]:
    return [
        f"{key(path)}: {match[0]}"
        for path, text in texts()
        if path.name != Path(__file__).name
        for match in re.finditer(pattern, text)
    ]


def test_no_absolute_path_of_a_machine():
    assert not found(r"(?<![\w.~-])/(?:home|root|work|Users|opt/[a-z]+)/\w")


def test_no_registry_host():
    assert not found(r"py[p]i\.org|python[h]osted\.org|np[m]js\.(?:org|com)|deb[i]an\.org")


def test_nothing_is_unpickled():
    pattern = r"pickle\.loads?\(|torch\.load\(|joblib\.load|allow_pickle\s*=\s*True|np\.load\("
    assert not found(pattern)


def test_no_call_is_kept_from_the_formatter():
    assert not found(r"# fmt: (?:skip|off)")


STEMS = ["colour", "behaviour", "neighbour", "favour", "normalis", "regularis", "tokenis"]
STEMS += ["initialis", "generalis"]
BRITISH = rf"(?i)\b\w*(?:{'|'.join(STEMS)}|optimis(?!m|tic))\w*"


def test_spelling_is_american():
    assert not found(BRITISH)


def test_no_large_file():
    # uv fills addresses into its lock, which are not committed.
    large = [p for p in tracked() if p.stat().st_size > 1_000_000 and p.name != "uv.lock"]
    assert not [key(p) for p in large]


def test_no_skipped_test_without_a_reason():
    pattern = r"@pytest\.mark\.(?:skip|xfail)(?!if)(?:\(\))?\s*\n|pytest\.skip\(\)"
    assert not found(pattern)


# ---- imports stay light


@pytest.mark.parametrize("module", ["shared.study", "shared.log", "shared.datasets"])
def test_importing_shared_loads_no_heavy_library(module):
    heavy = "{'torch', 'sklearn', 'pandas', 'transformers', 'scipy'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_code_digests_are_recorded_for_every_script():
    for script in SCRIPTS:
        assert len(records.load(records.record_of(script))["code"]) == 16
