from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from velatura.doctor import packages

HERE = {"velatura": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "tokenizers": "0.23.3"}
ASKED = {
    "velatura": [
        "torch<3,>=2.11",
        "transformers>=5.17",
        "tokenizers",
        'pytest>=9; extra == "dev"',
        'x; python_version < "3"',
    ],
    "transformers": ["tokenizers<0.24,>=0.23.1"],
    "torch": [],
    "tokenizers": None,
}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The installed packages and their versions, which a test may change."""
    found = dict(HERE)

    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    def requires(name: str) -> Any:
        version(name)
        return ASKED.get(name)

    monkeypatch.setattr(packages.metadata, "version", version)
    monkeypatch.setattr(packages.metadata, "requires", requires)
    monkeypatch.setattr(packages, "TESTED", tmp_path / "constraints.txt")
    return found


def levels() -> dict[str, str]:
    return {check.name: check.level for check in packages.packages()}


def found_of(name: str) -> str:
    return next(check.found for check in packages.packages() if check.name == name)


def test_all_is_well(here: dict[str, str]) -> None:
    assert levels() == {"python": "ok", "packages": "ok"}
    assert found_of("packages") == "3 packages as velatura and they themselves ask for"


@pytest.mark.parametrize(
    ("name", "version", "told"),
    [
        ("torch", "2.9.1", "torch 2.9.1 (velatura asks for <3,>=2.11)"),
        ("transformers", None, "transformers is missing (velatura asks for it: >=5.17)"),
        ("tokenizers", "0.24.0", "tokenizers 0.24.0 (transformers asks for <0.24,>=0.23.1)"),
    ],
)
def test_a_version_that_does_not_fit(here: dict[str, str], name: str, version: str | None, told: str) -> None:
    if version is None:
        del here[name]
    else:
        here[name] = version
    assert levels()["packages"] == "problem"
    assert found_of("packages") == told


def test_a_companion_is_looked_at_where_it_is_installed(
    here: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ASKED, "xformers", ["torch==2.12.0"])
    assert levels()["packages"] == "ok"
    here["xformers"] = "0.1"
    assert found_of("packages") == "torch 2.13.0+cpu (xformers asks for ==2.12.0)"


def test_without_velatura_itself(here: dict[str, str]) -> None:
    del here["velatura"]
    assert levels()["packages"] == "remark"


def test_an_old_python(here: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "OLDEST_PYTHON", (4, 0))
    assert levels()["python"] == "problem"


def test_other_versions_than_the_tested_ones(here: dict[str, str]) -> None:
    packages.TESTED.write_text("# comment\ntorch==2.13.0\ntransformers==5.22.0\ntorchvision<0\nother==1\n")
    assert found_of("tested versions") == "not those of constraints.txt: transformers 5.23.0 (5.22.0)"
    here["transformers"] = "5.22.0"
    assert "tested versions" not in levels()


def test_a_torchvision_of_another_torch(here: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        assert name == "torchvision"
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(importlib, "import_module", load)
    assert "torchvision" not in levels()
    here["torchvision"] = "0.28.0"
    assert levels()["torchvision"] == "problem"
    assert "torchvision::nms" in found_of("torchvision")
