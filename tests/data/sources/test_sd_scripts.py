from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from velatura.data.batching.plan import lay_out
from velatura.data.items import Scan
from velatura.data.scanning.scan import scan
from velatura.data.sources.record import Expansion
from velatura.data.sources.sd_scripts import expand_sd_scripts
from velatura.data.text.captions import Caption
from velatura.data.text.wording import Wording, text_of
from velatura.errors import DataError
from velatura.events import Events, Notice
from velatura.recipe.data.sources.sd_scripts import SdScriptsData
from velatura.recipe.data.sources.table import TableData

SUBSET = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "img"\n'


@pytest.fixture
def paint(tmp_path: Path) -> Callable[..., None]:
    """Write pictures of noise, each with a caption where one is given."""

    def write(
        *names: str, size: tuple[int, int] = (64, 64), caption: str | None = None, mode: str = "RGB"
    ) -> None:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            seed = sum(map(ord, name))
            shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
            pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels, mode).save(path)
            if caption is not None:
                path.with_suffix(".caption").write_text(caption, encoding="utf-8")

    return write


@pytest.fixture
def expand(tmp_path: Path) -> Callable[..., Expansion]:
    """Expand a dataset file given as text; keyword arguments are keys of the recipe's table."""

    def expanded(text: str, *, name: str = "ds.toml", **keys: Any) -> Expansion:
        (tmp_path / name).write_text(text, encoding="utf-8")
        for folder in ("img", "reg", "cond"):
            (tmp_path / folder).mkdir(exist_ok=True)
        return expand_sd_scripts(SdScriptsData(file=name, **keys), tmp_path)

    return expanded


@pytest.fixture
def refusal(expand: Callable[..., Expansion]) -> Callable[..., str]:
    def refused(text: str, **keys: Any) -> str:
        with pytest.raises(DataError) as caught:
            expand(text, **keys)
        return str(caught.value)

    return refused


def scanned(base: Path, **keys: Any) -> tuple[Scan, list[str]]:
    notices: list[str] = []
    events = Events(lambda event: notices.append(event.message) if isinstance(event, Notice) else None)
    return scan([SdScriptsData(**keys)], base, events), notices


def test_every_key_becomes_one_of_ours(expand: Any) -> None:
    text = """
    [general]
    resolution = 768
    batch_size = 3
    enable_bucket = true
    min_bucket_reso = 320
    max_bucket_reso = 1536
    bucket_reso_steps = 64
    validation_split = 0.1
    validation_seed = 7
    resize_interpolation = "cubic"
    num_repeats = 5
    caption_extension = "tags"
    class_tokens = "a dog"
    caption_prefix = "photo of"
    caption_suffix = "at noon"
    caption_separator = ";"
    shuffle_caption = true
    keep_tokens = 2
    keep_tokens_separator = "|||"
    secondary_separator = "@"
    enable_wildcard = true
    caption_dropout_rate = 0.1
    caption_dropout_every_n_epochs = 4
    caption_tag_dropout_rate = 0.2
    token_warmup_min = 3
    token_warmup_step = 0.5
    color_aug = true
    flip_aug = true
    random_crop = true
    [[datasets]]
    [[datasets.subsets]]
    image_dir = "img"
    alpha_mask = true
    """
    (table,) = expand(text).sections
    values = table.model_dump(exclude_defaults=True)
    assert values == {
        "folder": "img", "caption": "a dog", "caption_extension": ".tags", "caption_lines": "first",
        "dataset": "ds.toml, [[datasets]] 1", "resolution": 768, "batch_size": 3, "bucket_min": 320, "bucket_max": 1536,
        "bucket_step": 64, "validation_share": 0.1, "validation_seed": 7, "resize": "bicubic", "repeats": 5,
        "caption_prefix": "photo of", "caption_suffix": "at noon", "tag_separator": ";", "shuffle_tags": True,
        "keep_tags": 2, "keep_tags_separator": "|||", "secondary_separator": "@", "wildcards": True,
        "caption_dropout": 0.1, "caption_dropout_every": 4, "tag_dropout": 0.2, "tag_warmup_min": 3,
        "tag_warmup_steps": 0.5, "colour": 0.33, "flip": 0.5, "crop": "random", "alpha": "mask",
    }  # fmt: skip


