"""`[[data]] kind = "everydream2"`: dataset trees and manifests of EveryDream2trainer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from velatura.recipe.data.items import SourceData
from velatura.recipe.path_keys import FileOrFolder


class EveryDream2Data(SourceData):
    """A `data_root` of EveryDream2trainer: a tree of folders, or a JSON manifest."""

    kind: Literal["everydream2"] = Field("everydream2", description="A data_root of EveryDream2trainer.")
    root: FileOrFolder | Annotated[list[FileOrFolder], Field(min_length=1)] = Field(
        description="A folder, which is read with all its sub-folders, or a .json manifest; or a list of these. "
        "What files in it say counts instead of this table's keys; `multiply` and `loss_scale` count "
        "times its `repeats` and `weight`."
    )
    outside: bool = Field(
        False,
        description="Allow a manifest to name files outside its folder: absolute paths, `..`, and links.",
    )
