"""The order of the rooms: a room imports only rooms that were built before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import velatura

HOUSE = Path(velatura.__file__).parent
GROUND = ("errors", "events", "draws", "interfaces", "plural")
ROOMS = (
    *GROUND, "recipe", "pocket", "checkpoints", "placement", "families", "adapters", "data", "conditioning",
    "sampling", "metrics", "objectives", "training", "runs", "doctor", "planning", "migrate", "cli", "ui",
)  # fmt: skip
FRONT_DOOR = (
    "velatura"  # __init__.py: imports `Pipeline` when it is first used; __main__.py: starts the command
)
DOORS = (HOUSE / "__init__.py", HOUSE / "__main__.py")
FILES = sorted(path for path in HOUSE.rglob("*.py") if path not in DOORS)


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else FRONT_DOOR


def imports(path: Path) -> Iterator[str]:
    """The velatura modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "velatura")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write velatura.… in full"
            if node.module == "velatura":
                yield from (f"velatura.{a.name}" for a in node.names if a.name in ROOMS)
            elif node.module and node.module.startswith("velatura."):
                yield node.module


def test_every_file_is_in_a_known_room() -> None:
    rooms = {path.relative_to(HOUSE).parts[0].removesuffix(".py") for path in FILES}
    assert rooms <= set(ROOMS)


@pytest.mark.parametrize("room", [room for room in ROOMS if (HOUSE / room).is_dir()])
def test_a_room_imports_only_rooms_before_it(room: str) -> None:
    allowed = {FRONT_DOOR, *ROOMS[: ROOMS.index(room) + 1]}
    wrong = [
        f"{path.relative_to(HOUSE)} imports {module}"
        for path in FILES
        if path.relative_to(HOUSE).parts[0] == room
        for module in imports(path)
        if room_of(module) not in allowed
    ]
    assert not wrong


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_stands_on_itself(name: str) -> None:
    assert {room_of(module) for module in imports(HOUSE / f"{name}.py")} <= set(GROUND)


def modules_after(statement: str) -> set[str]:
    """All modules that a fresh interpreter has imported after a statement."""
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import velatura", {"torch", "numpy", "pydantic", "typer", "rich"}),
        ("import velatura.recipe.toml", {"torch", "numpy", "diffusers", "transformers", "PIL"}),
        ("import velatura.pocket.dataset, velatura.pocket.checker", {"torch", "diffusers", "transformers"}),
        (
            "import velatura.cli.app",
            {"torch", "numpy", "pydantic", "diffusers", "transformers", "rich.console"},
        ),
    ],
)
def test_light_rooms_import_nothing_heavy(statement: str, heavy: set[str]) -> None:
    assert not modules_after(statement) & heavy


def test_no_drawers() -> None:
    drawers = {"utils", "util", "misc", "common", "helpers", "manager", "base"}
    assert not [path for path in FILES if path.stem in drawers]


# sections whose work is done under another name
ELSEWHERE = {"sampling/previews.py": "training/previews.py", "families/files.py": "families/locate.py"}


def test_recipe_sections_have_a_room_of_the_same_name() -> None:
    """recipe/<room>/<name>.py describes what <name>.py does, somewhere in <room>."""
    sections = [path.relative_to(HOUSE / "recipe").as_posix() for path in (HOUSE / "recipe").glob("*/*.py")]
    for section in sections:
        room, name = ELSEWHERE.get(section, section).split("/")
        assert list((HOUSE / room).rglob(name)), f"recipe/{section}: no {name} in {room}/"
