from __future__ import annotations

from collections.abc import Callable

import pytest

from velatura.recipe.aliases import ELSEWHERE
from velatura.recipe.errors import nearest
from velatura.recipe.problems import InvalidRecipe
from velatura.recipe.recipe import Recipe
from velatura.recipe.schema import variants
from velatura.recipe.toml import parse_recipe

Refusal = Callable[..., str]


@pytest.mark.parametrize(
    ("added", "place", "what", "hint"),
    [
        ("[optimizer]\nlearning_rat = 1.0", "line 8: [optimizer] learning_rat", "unknown key", "did you mean learning_rate?"),
        ("[optimizer]\nlr = 1.0", "line 8: [optimizer] lr", "unknown key", "did you mean learning_rate?"),
        ("[training]\nlearning_rate = 1.0", "line 8: [training] learning_rate", "unknown key", "belongs in [optimizer]"),
        ("[training]\nnetwork_dim = 1", "line 8: [training] network_dim", "unknown key", "rank, in [adapter]"),
        ("[training]\nseed = 1", "line 8: [training] seed", "unknown key", "belongs at the top level"),
        ("[objective]\nnoise_offset = 0.1", "[objective] noise_offset", "unknown key", 'kind = "diffusion"'),
        ("[optimiser]\nclip = 1.0", "line 7: optimiser", "unknown key", "did you mean optimizer?"),
        ("[training]\nxyzzy = 1", "[training] xyzzy", "unknown key", "known here: steps, batch_size"),
        ("[training]\nsteps = 'many'", "[training] steps", 'the text "many"; allowed: an integer, at least 1', ""),
        ("[training]\nsteps = 0", "[training] steps", "the integer 0; allowed: an integer, at least 1", ""),
        ("[training]\nsteps = 1.0", "[training] steps", "the number 1.0; allowed: an integer", ""),
        ("[training]\nsteps = true", "[training] steps", "received true; allowed: an integer", ""),
        ("[optimizer]\nlearning_rate = -1.0", "learning_rate", "the number -1.0; allowed: a number, more than 0", ""),
        ("[optimizer]\nlearning_rate = nan", "learning_rate", "the number nan; allowed: a number, more than 0, at most 1000, and finite", ""),
        ("[optimizer]\nlearning_rate = inf", "learning_rate", "the number inf; allowed: a number, more than 0, at most 1000, and finite", ""),
        ("[optimizer]\nbetas = [0.9, nan]", "[optimizer] betas[1]", "the number nan; allowed: a number, at least 0, less than 1, and finite", ""),
        ("[objective]\nshift = inf", "[objective] shift", "the number inf; allowed: a number, more than 0, and finite", ""),
        ("[optimizer]\nbetas = [0.9]", "[optimizer] betas", "allowed: a list of numbers (each at least 0, less than 1), exactly 2", ""),
        ("[optimizer]\nbetas = [0.9, 1.5]", "[optimizer] betas[1]", "the number 1.5; allowed: a number, at least 0", ""),
        ("[optimizer]\nschedule = 'cosin'", "schedule", 'allowed: "constant", "linear", "cosine"', 'did you mean "cosine"?'),
        ("[training]\ncompile = 'yes'", "[training] compile", 'allowed: "auto", or true or false', ""),
        ("[training]\ndevice = 'gpu'", "[training] device", "allowed: text, matching", ""),
        ("[objective]\nkind = 'flo'", "[objective] kind", 'allowed: "flow", "diffusion" or "autoencoder"', 'mean "flow"?'),
        ("[previews]\nprompts = ['a', 3]", "line 8: [previews] prompts[1]", "the integer 3; allowed: text", ""),
        ("[previews]\nprompts = ['a', 'b --x 1']", "line 8: [previews] prompts[1]", "unknown option --x; allowed: --w (width)", ""),
        ("[previews]\nprompts = ['a --s many']", "[previews] prompts[0]", "--s wants an integer, received 'many'", ""),
        ("[previews]\nprompts = ['a --s 0']", "[previews] prompts[0]", "steps must be 1 to 1000, received 0", ""),
        ("[previews]\nprompts = ['a --d -1']", "[previews] prompts[0]", "seed must be 0 to 2^63 - 1, received -1", ""),
        ("[previews]\nprompts = ['a --l nan']", "[previews] prompts[0]", "cfg must be 0 or more, received nan", ""),
        ("[previews]\nsteps = 1001", "line 8: [previews] steps", "the integer 1001; allowed: an integer, at least 1, at most 1000", ""),
        ("[previews]\ncfg = inf", "line 8: [previews] cfg", "received the number inf; allowed: a number, at least 0, and finite", ""),
        ("[previews]\nsize = 1000000000", "[previews] size", "allowed: an integer, at least 16, at most 16384", ""),
        ("[training]\nbatch_size = 1000000000000", "[training] batch_size", "allowed: an integer, at least 1, at most 65536", ""),
        ("[training]\naccumulate = 1000000000000", "[training] accumulate", "allowed: an integer, at least 1, at most 65536", ""),
        ("[training]\nbatch_tokens = 1000000000000", "[training] batch_tokens", "at least 1, at most 16777216", ""),
        ("[[training]]\nsteps = 3", "[training]", "there is only one: write [training] with one bracket", ""),
        ("[full]", "[adapter]", "received both of [adapter] and [full]", ""),
        ("[objective]\nkind = 'diffusion'", "[objective] kind", 'the family flux allows "flow"', ""),
        ("[objective]\nkind = 'autoencoder'", "[objective] kind", 'does not train "denoiser"', 'parts = ["autoencoder"]'),
        ("[training]\nbatch_size = 4\nbatch_tokens = 512", "[training] batch_tokens", "received 512 with batch_size = 4: one of them", ""),
        ("[ema]\nstrength = 0.1\ndecay = 0.9", "[ema] strength", "received 0.1 with decay = 0.9: one of them", ""),
        ("[ema]\nevery = 1001", "[ema] every", "training.steps = 1000: no update would be made", ""),
        ("[training]\nattention = 'sage'", "[training] attention", "has no backward pass", "velatura generate --attention sage"),
        ("[validation]\nshare = 0.1\nfolder = 'x'", "[validation] share", "received 0.1 with folder = \"x\"", ""),
    ],
)  # fmt: skip
def test_one_mistake(smallest: str, refusal: Refusal, added: str, place: str, what: str, hint: str) -> None:
    message = refusal(f"{smallest}{added}\n")
    assert message.startswith("x.toml has 1 mistake\n")
    for part in (place, what, hint):
        assert part in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('name = "a"\n', "", "name\n    the key name is missing; allowed: text"),
        ("[[data]]", "[data]", "write [[data]] with two brackets"),
        ('[[data]]\nfolder = "photos"\n', "", "the section [[data]] is missing"),
        ('[[data]]\nfolder = "photos"\n', "data = []\n", "[model] data"),
        ('folder = "photos"\n', "", "[[data]] number 1, folder\n    the key folder is missing"),
        ('folder = "photos"\n', "folder = 3\n", "line 5: [[data]] number 1, folder\n    received the integer 3"),
        ('folder = "photos"\n', 'folder = "a"\nresolution = "big"\n', "resolution\n    received the text \"big\""),
        ('folder = "photos"\n', 'folder = "a"\nresolution = [8]\n', "resolution[0]\n    received the integer 8"),
        ('[model]\nmodel = "pocket/flux"\n', "", "the section [model] is missing"),
        ('model = "pocket/flux"', 'family = "fluxx"', '[model] family\n    received the text "fluxx"; allowed: "flux" or "sd1"\n    did you mean "flux"?'),
        ('model = "pocket/flux"', 'family = "flux"', 'no source for "autoencoder", "denoiser" and "text_encoders"'),
        ('model = "pocket/flux"', 'model = "org/name"', 'family is missing, and model = "org/name" does not tell it'),
        ('model = "pocket/flux"', 'model = "pocket/sd3"', 'received "pocket/sd3"; allowed: "pocket/flux"'),
        ('model = "pocket/flux"', 'model = "pocket/flux"\nvae = "x"', "[model] vae\n    unknown key\n    did you mean autoencoder?"),
        ('model = "pocket/flux"', 'model = ""\nfamily = "flux"', "allowed: text, not empty"),
        ("[adapter]", "", "received neither of [adapter] and [full]"),
        ("[adapter]", "[adapter]\ntargets = []", "targets\n    received the list []; allowed: a list of texts, at least 1 of them, or text, not empty"),
        ("[adapter]", "[adapter]\nalpha = inf", "alpha\n    received the number inf; allowed: a number, more than 0, and finite"),
        ('folder = "photos"\n', 'folder = "a"\nweight = inf\n', "weight\n    received the number inf; allowed: a number, "),
        ("[adapter]", "adapter = 3", "number 1, adapter"),
        ("[adapter]", '[full]\nparts = ["autoencoder", "denoiser"]', "does not train the autoencoder"),
        ("[adapter]", '[full]\nparts = ["autoencoder"]\n[previews]\nprompts = ["a"]', "trained by itself paints from none"),
    ],
)  # fmt: skip
def test_changed_recipes(smallest: str, refusal: Refusal, old: str, new: str, expected: str) -> None:
    assert old in smallest
    assert expected in refusal(smallest.replace(old, new))