def test_defaults_are_those_of_sd_scripts(expand: Any) -> None:
    text = SUBSET.replace("[[datasets]]", "[[datasets]]\nresolution = 512", 1)
    (table,) = expand(text).sections
    assert table.caption_extension == ".caption"
    assert (table.buckets, table.resolution, table.repeats, table.flip) == (False, 512, 1, 0)
    (table,) = expand(text.replace("512", "512\nenable_bucket = true")).sections
    assert (table.bucket_min, table.bucket_max, table.bucket_step) == (256, 1024, 64)


def test_the_nearest_level_counts_and_false_is_a_value(expand: Any) -> None:
    text = """
    [general]
    resolution = 512
    flip_aug = true
    keep_tokens = 3
    num_repeats = 2
    [[datasets]]
    keep_tokens = 0
    num_repeats = 4
    [[datasets.subsets]]
    image_dir = "img"
    flip_aug = false
    num_repeats = 6
    [[datasets.subsets]]
    image_dir = "reg"
    """
    one, two = expand(text, shuffle_tags=True, repeats=9).sections
    assert (one.flip, one.keep_tags, one.repeats, one.shuffle_tags) == (0.0, 0, 6, True)
    assert (two.flip, two.keep_tags, two.repeats, two.shuffle_tags) == (0.5, 0, 4, True)


def test_what_the_recipe_says_counts_where_the_file_is_silent(expand: Any) -> None:
    keys = {"resolution": [256, 512], "buckets": True, "bucket_max": 2048, "trigger": "ohwx", "max_bad": 0.5}
    (table,) = expand(SUBSET, **keys, caption_extension=".txt", alpha="mask", compat="sd-scripts").sections
    assert (table.resolution, table.buckets, table.bucket_min, table.bucket_max) == (
        [256, 512],
        True,
        256,
        2048,
    )
    assert (table.trigger, table.max_bad, table.caption_extension) == ("ohwx", 0.5, ".txt")
    assert (table.alpha, table.compat) == ("mask", "sd-scripts")


def test_json_says_the_same(expand: Any) -> None:
    text = "[general]\nresolution = [832, 1216]\nenable_bucket = true\nmax_bucket_reso = 2000\n" + SUBSET
    in_toml = expand(text).sections[0]
    in_json = expand(json.dumps(tomllib.loads(text)), name="ds.json").sections[0]
    other = {"dataset"}
    assert in_json.model_dump(exclude=other) == in_toml.model_dump(exclude=other)
    assert in_toml.size == [832, 1216]
    assert in_toml.bucket_max == 2048  # raised to whole steps


def test_buckets_without_enlarging(expand: Any) -> None:
    text = "[general]\nresolution = 1280\nenable_bucket = true\nbucket_no_upscale = true\n" + SUBSET
    (table,) = expand(text).sections
    assert (table.upscale, table.bucket_min, table.bucket_max) == ("own size", None, None)
    (table,) = expand(text.replace("enable_bucket = true", "enable_bucket = false")).sections
    assert (table.upscale, table.buckets) == (True, False)


def test_paths_start_at_the_file_or_where_the_recipe_says(tmp_path: Path, expand: Any) -> None:
    (tmp_path / "sets").mkdir()
    text = "[general]\nresolution = 64\n" + SUBSET.replace("img", "../img")
    (table,) = expand(text, name="sets/ds.toml").sections
    assert table.folder == "sets/../img"
    (table,) = expand(text.replace("../img", "img"), name="sets/ds.toml", folder=".").sections
    assert table.folder == "img"
    (table,) = expand(text.replace("../img", f"{tmp_path}/img"), name="sets/ds.toml").sections
    assert table.folder == f"{tmp_path}/img"


def test_regularisation_images(expand: Any) -> None:
    text = (
        "[general]\nresolution = 64\n" + SUBSET + '[[datasets.subsets]]\nimage_dir = "reg"\nis_reg = true\n'
    )
    plain, classes = expand(text, prior_loss_weight=0.25, weight=2.0).sections
    assert (plain.regularisation, plain.weight) == (False, 2.0)
    assert (classes.regularisation, classes.weight) == (True, 0.5)
    assert plain.dataset == classes.dataset


