"""`modeling_tiny_gpt.py` as a file that stands alone: every definition it uses, from its source.

Definitions are taken as they are written, each after those it names, from the modules of this
repository that they are imported from; imports of other libraries are kept. So the code that is
exported is the code that trained, and there is no second copy to keep in step. Shapes in
annotations stay for the reader, without the library that checks them.
"""

import ast
import importlib.util
from pathlib import Path

OURS = ("tiny_gpt", "shared", "week")

SHAPES = '''
class {first}:
    """Shapes in annotations tell the reader; nothing checks them here."""

    def __class_getitem__(cls, item):
        return Tensor
'''


def custom_code() -> str:
    """The self-contained source."""
    path = Path(__file__).with_name("modeling_tiny_gpt.py")
    module = _Module(path)
    linked = _Linked()
    linked.take(module, set(module.definitions))
    shapes = sorted(linked.shapes)
    blocks = ["\n".join(sorted(linked.imports))]
    if shapes:
        stub = SHAPES.strip().format(first=shapes[0])
        blocks.append(stub + "".join(f"\n\n\n{name} = {shapes[0]}" for name in shapes[1:]))
    title = ast.get_docstring(module.tree, clean=False)
    return f'"""{title}"""\n\n' + "\n\n\n".join([*blocks, *linked.definitions.values()]) + "\n"


class _Module:
    """A file's definitions by name, and where its other names come from."""

    def __init__(self, path: Path):
        text = path.read_text(encoding="utf-8")
        self.tree, lines = ast.parse(text), text.splitlines()
        self.definitions: dict[str, tuple[ast.stmt, str]] = {}
        self.imported: dict[str, tuple[str, str]] = {}  # name: module and statement
        for node in self.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._add_imports(node)
                continue
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            names = [t.id for t in targets if isinstance(t, ast.Name)]
            names += [node.name] if hasattr(node, "name") else []
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            source = "\n".join(lines[first - 1 : node.end_lineno])
            self.definitions |= {name: (node, source) for name in names if name != "__all__"}

    def _add_imports(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            spelled = alias.name + (f" as {alias.asname}" if alias.asname else "")
            module = node.module if isinstance(node, ast.ImportFrom) else alias.name
            start = f"from {module} " if isinstance(node, ast.ImportFrom) else ""
            bound = alias.asname or alias.name.split(".")[0]
            self.imported[bound] = (module, f"{start}import {spelled}")


class _Linked:
    """What has been taken so far, in an order in which it can be executed."""

    def __init__(self):
        self.imports: set[str] = {"from torch import Tensor"}
        self.shapes: set[str] = set()
        self.definitions: dict[str, str] = {}

    def take(self, module: _Module, names: set[str]) -> None:
        """Add definitions of a module, what they use of it, and what they import."""
        wanted, todo, used = set(), sorted(names), set()
        while todo:
            name = todo.pop()
            if name not in wanted:
                wanted.add(name)
                nodes = ast.walk(module.definitions[name][0])
                words = {node.id for node in nodes if isinstance(node, ast.Name)}
                used |= words & module.imported.keys()
                todo += sorted(words & module.definitions.keys())
        others: dict[str, set[str]] = {}
        for name in used:
            source, statement = module.imported[name]
            if source == "jaxtyping":
                self.shapes.add(name)
            elif source.startswith(OURS):
                others.setdefault(source, set()).add(name)
            else:
                self.imports.add(statement)
        for source, theirs in sorted(others.items()):
            self.take(_Module(Path(importlib.util.find_spec(source).origin)), theirs)
        for name, (_, text) in module.definitions.items():
            if name in wanted:
                if self.definitions.get(name, text) != text:
                    raise ValueError(f"two definitions of {name} cannot stand in one file")
                self.definitions[name] = text
