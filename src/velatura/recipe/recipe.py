"""The recipe: the one typed object that describes a run, complete and strict."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from velatura.recipe.adapters.lora import LoraAdapter
from velatura.recipe.consistency import require_consistent
from velatura.recipe.data.items import SourceData
from velatura.recipe.data.rated import Rated
from velatura.recipe.data.sources.everydream2 import EveryDream2Data
from velatura.recipe.data.sources.folder import FolderData
from velatura.recipe.data.sources.huggingface import HuggingFaceData
from velatura.recipe.data.sources.sd_scripts import SdScriptsData
from velatura.recipe.data.sources.table import TableData
from velatura.recipe.data.sources.webdataset import WebDatasetData
from velatura.recipe.defaults import with_kind
from velatura.recipe.families.flux import FluxModel
from velatura.recipe.families.sd1 import Sd1Model
from velatura.recipe.objectives.autoencoder import AutoencoderObjective
from velatura.recipe.objectives.diffusion import DiffusionObjective
from velatura.recipe.objectives.flow import FlowObjective
from velatura.recipe.sampling.previews import Output, Previews
from velatura.recipe.schema import sections_in
from velatura.recipe.section import Section
from velatura.recipe.training.ema import Ema
from velatura.recipe.training.loop import Full, Memory, Training
from velatura.recipe.training.optimizer import Optimizer
from velatura.recipe.training.validation import Validation, ValidationSet

# the kinds of [[data]]; the first is what a table is that neither names its kind nor tells it by its keys
Data = Annotated[
    FolderData | TableData | WebDatasetData | HuggingFaceData | EveryDream2Data | SdScriptsData,
    Field(discriminator="kind"),
]
Model = Annotated[FluxModel | Sd1Model, Field(discriminator="family")]
Objective = Annotated[FlowObjective | DiffusionObjective | AutoencoderObjective, Field(discriminator="kind")]


class Recipe(Section):
    """One run: a model, data, what is trained (`adapter` or `full`), and how."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        examples=["my-dog"],
        description="Names the run and its files.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of every random number in the run.")
    model: Model = Field(description="The model and its parts.")
    data: list[Data] = Field(min_length=1, description="Where the images are.")
    rated: Rated | None = Field(None, description="Use fewer images from epoch to epoch, by their ratings.")
    adapter: LoraAdapter | None = Field(None, description="Train an adapter over frozen weights.")
    full: Full | None = Field(None, description="Train whole parts; in place of `adapter`.")
    objective: Objective = Field(description="What a step minimises.")
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    ema: Ema | None = None
    validation: Validation = Validation()
    validation_sets: list[ValidationSet] = Field(
        [], description="Validation images with losses of their own."
    )
    memory: Memory = Memory()
    previews: Previews = Previews()
    output: Output = Output()

    @property
    def trains_denoiser(self) -> bool:
        """Whether weights of the denoiser itself are trained, not those of an adapter on it."""
        return self.full is not None and "denoiser" in self.full.parts

    @field_validator("data", mode="before")
    @classmethod
    def _data_has_kinds(cls, data: Any) -> Any:
        kinds = [section for section in sections_in(Data) if issubclass(section, SourceData)]
        return [with_kind(source, kinds) for source in data] if isinstance(data, list) else data

    @field_validator("memory", mode="before")
    @classmethod
    def _memory_may_be_a_size(cls, memory: Any) -> Any:
        return {"budget": memory} if isinstance(memory, str) else memory

    @model_validator(mode="after")
    def _goes_together(self) -> Recipe:
        require_consistent(self)
        return self