def test_conditioning_images_are_controls_or_masks(expand: Any) -> None:
    text = "[general]\nresolution = 64\n" + SUBSET + 'conditioning_data_dir = "cond"\n'
    (table,) = expand(text).sections
    assert (table.controls, table.masks) == ("cond", None)
    (table,) = expand(text, masked_loss=True).sections
    assert (table.controls, table.masks) == (None, "cond")


def test_duplicates_and_no_repeats_are_said(expand: Any) -> None:
    text = "[general]\nresolution = 64\n" + SUBSET
    text += (
        '[[datasets.subsets]]\nimage_dir = "img"\n[[datasets.subsets]]\nimage_dir = "reg"\nnum_repeats = 0\n'
    )
    found = expand(text + SUBSET)
    assert [table.dataset[-1] for table in found.sections] == ["1", "2"]  # once in each dataset
    first = "[[datasets]] 1, [[subsets]] 1"
    assert found.notices == (
        f"'ds.toml', [[datasets]] 1, [[subsets]] 2 names the same images as {first} and is left out.",
        "'ds.toml', [[datasets]] 1, [[subsets]] 3 has num_repeats = 0 and is left out.",
    )


def test_keys_without_effect_are_said(expand: Any) -> None:
    text = (
        "[general]\nresolution = 64\ncache_info = true\nnetwork_multiplier = 1\ncustom_attributes = {x = 1}\n"
    )
    notices = expand(text + SUBSET + SUBSET).notices
    assert len(notices) == 3
    assert all("has no effect" in notice for notice in notices)


def test_every_mistake_with_its_place(refusal: Any) -> None:
    text = """[general]
resolution = 64.0
alpha_mask = true
[[datasets]]
bucket_reso_step = 32
[[datasets.subsets]]
image_dir = "img"
[[datasets]]
[[datasets.subsets]]
image_dir = "img"
flip_aug = "yes"
resolution = 512
interpolation_type = "area"
resize_interpolation = "lanczo"
"""
    message = refusal(text)
    for lines in (
        "dataset file 'ds.toml' has 7 mistakes\n  line 2: [general], resolution\n    received the number 64.0; allowed: ",
        "line 3: [general], alpha_mask\n    unknown key\n    alpha_mask belongs in [[datasets.subsets]]",
        "line 5: [[datasets]] 1, bucket_reso_step\n    unknown key\n    did you mean bucket_reso_steps?",
        '[[datasets]] 2, [[subsets]] 1, flip_aug\n    received the text "yes"; allowed: true or false',
        "[[subsets]] 1, resolution\n    unknown key\n    resolution belongs in [general] or [[datasets]]",
        "[[subsets]] 1, interpolation_type\n    unknown key\n    did you mean resize_interpolation?",
        '[[subsets]] 1, resize_interpolation\n    received the text "lanczo"; allowed: "lanczos", ',
    ):
        assert lines in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("validation_seed = 1", "validation_seed belongs in [general] or [[datasets]]"),
        ("", "at least one [[datasets]] is needed"),
        ("[[datasets]]\nresolution = 64", "at least one [[datasets.subsets]] is needed"),
        (SUBSET, "no resolution"),
        (
            "[general]\nresolution = 1280\nenable_bucket = true\n" + SUBSET,
            "max_bucket_reso\n    received none, and the default is 1024, with resolution = 1280",
        ),
        (
            "[general]\nresolution = 128\nenable_bucket = true\n" + SUBSET,
            "min_bucket_reso\n    received none, and the default is 256, with resolution = 128",
        ),
        (
            "[general]\nresolution = 128\nenable_bucket = true\nmin_bucket_reso = 256\n" + SUBSET,
            "received 256 with resolution = 128; allowed: at most 128",
        ),
        ("[general]\nresolution = [200, 300]\nenable_bucket = true\n" + SUBSET, "allowed: at most 200"),
        (
            "[general]\nresolution = 64\n" + SUBSET + '[[datasets.subsets]]\nmetadata_file = "m.json"',
            "several styles",
        ),
        (
            SUBSET + '[[datasets.subsets]]\nimage_dir = "reg"\nconditioning_data_dir = "cond"',
            "several styles",
        ),
        (SUBSET + 'conditioning_data_dir = "cond"\nis_reg = true', "does not go with the controlnet style"),
        (SUBSET + f"num_repeats = {10**12}", "allowed: an integer, at most 1000000000"),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 2", "the key image_dir is missing"),
        ("[general]\nresolution = 64\n" + SUBSET + "is_reg = true", "only regularisation images"),
        (
            "[general]\nresolution = 64\n" + SUBSET + "face_crop_aug_range = [1.0, 2.0]",
            "faces are not supported",
        ),
        (
            "[general]\nresolution = 64\ncustom_attributes = {diff_output_preservation = true}\n" + SUBSET,
            "diff_output_preservation is not supported",
        ),
        ("[general]\nresolution = 64\n" + SUBSET.replace("img", "imgs"), "image_dir\n    no such folder"),
        ("[general]\nresolution = 64\n" + SUBSET.replace("img", "ds.toml"), "is there, and no folder"),
        ("[general]\nresolution = 64\n" + SUBSET + "num_repeats = 0", "no subset is left"),
        ("[general]\ncaption_dropout_rate = 1.5\n" + SUBSET, "allowed: a number, at least 0, at most 1"),
        ("[general\n", "not valid TOML"),
    ],
)
def test_refused(text: str, message: str, refusal: Any) -> None:
    assert message in refusal(text)


