"""Tiny models on disk, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from . import models


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.flux_folder(tmp_path_factory.mktemp("flux") / "model")


@pytest.fixture(scope="session")
def flux_singles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.flux_single_files(tmp_path_factory.mktemp("flux") / "singles")


@pytest.fixture(scope="session")
def sd1_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.sd1_folder(tmp_path_factory.mktemp("sd1") / "model")


@pytest.fixture(scope="session")
def sd1_single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.sd1_single_file(tmp_path_factory.mktemp("sd1") / "v1.safetensors")
