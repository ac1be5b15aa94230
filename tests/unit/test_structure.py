"""The package's own shape: sizes of files and functions, circles, dead code, folders."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "vestige"
LINES_A_FILE, LINES_A_FUNCTION = 400, 50

FILES = sorted(PACKAGE.rglob("*.py"))
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def module_name(path: Path) -> str:
    """``vestige.core.types`` for its file; a package for its ``__init__``."""
    parts = ("vestige", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in FILES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """The modules of the package that are imported when a module is (not inside functions)."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name for name in inner if name in MODULES} or {node.module}
            if any(name not in MODULES for name in inner):
                names.add(node.module)
    return names & MODULES.keys()


def test_no_file_is_longer_than_400_lines():
    others = [
        path for name in ("tests", "benchmarks", "recipes") for path in (ROOT / name).rglob("*.py")
    ]
    long = {
        str(path.relative_to(ROOT))
        for path in [*FILES, *others]
        if len(path.read_text(encoding="utf-8").splitlines()) > LINES_A_FILE
    }
    assert long == set()


def test_no_function_is_longer_than_50_lines():
    long = {
        f"{name}.{node.name}"
        for name, path in MODULES.items()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LINES_A_FUNCTION
    }
    assert long == set()


def test_no_two_files_import_each_other():
    """Nor do three or more in a round: every module can be put behind all that it imports."""
    needs = {name: imported(tree_of(path)) - {name} for name, path in MODULES.items()}
    pairs = {(a, b) for a in needs for b in needs[a] if a < b and a in needs[b]}
    assert pairs == set()
    placed: set[str] = set()
    while ready := {name for name in needs if name not in placed and needs[name] <= placed}:
        placed |= ready
    assert sorted(needs.keys() - placed) == []


def words_of(path: Path) -> Counter[str]:
    return Counter(re.findall(r"\w+", path.read_text(encoding="utf-8")))


def names_of(tree: ast.Module) -> Counter[str]:
    """How often names are read, imported or spelt in a module, its re-exports left out."""
    names: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names[node.id] += 1
        elif isinstance(node, ast.Attribute):
            names[node.attr] += 1
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.update(re.findall(r"\w+", node.value) if len(node.value) < 200 else ())
    return names


def inside(node: Definition, name: str) -> int:
    """How often a definition names itself."""
    return names_of(ast.Module(body=[node], type_ignores=[]))[name]


def test_every_public_function_and_class_has_a_caller():
    """In the package, benchmarks or recipes, or a place in the documents: a test is no caller."""
    others = [p for folder in ("benchmarks", "recipes") for p in (ROOT / folder).rglob("*.py")]
    calls: Counter[str] = Counter()
    for path in (*FILES, *others):
        if path.name != "__init__.py":
            calls += names_of(tree_of(path))
    documents = [
        ROOT / "README.md",
        ROOT / "pyproject.toml",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    documented: Counter[str] = sum(map(words_of, documents), Counter())
    unused = {
        f"{name}.{node.name}"
        for name, path in MODULES.items()
        for node in tree_of(path).body
        if isinstance(node, Definition)
        and not node.name.startswith("_")
        and not is_command(node)
        and calls[node.name] <= inside(node, node.name)
        and not documented[node.name]
    }
    assert unused == set()


def is_command(node: Definition) -> bool:
    """Whether a decorator hands a function on, as those of the command line do."""
    return any(isinstance(decorator, ast.Call) for decorator in node.decorator_list) and not (
        isinstance(node, ast.ClassDef)
    )


def test_documents_list_the_folders():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text[text.index("| floor |") : text.index("Imports go downward")]
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"`(\w+)/`", table)) == folders
