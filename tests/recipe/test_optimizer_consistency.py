"""What `[optimizer]` allows, by itself and with the rest of a recipe; nothing that is given is without effect."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from velatura.recipe.toml import dump_recipe, parse_recipe

Refusal = Callable[..., str]
FULL = "[full]\n[optimizer]\n"
BF16 = 'weights = "bf16"\n'


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("AdamW", '"adamw"'),
        ("AdamW8bit", '"adamw8bit"'),
        ("PagedAdamW8bit", '"adamw8bit"'),
        ("AdaFactor", '"adafactor"'),
        ("adafactr", '"adafactor"'),
        ("Lion", '"lion_pytorch.Lion"'),
        ("DAdaptAdam", '"dadaptation.DAdaptAdam"'),
        ("prodigy", '"prodigyopt.Prodigy"'),
        ("AdamWScheduleFree", '"schedulefree.AdamWScheduleFree"'),
    ],
)
def test_names_of_other_tools_are_understood(
    smallest: str, refusal: Refusal, written: str, hint: str
) -> None:
    message = refusal(f'{smallest}[optimizer]\nkind = "{written}"\n')
    assert (
        f'[optimizer] kind\n    received "{written}"; allowed: "adamw", "adamw8bit", "adafactor" or "muon"'
        in message
    )
    assert f"write kind = {hint}" in message


@pytest.mark.parametrize("kind", ["x", "a..B", "a.B:C:D", ".Prodigy", "a.", "os;b.C", ""])
def test_what_is_no_path_of_a_class(smallest: str, refusal: Refusal, kind: str) -> None:
    assert 'a class is written "package.Class"' in refusal(f'{smallest}[optimizer]\nkind = "{kind}"\n')


@pytest.mark.parametrize(
    ("keys", "place", "what"),
    [
        ("options = { a = 1 }", "options", "allowed with a class by import path"),
        ('kind = "a.B"\nweight_decay = 0.1', "weight_decay", "write it in [optimizer.options]: weight_decay = 0.1"),
        ('kind = "a.B"\nbetas = [0.9, 0.99]', "betas", "write it in [optimizer.options]: betas = [0.9, 0.99]"),
        ('kind = "a.B"\noptions = { lr = 1.0 }', "options.lr", "write learning_rate"),
        ('kind = "adafactor"\neps = 1e-6', "eps", 'has no effect with kind = "adafactor"'),
        ("cycles = 3", "cycles", 'has no effect with schedule = "cosine"; allowed with "cosine_with_restarts"'),
        ('schedule = "linear"\npower = 2.0', "power", 'allowed with "polynomial"'),
        ('schedule = "constant"\nmin_share = 0.1', "min_share", 'has no effect with schedule = "constant"'),
        ("fused_backward = true\nclip = 0", "fused_backward", "gradients of an adapter are small; allowed with [full]"),
    ],
)  # fmt: skip
def test_nothing_is_without_effect(smallest: str, refusal: Refusal, keys: str, place: str, what: str) -> None:
    message = refusal(f"{smallest}[optimizer]\n{keys}\n")
    assert message.startswith("x.toml has 1 mistake\n")
    assert f"[optimizer] {place}\n" in message
    assert what in message


@pytest.mark.parametrize(
    ("added", "what"),
    [
        ("", "with clip = 1: the norm of all gradients is known only after all updates"),
        ('clip = 0\nkind = "a.B"', 'with kind = "a.B": its updates may depend on all gradients'),
        ("clip = 0\n[training]\naccumulate = 2", "with training.accumulate = 2"),
        ('clip = 0\n[training]\nprecision = "fp16"', "its loss scaling looks at all gradients"),
        ("clip = 0\n[training]\nretry_on_oom = true", "a step that is half made cannot be made again"),
    ],
)
def test_what_updates_in_the_backward_pass_do_not_go_with(
    smallest: str, refusal: Refusal, added: str, what: str
) -> None:
    text = smallest.replace("[adapter]\n", FULL) + f"fused_backward = true\n{added}\n"
    assert what in refusal(text)


@pytest.mark.parametrize(
    ("added", "what"),
    [
        ("", 'received "bf16" with training.precision = "auto": allowed with "bf16"'),
        (
            '[training]\nprecision = "bf16"\n[optimizer]\nkind = "muon"',
            'received "bf16" with optimizer.kind = "muon"',
        ),
        (
            'parts = ["autoencoder"]\n[training]\nprecision = "bf16"',
            'received "bf16" with objective.kind = "autoencoder"',
        ),
    ],
)
def test_what_weights_in_bf16_do_not_go_with(smallest: str, refusal: Refusal, added: str, what: str) -> None:
    assert f"[full] weights\n    {what}" in refusal(
        smallest.replace("[adapter]\n", f"[full]\n{BF16}{added}\n")
    )


def test_all_reasons_are_given(smallest: str, refusal: Refusal) -> None:
    text = smallest.replace("[adapter]\n", FULL) + "fused_backward = true\n[training]\naccumulate = 2\n"
    message = refusal(text)
    assert "with clip = 1" in message
    assert "; and with training.accumulate = 2" in message


def test_all_that_goes_together(smallest: str) -> None:
    text = smallest.replace("[adapter]\n", f"[full]\n{BF16}{FULL.removeprefix('[full]')}")
    text += 'kind = "adafactor"\nclip = 0\nfused_backward = true\n[training]\nprecision = "bf16"\n'
    assert parse_recipe(text).optimizer.fused_backward


def test_options_come_back_as_they_were(smallest: str) -> None:
    options = 'd_coef = 2.0\nslice_p = 11\nbetas = [0.9, 0.99]\nsafe = true\n"odd key" = "a \\"b\\""\n'
    recipe = parse_recipe(
        f'{smallest}[optimizer]\nkind = "prodigyopt.Prodigy"\n[optimizer.options]\n{options}'
    )
    assert recipe.optimizer.options == {
        "d_coef": 2.0, "slice_p": 11, "betas": [0.9, 0.99], "safe": True, "odd key": 'a "b"',
    }  # fmt: skip
    assert parse_recipe(dump_recipe(recipe)) == recipe
    changed = parse_recipe(dump_recipe(recipe), sets=["optimizer.options.d_coef=0.5"])
    assert changed.optimizer.options["d_coef"] == 0.5
