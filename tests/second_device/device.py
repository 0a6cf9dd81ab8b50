"""Builds and registers the device of `device.cpp`; a process that has it keeps it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig
import types
from pathlib import Path
from typing import Any

import torch
from torch.utils import cpp_extension

NAME = "second"
SOURCE = Path(__file__).with_name("device.cpp")


def missing() -> str | None:
    """What is not there that building it takes."""
    if shutil.which("g++") is None:
        return "g++ is not installed"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's headers are not installed"
    return None


def register(folder: Path) -> torch.device:
    """Build the device in a folder, in about a minute, and make it known to torch."""
    torch.utils.rename_privateuse1_backend(NAME)
    library = _loaded(_built(folder))
    _across_devices(library)
    torch._register_device_module(NAME, _module())  # type: ignore[attr-defined]
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    return torch.device(NAME, 0)


def _built(folder: Path) -> Path:
    path = folder / "second_device.so"
    libraries = cpp_extension.library_paths()
    subprocess.run(
        [
            *("g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-w", "-DTORCH_EXTENSION_NAME=second_device"),
            *(f"-I{include}" for include in (*cpp_extension.include_paths(), sysconfig.get_path("include"))),
            *(str(SOURCE), "-o", str(path)),
            *(f"-L{library}" for library in libraries),
            *("-ltorch", "-ltorch_cpu", "-ltorch_python", "-lc10"),
            *(f"-Wl,-rpath,{library}" for library in libraries),
        ],
        check=True,
    )
    return path


def _loaded(path: Path) -> Any:
    found = importlib.util.spec_from_file_location("second_device", path)
    assert found is not None
    assert found.loader is not None
    library = importlib.util.module_from_spec(found)
    found.loader.exec_module(library)
    return library


def _across_devices(library: Any) -> None:
    """Let `tensor.data = other` change the device, as it may between the CPU and CUDA."""
    own: Any = torch._C.TensorBase.data  # type: ignore[attr-defined]

    def change(tensor: torch.Tensor, value: torch.Tensor) -> None:
        if tensor.device.type == value.device.type:
            own.__set__(tensor, value)
        else:
            library.set_data(tensor, value)

    torch.Tensor.data = property(own.__get__, change)  # type: ignore[assignment]


def _module() -> types.ModuleType:
    module = types.ModuleType(f"torch.{NAME}")
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "_is_in_bad_fork": False,
        "manual_seed_all": None,
        "synchronize": None,
        "get_amp_supported_dtype": [torch.bfloat16, torch.float16],
    }
    for name, answer in answers.items():
        setattr(module, name, lambda *_, answer=answer: answer)
    module.get_rng_state = lambda *_: torch.get_rng_state()  # type: ignore[attr-defined]
    module.set_rng_state = lambda *_: None  # type: ignore[attr-defined]
    return module
