"""What was found about a dataset as plain data: the JSON that holds all items."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from velatura.data.checking.check import Checked
from velatura.data.checking.findings import MEANING, enlargement


def document_of(checked: Checked) -> dict[str, Any]:
    """Everything, with a record per item."""
    findings = defaultdict(list)
    for finding in checked.findings:
        findings[finding.item].append({"kind": finding.kind, "text": finding.text})
    return {
        "name": checked.name,
        "refused": list(checked.refusals),
        "summary": summary_of(checked),
        "findings": {
            kind: {"items": count, "meaning": MEANING[kind]} for kind, count in checked.counts().items()
        },
        "quarantined": [{"name": one.name, "reason": one.reason} for one in checked.quarantined],
        "warnings": list(checked.warnings),
        "buckets": [
            {"width": width, "height": height, "uses": uses}
            for (width, height), uses in checked.buckets.items()
        ],
        "tags": [{"tag": tag, "items": count} for tag, count in checked.tags.most_common()],
        "items": [_item(checked, i, findings[i]) for i in range(len(checked.items))],
    }


def summary_of(checked: Checked) -> dict[str, Any]:
    """The figures of the whole."""
    uses = checked.uses
    return {
        "images": len(checked.items),
        "trained": len(checked.entries.keys() - checked.held_out),
        "held_out": len(checked.held_out),
        "quarantined": len(checked.quarantined),
        "images_per_epoch": uses.images_per_epoch,
        "steps_per_epoch": round(uses.steps_per_epoch, 3),
        "epochs": round(uses.epochs, 3),
        "small_batches_per_epoch": uses.small_batches,
        "tokens_counted_by": list(checked.encoders),
    }


def _item(checked: Checked, i: int, findings: list[dict[str, str]]) -> dict[str, Any]:
    item, worded, examined = checked.items[i], checked.worded[i], checked.examined.get(i)
    entries = checked.entries.get(i, ())
    return {
        "name": item.name,
        "source": item.source,
        "width": item.width,
        "height": item.height,
        "content": item.content,
        "validation": i in checked.held_out,
        "buckets": [list(entry.bucket) for entry in entries],
        "enlargement": round(max((enlargement(entry) for entry in entries), default=0.0), 3),
        "uses_per_epoch": checked.uses.of_item.get(item.identity, 0.0),
        "detail": None if examined is None else examined.detail,
        "companions": {role: companion.place.key for role, companion in item.companions.items()},
        "caption": item.caption.text,
        "caption_from": item.caption.origin,
        "texts": list(worded.texts),
        "tokens": [
            {"encoder": count.encoder, "tokens": count.tokens, "read": count.read} for count in worded.tokens
        ],
        "findings": findings,
    }
