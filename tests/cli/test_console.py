"""Nothing that a file says reaches the terminal as a command to it."""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import velatura.cli
from velatura.checkpoints.writing import write_safetensors
from velatura.cli.console import harmless, one_line
from velatura.cli.progress import LiveProgress, PlainProgress
from velatura.events import Notice

Run = Callable[..., Any]
NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\r\u202ednil"


def test_control_characters_are_shown() -> None:
    shown = harmless(NASTY)
    assert shown == "\\u001b]0;owned\\u0007\\u001b[2J\\u009b31m\\u007f\\u000d\\u202ednil"
    assert shown.isprintable()
    assert harmless("two lines\n\tund Umlaute: äöü, 猫, 👩‍🚀") == "two lines\n\tund Umlaute: äöü, 猫, 👩‍🚀"
    assert one_line("a\nerror: b\x1b") == "a\\nerror: b\\u001b"


def test_json_and_toml_read_the_escapes_as_what_was_meant() -> None:
    text = NASTY.replace("\r", "")
    assert json.loads(harmless(json.dumps(text, ensure_ascii=False))) == text
    assert tomllib.loads(harmless('a = "' + harmless(text) + '"'))["a"] == text


def test_metadata_of_a_lora(velatura: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    layer = "lora_unet_double_blocks_0_img_attn_proj"
    tensors = {f"{layer}.lora_down.weight": torch.ones(2, 8), f"{layer}.lora_up.weight": torch.ones(8, 2)}
    write_safetensors(file, tensors, {"ss_title": f"{NASTY}\nerror: not one", NASTY: "x"})
    said = velatura("lora", "info", file)
    assert said.code == 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", said.out)
    assert "ss_title: \\u001b]0;owned" in said.out
    assert "\nerror: not one" not in said.out


def test_messages_about_a_recipe(velatura: Run, recipe_file: Path) -> None:
    recipe_file.write_text(recipe_file.read_text() + '\n[training]\n"\\u001b[2J" = 1\n')
    said = velatura("recipe", "check", recipe_file)
    assert said.code == 2
    assert "\x1b[2J" not in said.err
    assert "\\u001b[2J" in said.err


@pytest.mark.parametrize("terminal", [False, True])
def test_what_goes_on_in_a_run(terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, color_system=None, width=200)
    listener = LiveProgress(console) if terminal else PlainProgress(console)
    listener(Notice(message=f"the caption '{NASTY}' is too long", level="warning"))
    shown = harmless(NASTY.replace("\a", "").replace("\r", ""))  # rich leaves these two out
    assert f"the caption '{shown}' is too long" in stream.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", stream.getvalue())


def test_commands_print_by_no_other_way() -> None:
    folder = Path(velatura.cli.__file__).parent
    others = [path for path in folder.glob("*.py") if path.name != "console.py"]
    assert [path.name for path in others if re.search(r"typer\.s?echo\(|\bprint\(\)", path.read_text())] == []
