"""`[[data]]`: images that belong to an image."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from velatura.recipe.path_keys import FolderPath
from velatura.recipe.section import Section

Member = Annotated[str, Field(pattern=r"^[^/]+$")]


class CompanionFolders(Section):
    """Folders with one file for each image, of the same name but for the extension.

    A `*` in the last part stands for the image's name: `masks/*_mask` has the mask of `dog.jpg` in `dog_mask.png`.
    """

    references: FolderPath | None = Field(
        None, description="Folder of the images before an edit; the images show the result."
    )
    controls: FolderPath | None = Field(None, description="Folder of control images.")
    masks: FolderPath | None = Field(
        None,
        description="Folder of loss masks: white counts, black does not. In this and the other folders of "
        "companions, a `*` in the last part stands for the image's name: 'masks/*_mask'.",
    )
    depths: FolderPath | None = Field(None, description="Folder of depth maps: 16-bit PNG or NPY.")
    normals: FolderPath | None = Field(
        None, description="Folder of normal maps: PNG or NPY, x right, y up, z to the viewer."
    )


class CompanionColumns(Section):
    """Columns of a table that hold files."""

    reference_column: str | None = Field(None, description="Column of the image before an edit.")
    control_column: str | None = Field(None, description="Column of the control image.")
    mask_column: str | None = Field(None, description="Column of the loss mask.")
    depth_column: str | None = Field(None, description="Column of the depth map.")
    normals_column: str | None = Field(None, description="Column of the normal map.")


class CompanionMembers(Section):
    """What stands between a sample's name and the extension of a file that belongs to its image.

    `mask` for `a.mask.png` beside `a.jpg`.
    """

    reference_member: Member | None = Field(None, description="Of the image before an edit.")
    control_member: Member | None = Field(None, description="Of the control image.")
    mask_member: Member | None = Field(None, description="Of the loss mask: 'mask' for `a.mask.png`.")
    depth_member: Member | None = Field(None, description="Of the depth map.")
    normals_member: Member | None = Field(None, description="Of the normal map.")
