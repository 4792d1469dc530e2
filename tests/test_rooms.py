"""The plan of the house: each room knows only the rooms before it."""

import ast
from pathlib import Path

from conftest import ROOT

# A room may import those that stand before it.
ORDER = [
    *("errors", "files", "metadata", "config", "data", "networks", "tasks", "building"),
    *("evaluation", "export", "training", "serving"),
]
# `weights=model.onnx` on a command line: only the engine can read the metadata of an export.
BACKWARDS = ("from_weights.py", "evaluation")
STRANGERS = [("training", "export"), ("serving", "training"), ("training", "serving")]


def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nano_cv"):
            for name in node.names:
                path = f"{node.module}.{name.name}".split(".")
                found.add(path[1])
    return found


def test_imports_point_one_way():
    for file in (ROOT / "nano_cv").rglob("*.py"):
        room = file.relative_to(ROOT / "nano_cv").parts[0].removesuffix(".py")
        if room == "__init__" or file.parent.name == "decoder":  # it is copied, and runs in Triton
            continue
        for other in imported(file) - {room}:
            if (file.name, other) == BACKWARDS:
                continue
            assert ORDER.index(other) < ORDER.index(room), f"{file} imports {other}"
            assert (room, other) not in STRANGERS, f"{file} imports {other}"


def test_few_files_stand_at_the_root_and_each_room_says_what_it_is_for():
    assert len(list((ROOT / "nano_cv").glob("*.py"))) <= 5
    for file in (ROOT / "nano_cv").glob("*/__init__.py"):
        words = ast.get_docstring(ast.parse(file.read_text())) or ""
        assert " in" in words and " out" in words, file
