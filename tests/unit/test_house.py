import ast
import statistics
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "distrib"
MODULES = sorted(path for path in HOUSE.rglob("*.py") if "__pycache__" not in path.parts)

# What each room may import of the others.
MAY: dict[str, set[str]] = {
    "settings": set(),
    "zoo": {"settings"},
    "images": {"settings"},
    "command": {"settings", "zoo.names"},
    "lifecycle": {"settings", "command", "images", "zoo"},
    "learning": {"settings", "command", "images", "zoo", "lifecycle"},
    "insight": {"settings", "command", "images", "zoo", "lifecycle", "learning"},
    "assembly": {"settings", "command", "images", "zoo", "lifecycle", "learning", "insight"},
    "train": {"settings", "command", "images", "zoo", "lifecycle", "learning", "insight", "assembly"},
    "__main__": {"settings", "lifecycle", "train", "images", "zoo", "insight"},
    "__init__": set(),
}


def room(path: Path) -> str:
    return path.relative_to(HOUSE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """What a module imports of the house, anywhere in it, such as ``images.feed``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            inside = node.module == "distrib" or (HOUSE.parent / str(node.module).replace(".", "/")).is_dir()
            names = [f"{node.module}.{alias.name}" if inside else str(node.module) for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if node.value.isascii() and node.value.replace(".", "").isidentifier() else []
        else:
            continue
        yield from (name.removeprefix("distrib.") for name in names if name.startswith("distrib."))


def test_the_modules_are_found() -> None:
    assert len(MODULES) > 40
    assert {room(path) for path in MODULES} == set(MAY)
    assert "assembly" in set(imports(HOUSE / "train.py"))
    assert "insight.evaluation" in set(imports(HOUSE / "__main__.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_go_one_way(path: Path) -> None:
    allowed = MAY[room(path)] | {room(path)}
    wrong = {
        name
        for name in imports(path)
        if not any(name == other or name.startswith(f"{other}.") for other in allowed) and name != "__version__"
    }
    assert not wrong


def test_only_the_entries_import_what_people_see() -> None:
    readers = {room(path) for path in MODULES if any(name.split(".")[0] == "insight" for name in imports(path))}
    assert readers - {"insight"} <= {"assembly", "train", "__main__"}


def test_only_train_imports_the_assembly() -> None:
    assert {room(path) for path in MODULES if any(name.startswith("assembly") for name in imports(path))} == {"train"}


def test_what_answers_a_typo_imports_little() -> None:
    outside = set()
    early = [HOUSE / name for name in ("__init__.py", "train.py", "command.py", "zoo/__init__.py", "zoo/names.py")]
    for path in (*early, *(HOUSE / "settings").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:  # what stands inside functions comes later
            if isinstance(node, ast.Import):
                outside |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                outside.add(str(node.module).split(".")[0])
    assert outside - set(sys.stdlib_module_names) <= {"distrib", "tyro", "yaml"}


def test_no_name_shadows_a_module_of_others() -> None:
    # Run as a script, Python looks into distrib/ itself first.
    names = {path.stem for path in MODULES if not path.stem.startswith("__")}
    names |= {path.name for path in HOUSE.rglob("*") if path.is_dir() and path.name != "__pycache__"}
    installed = {name for name, packages in packages_distributions().items() if set(packages) != {"distrib"}}
    assert not names & (set(sys.stdlib_module_names) | installed)


def functions() -> dict[str, int]:
    """Lines of every function."""
    return {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_no_module_is_over_350_lines() -> None:
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: count for path, count in lines.items() if count > 350} == {}


def test_no_function_is_over_60_lines_and_most_are_short() -> None:
    lengths = functions()
    assert {name: count for name, count in lengths.items() if count > 60} == {}
    assert statistics.median(lengths.values()) <= 15


def test_no_two_files_of_tests_bear_the_same_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))  # pytest imports them by their names alone


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "util", "common", "helpers", "misc"}
