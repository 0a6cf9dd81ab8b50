"""`[[data]] kind = "sd-scripts"`: the dataset configuration of sd-scripts, or folders laid out for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from velatura.recipe.data.items import SourceData
from velatura.recipe.data.sources.folder import Extension
from velatura.recipe.data.sources.table import TableData
from velatura.recipe.path_keys import FilePath, FolderPath


class MetadataData(TableData):
    """A metadata file of sd-scripts, whose entries may have captions, tags or both."""

    texts_must_exist: ClassVar[bool] = False


class SdScriptsData(SourceData):
    """A dataset file of sd-scripts, or folders named `<repeats>_<class tokens>`.

    The keys that all tables share stand for what a user of sd-scripts gives on the command line: they hold where the
    file says nothing.
    """

    kind: Literal["sd-scripts"] = Field("sd-scripts", description="A dataset made for sd-scripts.")
    file: FilePath | None = Field(None, description="The dataset file, .toml or .json: its --dataset_config.")
    folder: FolderPath | None = Field(
        None,
        description="Where relative paths in the file start: the folder in which sd-scripts was called. Default: the "
        "file's own folder.",
    )
    train_folder: FolderPath | None = Field(
        None, description="In place of a file: a folder of folders named `10_ohwx dog`. Its --train_data_dir."
    )
    reg_folder: FolderPath | None = Field(
        None, description="The same, of regularisation images. Its --reg_data_dir."
    )
    prior_loss_weight: float = Field(1.0, gt=0, description="Loss weight of regularisation images.")
    masked_loss: bool = Field(
        False, description="Images in a conditioning_data_dir are loss masks; else they are control images."
    )
    outside: bool = Field(
        False, description="Allow a metadata file to name files outside its folder: absolute paths and `..`."
    )
    caption_extension: Extension = Field(".caption", description="Extension of the caption files.")
    buckets: bool = Field(False, description="Keep aspect ratios, in buckets of equal area.")

    @classmethod
    def fits(cls, table: Mapping[str, Any]) -> bool:
        """A dataset file in TOML, or its folders."""
        return "train_folder" in table or str(table.get("file", "")).lower().endswith(".toml")

    @model_validator(mode="after")
    def _one_dataset(self) -> SdScriptsData:
        if (self.file is None) == (self.train_folder is None):
            given = "neither" if self.file is None else "both"
            raise ValueError(f"received {given} of file and train_folder; allowed: one of them")
        if self.file is not None and self.reg_folder is not None:
            raise ValueError(
                "reg_folder goes with train_folder; in a file, subsets with is_reg = true are such images"
            )
        return self