def test_files_that_are_none(tmp_path: Path, refusal: Any) -> None:
    assert "allowed: .toml, .json" in refusal("", name="ds.yaml")
    assert "line 1, column 2: not JSON" in refusal("{,}", name="ds.json")
    with pytest.raises(DataError, match="does not exist"):
        expand_sd_scripts(SdScriptsData(file="no.toml"), tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"')
    with pytest.raises(DataError, match="not UTF-8 text \\(byte 5\\)"):
        expand_sd_scripts(SdScriptsData(file="latin.toml"), tmp_path)


def test_whole_numbers_are_numbers(expand: Any) -> None:
    """sd-scripts takes 1.0 here and refuses 1."""
    text = "[general]\nresolution = 64\nvalidation_split = 1\nnetwork_multiplier = 1\n" + SUBSET
    assert expand(text).sections[0].validation_share == 1


def test_dreambooth_images_and_captions(tmp_path: Path, paint: Any) -> None:
    paint("img/a.png", caption="a dog, brown\nsecond line")
    paint("img/b.png", caption="")
    paint("img/c.png", "img/sub/d.png")
    (tmp_path / "ds.toml").write_text("[general]\nresolution = 64\n" + SUBSET + 'class_tokens = "ohwx dog"\n')
    found, notices = scanned(tmp_path, file="ds.toml")
    texts = {item.name: text_of(item.caption, item.treatment.wording) for item in found.items}
    assert texts == {"img/a.png": "a dog, brown", "img/b.png": "", "img/c.png": "ohwx dog"}
    assert any("several lines and only the first is used: img/a.png" in notice for notice in notices)
    (tmp_path / "ds.toml").write_text("[general]\nresolution = 64\nenable_wildcard = true\n" + SUBSET)
    found, notices = scanned(tmp_path, file="ds.toml")
    assert found.items[0].caption.text == "a dog, brown\nsecond line"
    chance = np.random.default_rng(0)
    used = {text_of(found.items[0].caption, found.items[0].treatment.wording, chance) for _ in range(20)}
    assert used == {"a dog, brown", "second line"}


def test_one_dataset_per_resolution(tmp_path: Path, paint: Any, log: Any) -> None:
    paint("img/a.png", size=(300, 200))
    paint("reg/r.png", "reg/s.png", size=(200, 200))
    dataset = '[[datasets]]\nresolution = {}\nbatch_size = {}\n[[datasets.subsets]]\nimage_dir = "img"\nnum_repeats = 4\n'
    dataset += '[[datasets.subsets]]\nimage_dir = "reg"\nis_reg = true\n'
    text = (
        "[general]\nenable_bucket = true\nmax_bucket_reso = 2048\n"
        + dataset.format(512, 4)
        + dataset.format(1024, 1)
    )
    (tmp_path / "ds.toml").write_text(text)
    found, _ = scanned(tmp_path, file="ds.toml")
    entries = lay_out(found.items, found.sections, size_step=16, events=log.events).entries
    uses = [(e.item.name, e.bucket, e.batch_size) for e in entries]
    one = (
        [("img/a.png", (640, 384), 4)] * 4
        + [("reg/r.png", (512, 512), 4)] * 2
        + [("reg/s.png", (512, 512), 4)] * 2
    )
    assert uses[:8] == one
    assert uses[8] == ("img/a.png", (1216, 832), 1)
    assert [use[2] for use in uses].count(1) == 8


def test_fine_tuning_metadata(tmp_path: Path, paint: Any) -> None:
    paint("img/a.png", "img/b.png", "img/c.png")
    metadata = {
        "a.png": {"caption": "a dog", "tags": "brown, small", "image_size": [64, 64]},
        "b.png": {"tags": "black"},
        "c.png": {"caption": "a cat"},
    }
    (tmp_path / "meta.json").write_text(json.dumps(metadata))
    text = '[general]\nresolution = 64\ncaption_prefix = "photo of"\n[[datasets]]\n[[datasets.subsets]]\n'
    text += 'metadata_file = "meta.json"\nimage_dir = "img"\n'
    (tmp_path / "ds.toml").write_text(text)
    found, _ = scanned(tmp_path, file="ds.toml")
    texts = [text_of(item.caption, item.treatment.wording) for item in found.items]
    assert texts == ["photo of a dog, brown, small", "photo of black", "photo of a cat"]
    lines = [{"image_path": name, **entry} for name, entry in metadata.items() if "tags" not in entry]
    (tmp_path / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "ds.toml").write_text(text.replace("meta.json", "meta.jsonl"))
    found, _ = scanned(tmp_path, file="ds.toml")
    assert [(item.name, item.caption.text) for item in found.items] == [("img/c.png", "a cat")]


def test_metadata_with_paths_of_its_own(tmp_path: Path, paint: Any) -> None:
    paint("img/a.png")
    (tmp_path / "meta.json").write_text(json.dumps({f"{tmp_path}/img/a.png": {"caption": "x"}}))
    (tmp_path / "ds.toml").write_text(
        '[general]\nresolution = 64\n[[datasets]]\n[[datasets.subsets]]\nmetadata_file = "meta.json"\n'
    )
    with pytest.raises(DataError, match="outside = true"):
        scanned(tmp_path, file="ds.toml")
    found, _ = scanned(tmp_path, file="ds.toml", outside=True)
    assert found.items[0].caption.text == "x"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [("meta.csv", "a file that ends in .json or .jsonl"), ("no.json", "metadata_file\n    no such file")],
)
def test_metadata_that_is_none(metadata: str, message: str, refusal: Any) -> None:
    text = f'[general]\nresolution = 64\n[[datasets]]\n[[datasets.subsets]]\nmetadata_file = "{metadata}"\n'
    assert message in refusal(text)


