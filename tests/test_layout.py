"""Imports run one way: from the commands down to errors, never back, and never between neighbours of one level."""

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "vse_tf"
# Each level may import from those before it. Inside a package, files import one another without a circle.
LEVELS = [
    ["losses.registry"],
    ["errors", "display", "quiet"],
    ["addresses"],
    ["setting_types", "startup"],
    ["used_settings"],
    ["data_settings"],
    ["config", "help_text"],
    ["downloads", "files", "locks", "removed_settings"],
    ["atomic", "settings_yaml"],
    ["cache", "cache_size"],
    ["remote"],
    ["command_line", "source_detection"],
    ["settings_parser", "preprocessing"],
    ["data"],
    ["losses"],
    ["models"],
    ["artifacts"],
    ["plain_embedder"],
    ["embedder"],
    ["evaluation"],
    ["indexing"],
    ["stores"],
    ["pages"],
    ["exporting", "training", "serving"],
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
COMMANDS = {"__main__", "check", "train", "evaluate", "export", "pack", "embed", "publish", "search", "serve"}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """The package's own modules that a file imports, those inside functions and for types included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vse_tf":
            base = node.module.removeprefix("vse_tf").removeprefix(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".removeprefix(".")
                found.add(full if full in MODULES or f"{full}.__init__" in MODULES else base)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("vse_tf.") for alias in node.names if alias.name.startswith("vse_tf.")}
    return found - {""}


def level(module: str) -> int:
    """The level of a module's package, or its own where it is named."""
    return LEVEL.get(module, LEVEL.get(module.split(".", maxsplit=1)[0], len(LEVELS)))


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] not in COMMANDS | {"__init__"}])
def test_imports_run_one_way(module):
    package = module.split(".")[0]
    for name in imported(MODULES[module]):
        other = name.split(".")[0]
        assert other == package or level(name) < level(module), f"{module} imports {name}"


def test_no_files_import_one_another_in_a_circle():
    edges = {name.removesuffix(".__init__"): imported(path) for name, path in MODULES.items()}
    done, open_ = set(), []

    def visit(name: str) -> None:
        assert name not in open_, f"a circle: {' → '.join([*open_[open_.index(name) :], name])}"
        if name in done:
            return
        open_.append(name)
        for other in sorted(edges.get(name, ())):
            visit(other)
        done.add(open_.pop())

    for name in edges:
        visit(name)


def test_every_package_says_what_it_is_for():
    for path in ROOT.rglob("__init__.py"):
        assert len(ast.get_docstring(ast.parse(path.read_text())) or "") > 40, path


def test_the_picture_shows_the_imports_of_today():
    docs = ROOT.parent / "docs"
    drawn = runpy.run_path(str(docs / "layout_picture.py"))["draw"]()
    assert (docs / "pictures" / "layout.svg").read_text() == drawn, "run python docs/layout_picture.py"


def test_where_is_what_names_files_that_are_there():
    text = (ROOT.parent / "docs" / "where.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text))
    assert len(named) > 30
    assert not [name for name in named if not (ROOT / name).exists() and not (ROOT.parent / name).exists()]
    walk = set(re.findall(r"`([a-z_/]+\.py)`", text.partition("## An image")[2]))
    assert 15 < len(walk) <= 25


def test_names_of_tests_are_short():
    trees = (ast.parse(path.read_text()) for path in Path(__file__).parent.rglob("test_*.py"))
    names = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert not [name for name in names if name.startswith("test_") and len(name) > 60]
