"""What a run takes elsewhere than on the device: of the machine's memory, and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from velatura.data.caches.cache import STORED
from velatura.data.caches.memory import MEMORY
from velatura.data.loader import PREFETCH
from velatura.interfaces import Conditioning
from velatura.planning.away import Away
from velatura.planning.devices import GIB, Device
from velatura.planning.figures import enough, within
from velatura.planning.loop import Training
from velatura.planning.workload import Workload
from velatura.training.export import DTYPES

PROGRAM = int(0.8 * GIB)  # of the machine's memory: Python, torch and the libraries around it
PROGRAM_WITH_CUDA = int(2.5 * GIB)


def occupied(device: Device, peak: int) -> int:
    """Bytes of the device's memory that a peak of live tensors takes; on the CPU with the program itself."""
    return device.occupied(peak) + (PROGRAM if device.kind == "cpu" else 0)


def planned_line(device: Device, budget: int, chosen: Sequence[str], needed: int, phase: str) -> str:
    """What is told of a plan: the budget in bytes, what was chosen, what is needed and in which phase."""
    what = ", ".join(chosen) or "nothing has to change"
    size = enough(budget) if needed <= budget else within(budget)
    return f"planned for {size} of {device.name}: {what}; it needs at most {enough(needed)} ({phase})"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes elsewhere than on the device. None: it depends on data that is not there."""

    host: dict[str, int]
    data: int  # of the host: what is kept of the data, and what is read ahead
    elsewhere: int  # of the host: what the device does not hold for it, once the denoiser is loaded
    released: int  # of the host, before the denoiser is loaded
    disk: dict[str, int | None]
    per_image: int  # of cached latents
    per_text: int  # of cached conditioning

    @property
    def of_host(self) -> int:
        """Bytes of the machine's memory at most."""
        program, rest = self.host["program"], sum(self.host.values()) - self.host["program"]
        return program + max(self.released, rest - self.released)


def sizes_of(
    work: Workload,
    training: Training,
    conditioning: Conditioning,
    device: Device,
    gone: Away,
    *,
    inputs: int,
    encoders: int,
) -> Sizes:
    """By the name of what takes it.

    `inputs`: bytes of activations that wait in the machine's memory; `encoders`: of text encoders that run there.
    """
    setup = work.setup
    recipe = setup.recipe
    largest, info = work.largest_image, setup.info
    values = info.latent_channels * largest.width * largest.height // info.latent_scale**2
    deviations = 2 if recipe.memory.cached_latents == "sample" else 1
    per_image = values * deviations * STORED.itemsize
    per_text = sum(tensor.nbytes for tensor in conditioning.tensors.values())
    latents = None if work.images is None else work.images * per_image
    texts = None if work.texts is None else work.texts * per_text
    resident = training.resident
    state = resident["trained"] + resident["optimizer"] + resident["averages"]
    host = {"program": PROGRAM_WITH_CUDA if device.kind == "cuda" else PROGRAM}
    data = _data_in_memory(work, latents, texts, per_image=4 * values, per_text=per_text)
    host |= data
    if encoders:
        host["text encoders"] = encoders
    pinned = {
        "streamed weights": gone.host,
        "their gradients": gone.gradients,
        "optimizer": gone.optimizer,
        "activations": inputs,
    }
    elsewhere = {f"{name}, pinned": size for name, size in pinned.items() if size}
    if gone.averages:
        elsewhere["average of streamed weights"] = gone.averages + gone.kept_aside
    if recipe.ema is not None and recipe.ema.device == "cpu":
        elsewhere["average"] = 4 * training.trained
    if (recipe.memory.weights != "full" or recipe.memory.streamed) and device.kind != "cpu":
        host["denoiser while it is loaded"] = max(0, training.assembled.loaded - sum(elsewhere.values()))
    host |= elsewhere
    disk: dict[str, int | None] = {}
    if setup.caches_latents:
        disk["cached latents"] = latents
    if setup.caches_text:
        disk["cached captions"] = texts
    disk["states"] = state * (recipe.output.keep_states + 1)  # a new one is whole before an old one goes
    disk["one saved result"] = training.trained * DTYPES[recipe.output.save_dtype].itemsize
    released = encoders if setup.caches_text else 0
    return Sizes(
        host=host,
        data=sum(data.values()),
        elsewhere=sum(elsewhere.values()),
        released=released,
        disk=disk,
        per_image=per_image,
        per_text=per_text,
    )


def _data_in_memory(
    work: Workload, latents: int | None, texts: int | None, *, per_image: int, per_text: int
) -> dict[str, int]:
    """What the loader keeps, and the batches that it prepares.

    `latents`, `texts`: bytes of all that are cached; `per_image`: of float32 latents, `per_text`: of conditioning.
    """
    setup, largest = work.setup, work.largest_image
    kept = {"captions in memory": texts if setup.caches_text else None}
    if setup.caches_latents:
        kept["latents in memory"] = latents
    else:
        pixels = 3 * largest.width * largest.height
        kept["images in memory"] = None if work.images is None else work.images * pixels
        per_image = 4 * pixels
    found = {name: min(MEMORY, size) for name, size in kept.items() if size is not None}
    of_pixel = per_image / (largest.width * largest.height)
    of_text = per_text if setup.caches_text else 0
    batch = max(int(one.count * (of_pixel * one.width * one.height + of_text)) for one in work.shapes)
    found["batches read ahead"] = (1 + PREFETCH) * setup.recipe.training.accumulate * batch
    return found