def test_the_metadata_table(tmp_path: Path, expand: Any) -> None:
    (tmp_path / "meta.json").write_text('{"a.png": {"tags": "x"}}')
    text = "[general]\nresolution = 64\nclass_tokens = 'dog'\n[[datasets]]\n[[datasets.subsets]]\n"
    found = expand(text + "metadata_file = 'meta.json'\nalpha_mask = true\n", outside=True)
    (table,) = found.sections
    assert isinstance(table, TableData)
    assert (table.file, table.folder, table.outside, table.alpha) == ("meta.json", ".", True, "mask")
    assert "class_tokens for a metadata_file has no effect" in found.notices[0]


@pytest.mark.parametrize(
    ("entry", "caption"),
    [
        ('{"caption": "a dog", "tags": "red, big"}', "a dog, red, big"),
        ('{"tags": "red, big"}', "red, big"),
        ('{"caption": "a dog"}', "a dog"),
        ('{"train_resolution": [64, 64]}', ""),
    ],
)
def test_a_metadata_file_is_parsed_once(
    tmp_path: Path, paint: Any, monkeypatch: pytest.MonkeyPatch, entry: str, caption: str
) -> None:
    """Whatever columns its entries have."""
    from velatura.data.sources import table
    from velatura.data.tables.json_table import open_json

    paint("img/a.png", size=(80, 60))
    (tmp_path / "meta.json").write_text(f'{{"a.png": {entry}}}')
    text = "[general]\nresolution = 64\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'img'\n"
    (tmp_path / "ds.toml").write_text(text + "metadata_file = 'meta.json'\n")
    parsed: list[Path] = []
    monkeypatch.setitem(
        table._OPENERS, ".json", lambda path, title: (parsed.append(path), open_json(path, title))[1]
    )
    found, _ = scanned(tmp_path, file="ds.toml")
    assert [item.caption.text for item in found.items] == [caption]
    assert len(parsed) == 1


