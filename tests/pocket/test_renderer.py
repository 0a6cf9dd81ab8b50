from __future__ import annotations

import math

import numpy as np
import pytest

from velatura.errors import DataError
from velatura.pocket.camera import DISTANCE, FOCAL, PITCH, TARGET, on_table, project_point
from velatura.pocket.layout import sample_scene
from velatura.pocket.renderer import draw, measure, render
from velatura.pocket.scenes import COLOURS, LIGHTS, MATERIALS, SHAPES, Scene, Solid, edit


def alone(shape: str, x: float = 0.0, z: float = 0.0, material: str = "matte", light: str = "noon") -> Scene:
    return Scene(
        solids=(Solid(shape=shape, colour="red", size="large", material=material, x=x, z=z),), light=light
    )


def test_shapes_types_and_determinism() -> None:
    scene = sample_scene(np.random.default_rng(0), 2)
    one, two = render(scene, 48), render(scene, 48)
    assert (one.image.shape, one.image.dtype) == ((48, 48, 3), np.uint8)
    assert (one.depth.shape, one.depth.dtype) == ((48, 48), np.float32)
    assert (one.normals.shape, one.normals.dtype) == ((48, 48, 3), np.float32)
    assert (one.masks.shape, one.masks.dtype) == ((2, 48, 48), np.bool_)
    assert (one.edges.shape, one.edges.dtype) == ((48, 48), np.bool_)
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.depth, two.depth)


def test_depth_of_a_sphere_by_hand() -> None:
    # The middle ray meets y = 0.5, the height of a large sphere's centre, at z = (0.36 - 0.5) / tan(pitch).
    z = (TARGET[1] - 0.5) / math.tan(PITCH)
    truth = measure(alone("sphere", z=z), 97)  # odd: a pixel centre lies on the axis
    to_centre = DISTANCE + z / math.cos(PITCH)
    assert truth.depth[48, 48] == pytest.approx(to_centre - 0.5, abs=1e-4)
    assert truth.normals[48, 48] == pytest.approx([0, 0, 1], abs=1e-3)
    radius = FOCAL * 97 * math.tan(math.asin(0.5 / to_centre))
    assert truth.masks[0].sum() == pytest.approx(math.pi * radius**2, rel=0.02)


def test_depth_of_the_empty_table_by_hand() -> None:
    truth = measure(Scene(solids=(), light="noon"), 97)
    assert truth.depth[48, 48] == pytest.approx(DISTANCE + TARGET[1] / math.sin(PITCH), abs=1e-4)
    # The table's normal leans to the viewer: (0, cos pitch, sin pitch) in the camera frame.
    assert truth.normals[60, 20] == pytest.approx([0, math.cos(PITCH), math.sin(PITCH)], abs=1e-5)
    assert truth.masks.shape == (0, 97, 97)


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_agree_with_depth(shape: str) -> None:
    size = 192
    truth = measure(alone(shape, x=0.2, z=-0.3), size)
    assert np.allclose(np.linalg.norm(truth.normals, axis=-1), 1, atol=1e-4)
    assert truth.normals[truth.masks[0]][:, 2].min() > -0.05  # what is seen faces the viewer
    grid = ((np.arange(size) + 0.5) / size - 0.5) / FOCAL
    points = np.stack([grid[None, :] * truth.depth, -grid[:, None] * truth.depth, -truth.depth], axis=-1)
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    normals = np.cross(down, across)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    cosine = (normals * truth.normals[1:-1, 1:-1]).sum(-1)[truth.masks[0][1:-1, 1:-1]]
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    assert np.median(angles) < 1
    assert np.mean(angles < 10) > 0.80  # the rest are rims and creases


def test_masks_are_disjoint_and_edges_surround_them() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        truth = measure(sample_scene(rng, 3))
        assert truth.masks.sum(0).max() == 1
        assert (truth.masks.sum((1, 2)) > 100).all()
        for mask in truth.masks:
            leaves = mask[:, :-1] & ~mask[:, 1:]
            assert truth.edges[:, :-1][leaves].all()


def test_a_nearer_solid_hides_a_farther_one() -> None:
    front = Solid(shape="cube", colour="red", size="large", material="matte", x=0.0, z=-1.0)
    back = Solid(shape="sphere", colour="blue", size="large", material="matte", x=0.01, z=0.4)
    truth = measure(Scene(solids=(front, back), light="noon"))
    only_back = measure(Scene(solids=(back,), light="noon")).masks[0]
    assert truth.masks[1].sum() < only_back.sum()
    assert (truth.masks[0] & only_back).any()


def test_projection_by_hand_and_back() -> None:
    assert project_point(*TARGET) == pytest.approx((0.5, 0.5))
    column, row = project_point(0.7, 0.0, -0.4)
    assert on_table(column * 96, row * 96, 96) == pytest.approx((0.7, -0.4), abs=1e-5)


def test_lights_differ_in_brightness_and_warmth() -> None:
    means = {light: draw(Scene(solids=(), light=light)).mean((0, 1)) for light in LIGHTS}
    assert means["noon"].mean() > means["dusk"].mean() > means["night"].mean()
    assert means["dusk"][0] > 1.2 * means["dusk"][2]
    assert means["night"][2] > means["night"][0]


def test_dusk_shadows_are_longer() -> None:
    def shadow(light: str) -> int:
        with_it, without = draw(alone("cylinder", light=light)), draw(Scene(solids=(), light=light))
        darker = (without.astype(int) - with_it).mean(-1) > 12
        return int((darker & ~measure(alone("cylinder")).masks[0]).sum())

    assert shadow("dusk") > 1.5 * shadow("noon")


def test_materials_look_different() -> None:
    mask = measure(alone("sphere")).masks[0]
    looks = {material: draw(alone("sphere", material=material))[mask].mean(-1) for material in MATERIALS}
    assert looks["glossy"].max() > looks["matte"].max() + 40  # the highlight
    assert looks["striped"].std() > 1.5 * looks["matte"].std()  # the bands


@pytest.mark.parametrize("light", LIGHTS)
def test_colours_are_far_apart_under_every_light(light: str) -> None:
    scene = alone("sphere", light=light)
    mask = measure(scene).masks[0]
    painted = [scene, *(edit(scene, 0, colour=colour) for colour in COLOURS if colour != "red")]
    means = [draw(one)[mask].mean(0) for one in painted]
    distances = [np.abs(a - b).max() for i, a in enumerate(means) for b in means[:i]]
    assert min(distances) > 20


def test_an_edit_leaves_the_rest_of_the_picture() -> None:
    scene = sample_scene(np.random.default_rng(8), 2)
    other = "blue" if scene.solids[0].colour != "blue" else "red"
    before, after = render(scene), render(edit(scene, 0, colour=other))
    changed = (before.image != after.image).any(-1)
    assert changed[before.masks[0]].mean() > 0.9
    # Shadows do not change with the colour: what changed is the solid and its anti-aliased rim.
    rim = before.masks[0].copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        rim |= np.roll(before.masks[0], step, axis)
    assert not changed[~(rim | np.roll(rim, 1, 0) | np.roll(rim, -1, 0))].any()
    assert np.array_equal(before.depth, after.depth)


def test_too_small_a_picture_is_refused() -> None:
    with pytest.raises(DataError, match="at least 16"):
        render(alone("cube"), 8)
