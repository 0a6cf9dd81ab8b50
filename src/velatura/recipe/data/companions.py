"""`[[data]]`: images that belong to an image."""

from __future__ import annotations

from pydantic import Field

from velatura.recipe.path_keys import FolderPath
from velatura.recipe.section import Section


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