def test_masks_belong_to_their_images(tmp_path: Path, paint: Any) -> None:
    paint("img/a.png", "img/b.png", size=(80, 60))
    paint("cond/a.png", "cond/extra.png", size=(80, 60), mode="L")
    text = "[general]\nresolution = 64\n" + SUBSET + 'conditioning_data_dir = "cond"\n'
    (tmp_path / "ds.toml").write_text(text)
    found, notices = scanned(tmp_path, file="ds.toml", masked_loss=True, max_bad=0.5)
    assert [item.name for item in found.items] == ["img/a.png"]
    assert list(found.items[0].companions) == ["mask"]
    assert "img/b.png" in str(found.quarantined)
    assert any("extra" in notice for notice in notices)


def test_folders_without_a_file(tmp_path: Path, paint: Any) -> None:
    paint("train/10_ohwx dog/a.png", caption="")
    paint("train/2_a_b/b.png", "train/plain/c.png", "reg/1_dog/r.png")
    (tmp_path / "train/10_ohwx dog/a.caption").unlink()
    keys = {"train_folder": "train", "reg_folder": "reg", "resolution": 64, "prior_loss_weight": 0.5}
    found, notices = scanned(tmp_path, **keys)
    told = [(i.name, i.caption.text, i.treatment.repeats, i.treatment.weight) for i in found.items]
    assert told == [
        ("train/10_ohwx dog/a.png", "ohwx dog", 10, 1.0),
        ("train/2_a_b/b.png", "a_b", 2, 1.0),
        ("reg/1_dog/r.png", "dog", 1, 0.5),
    ]
    assert [i.treatment.regularisation for i in found.items] == [False, False, True]
    assert any("1 folders in 'train' are left out" in notice and "plain" in notice for notice in notices)
    with pytest.raises(DataError, match="no folder named <repeats>_<class tokens>"):
        expand_sd_scripts(SdScriptsData(train_folder="train/plain"), tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        expand_sd_scripts(SdScriptsData(train_folder="nothing"), tmp_path)


def test_one_kind_of_dataset() -> None:
    for keys in ({}, {"file": "a.toml", "train_folder": "b"}, {"file": "a.toml", "reg_folder": "b"}):
        with pytest.raises(ValueError, match="train_folder"):
            SdScriptsData(**keys)
    assert SdScriptsData.fits({"file": "a.TOML"})
    assert SdScriptsData.fits({"train_folder": "a"})
    assert not SdScriptsData.fits({"file": "a.json"})


def test_captions_as_measured_on_sd_scripts(expand: Any) -> None:
    """reference/kohya-train.md, 8.2."""
    text = '[general]\nresolution = 64\ncaption_separator = ";"\nkeep_tokens = 1\nsecondary_separator = "@"\n'
    text += 'caption_prefix = "pre,"\ncaption_suffix = ", suf"\n'
    wording = Wording.of(expand(text + SUBSET).sections[0])
    assert text_of(Caption(text="a;b;c@d;e"), wording) == "pre, a;b;c;d;e , suf"
    marked = '[general]\nresolution = 64\nshuffle_caption = true\nkeep_tokens_separator = "|||"\n'
    wording = Wording.of(expand(marked + SUBSET).sections[0])
    chance = np.random.default_rng(1)
    texts = {text_of(Caption(text="a, b ||| c, d ||| e, f"), wording, chance) for _ in range(20)}
    assert texts == {"a, b, c, d, e, f", "a, b, d, c, e, f"}
