"""`[[data]]`: images that belong to an image, matched by name."""

from __future__ import annotations

from pydantic import Field

from velatura.recipe.section import Section


class CompanionFolders(Section):
    """Folders with one file for each image, of the same name but for the extension."""

    references: str | None = Field(
        None, description="Folder of the images before an edit; the images show the result."
    )
    controls: str | None = Field(None, description="Folder of control images.")
    masks: str | None = Field(None, description="Folder of loss masks: white counts, black does not.")
    depths: str | None = Field(None, description="Folder of depth maps: 16-bit PNG or NPY.")
    normals: str | None = Field(
        None, description="Folder of normal maps: PNG or NPY, x right, y up, z to the viewer."
    )


class CompanionColumns(Section):
    """Columns of a table that hold files."""

    reference_column: str | None = Field(None, description="Column of the image before an edit.")
    control_column: str | None = Field(None, description="Column of the control image.")
    mask_column: str | None = Field(None, description="Column of the loss mask.")
    depth_column: str | None = Field(None, description="Column of the depth map.")
    normals_column: str | None = Field(None, description="Column of the normal map.")
