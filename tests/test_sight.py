"""The judges of drawings: recipes/nano/sight.py reads what was drawn, and edges are as wide as they were drawn."""

import random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from recipes.nano.data import scene_example
from recipes.nano.edges import edge_width
from recipes.nano.scenes import SIDE, Kind, Scene, Thing, draw, sample_scene
from recipes.nano.sight import read_scene


def examples(split, count):
    for index in range(count):
        picture, record = scene_example(split, index, seed=3)
        yield picture, Scene.from_dict(record["scene"])


@pytest.mark.parametrize("split", ["train", "unseen"])
def test_real_scenes_are_read_right(split):
    """The bar is 99 in 100; 500 of other seeds were read without an error."""
    assert all(read_scene(picture) == scene for picture, scene in examples(split, 40))


def test_what_is_changed_is_seen():
    rng = random.Random(0)
    things = (Thing(0, Kind("small", "red", "ring")), Thing(8, Kind("large", "blue", "star")))
    scene = Scene("white", things)
    picture = draw(scene, rng)
    assert read_scene(picture) == scene
    for other in (
        Scene("beige", things),
        Scene("white", things[:1]),
        Scene("white", tuple(sorted((*things, Thing(4, Kind("small", "black", "heart")))))),
        Scene("white", (things[0], Thing(8, Kind("small", "blue", "star")))),
        Scene("white", (things[0], Thing(7, things[1].kind))),
        Scene("white", (things[0], Thing(8, Kind("large", "purple", "star")))),
        Scene("white", (things[0], Thing(8, Kind("large", "blue", "cross")))),
    ):
        assert read_scene(draw(other, rng)) == other


def test_a_little_blur_and_noise_do_not_matter_and_an_empty_picture_is_empty():
    draw_noise = np.random.default_rng(0)
    right = 0
    for picture, scene in examples("train", 20):
        pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.6))).astype(float)
        noisy = (pixels + draw_noise.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
        right += read_scene(Image.fromarray(noisy)) == scene
    assert right >= 18
    assert read_scene(Image.new("RGB", (64, 64), (180, 180, 180))) == Scene("gray", ())


def test_edges_are_as_wide_as_they_were_drawn():
    """A jump has a width of 1, and a ramp of n equal steps one of n, in rows and in columns alike."""
    for steps in (1, 2, 4, 5):
        line = np.clip((np.arange(40) - 15) / steps, 0, 1) * 200 + 20
        across = Image.fromarray(np.broadcast_to(line.round().astype(np.uint8), (30, 40)))
        for picture in (across, across.transpose(Image.Transpose.ROTATE_90)):
            assert edge_width([picture.convert("RGB")]) == pytest.approx(steps, rel=0.03)
            noise = np.random.default_rng(0).integers(-1, 2, (30, 40))
            shaken = Image.fromarray((np.asarray(across).astype(int) + noise).astype(np.uint8))
            assert edge_width([shaken]) == pytest.approx(steps, rel=0.05)
    assert np.isnan(edge_width([Image.new("RGB", (8, 8), (9, 9, 9))])) and np.isnan(edge_width([]))


def test_a_blurred_scene_has_wider_edges():
    picture = draw(sample_scene(random.Random(3)), random.Random(3), side=128)
    widths = [edge_width([picture.filter(ImageFilter.GaussianBlur(radius))]) for radius in (0, 1, 2, 3)]
    assert 1 <= widths[0] < 2 and widths == sorted(widths) and widths[2] > 2 * widths[0]


def test_scenes_of_any_multiple_of_the_size_are_read():
    for seed in range(20):
        scene = sample_scene(random.Random(seed))
        for times in (1, 2, 3):
            assert read_scene(draw(scene, random.Random(seed), side=SIDE * times)) == scene
    for size in ((65, 65), (64, 128), (32, 32)):
        with pytest.raises(ValueError, match="multiple"):
            read_scene(Image.new("RGB", size))
