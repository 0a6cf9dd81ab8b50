"""The numbers of an event that curves are drawn from, by the names that they have in TensorBoard and W&B."""

from __future__ import annotations

from velatura.events import Event, StepFinished, ValidationFinished


def scalars_of(event: Event) -> dict[str, float]:
    """Of a step or a validation, "step" among them; empty for other events."""
    if isinstance(event, StepFinished):
        return {
            "step": event.step,
            "loss/train": event.loss,
            "grad_norm": event.grad_norm,
            "learning_rate": event.learning_rate,
            "images_per_second": event.images / max(event.seconds, 1e-9),
            **{f"terms/{name}": value for name, value in event.terms.items()},
        }
    if isinstance(event, ValidationFinished):
        return {"step": event.step, f"loss/{event.name}": event.loss}
    return {}