@pytest.mark.parametrize(
    ("keys", "place", "what"),
    [
        ('folder = "x"\nresolution = "big"', "line 9: [[data]] number 2, resolution", 'received the text "big"; allowed: an integer'),
        ('file = "x.csv"\nresolution = [8]', "line 9: [[data]] number 2, resolution[0]", "received the integer 8; allowed: an integer, at least 16"),
        ('kind = "tabel"\nfile = "x.csv"', "line 8: [[data]] number 2, kind", 'did you mean "table"?'),
        ("kind = 3", "line 8: [[data]] number 2, kind", 'received the integer 3; allowed: "folder", "table"'),
        ('kind = "table"', "line 7: [[data]] number 2, file", "the key file is missing; allowed: text, not empty"),
        ('folder = "x"\nimage_column = "y"', "[[data]] number 2, image_column", 'image_column belongs to [[data]] kind = "table"'),
        ('file = "x.csv"\nrecursive = true', "[[data]] number 2, recursive", 'recursive belongs to [[data]] kind = "folder"'),
        ('folder = "x"\nimage_colum = "y"', "[[data]] number 2, image_colum", 'did you mean image_column, of [[data]] kind = "table"'),
        ('folder = "x"\nfoldr = "y"', "[[data]] number 2, foldr", "did you mean folder?"),
        ('folder = "x"\nshuffle_caption = true', "[[data]] number 2, shuffle_caption", "did you mean shuffle_tags?"),
        ('folder = "x"\nmetadata_file = "y"', "[[data]] number 2, metadata_file", 'did you mean file, of [[data]] kind = "table"'),
        ('folder = "x"\nvalidation_split = 0.1', "[[data]] number 2, validation_split", "did you mean validation_share?"),
        ('folder = ""', "[[data]] number 2, folder", 'received the text ""; allowed: text, not empty'),
    ],
)  # fmt: skip
def test_a_mistake_in_one_of_several_kinds(
    smallest: str, refusal: Refusal, keys: str, place: str, what: str
) -> None:
    message = refusal(smallest.replace("[adapter]", f"[adapter]\n[[data]]\n{keys}"))
    assert place in message
    assert what in message


