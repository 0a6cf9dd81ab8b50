"""What a model's own `velatura.json` says of sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from velatura.errors import ModelError
from velatura.families.configs import sampling_defaults
from velatura.families.flux import DEV
from velatura.interfaces import ModelFiles, SamplingDefaults


def said(folder: Path, document: Any) -> SamplingDefaults:
    (folder / "velatura.json").write_text(json.dumps(document))
    return sampling_defaults(ModelFiles(model=str(folder)), DEV)


def test_what_is_not_said_is_the_familys(tmp_path: Path) -> None:
    assert sampling_defaults(ModelFiles(model=str(tmp_path)), DEV) == DEV
    assert said(tmp_path, {"sampling": {"size": 512, "cfg": 2}}) == SamplingDefaults(
        size=512, steps=28, guidance=3.5, cfg=2.0
    )


@pytest.mark.parametrize(
    "document", [{}, {"sampling": 3}, {"sampling": {"size": "big"}}, {"sampling": {"sampler": "euler"}}]
)
def test_what_is_no_setting_is_refused(tmp_path: Path, document: Any) -> None:
    with pytest.raises(ModelError, match="'sampling' takes the numbers size, steps, guidance and cfg"):
        said(tmp_path, document)