def test_a_table_that_is_no_table(smallest: str, refusal: Refusal) -> None:
    message = refusal(
        smallest.replace('[[data]]\nfolder = "photos"\n', "").replace('name = "a"', 'name = "a"\ndata = [3]')
    )
    assert "[[data]] number 1" in message
    assert "received the integer 3" in message


def test_a_section_that_a_text_may_stand_for_says_so(smallest: str, refusal: Refusal) -> None:
    message = refusal(f"memory = 24\n{smallest}")
    assert 'allowed: a section that begins with [memory], or a text such as "24GiB"' in message


def test_a_key_of_every_kind_names_the_section_alone(smallest: str, refusal: Refusal) -> None:
    assert "bucket_step belongs in [[data]]\n" in refusal(f"{smallest}[training]\nbucket_step = 64\n") + "\n"


def test_all_mistakes_come_at_once_in_the_files_order() -> None:
    text = (
        'nam = "x"\n[data]\nfolder = "x"\n[training]\nsteps = "1"\nstep = 2\n[model]\nmodel = "pocket/flux"\n'
    )
    with pytest.raises(InvalidRecipe) as caught:
        parse_recipe(text, "x.toml")
    assert [problem.path for problem in caught.value.problems] == [
        ("name",), ("nam",), ("data",), ("training", "steps"), ("training", "step"),
    ]  # fmt: skip
    record = caught.value.record()
    assert record[3] == {
        "place": "[training] steps",
        "where": "line 5",
        "what": 'received the text "1"; allowed: an integer, at least 1',
        "hint": "",
    }


def test_messages_with_long_values_stay_short(smallest: str, refusal: Refusal) -> None:
    message = refusal(f'{smallest}[training]\nsteps = "{"x" * 5000}"\n')
    assert len(message) < 400


def test_nearest() -> None:
    assert nearest("batchsize", ["steps", "batch_size"]) == "batch_size"
    assert nearest("LR", ["learning_rate"]) == "learning_rate"
    assert nearest("qqq", ["steps", "batch_size"]) is None


def test_aliases_lead_to_keys_that_exist() -> None:
    keys = set(Recipe.model_fields).union(*(variant.section.model_fields for variant in variants(Recipe)))
    assert set(ELSEWHERE.values()) <= keys
    assert all(name == name.lower() for name in ELSEWHERE)
