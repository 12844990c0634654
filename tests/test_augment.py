import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mobilenets.augment import _OPERATIONS, randaugment, random_box, view
from mobilenets.preprocessing import for_channels
from mobilenets.recipe import Augment

STRONG = Augment(rotate_degrees=20, shift=0.2, randaugment_ops=3, randaugment_magnitude=30)
STILL = Augment(
    crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False, brightness=0, contrast=0, saturation=0
)


def picture(width=60, height=40, mode="RGB"):
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_view_has_the_networks_shape_and_depends_on_the_generator_alone(channels, fit):
    preprocessing = dataclasses.replace(for_channels(channels), fit=fit)
    views = [view(picture(), preprocessing, 48, STRONG, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert {v.shape for v in views} == {(48, 48, channels)}
    assert {v.dtype for v in views} == {np.dtype(np.uint8)}
    assert (views[0] == views[1]).all()
    assert (views[0] != views[2]).any()


def test_without_augmentation_a_square_picture_is_only_resized():
    preprocessing = for_channels(3)
    image = picture(64, 64)
    got = view(image, preprocessing, 32, STILL, np.random.default_rng(0))
    want = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    assert (got == want).all()


def test_flip_mirrors_about_half_of_the_views():
    image, preprocessing = picture(32, 32), for_channels(3)
    plain = view(image, preprocessing, 32, STILL, np.random.default_rng(0))
    flipping = Augment(
        crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=True, brightness=0, contrast=0, saturation=0
    )
    views = [view(image, preprocessing, 32, flipping, np.random.default_rng(seed)) for seed in range(200)]
    mirrored = sum((v == plain[:, ::-1]).all() for v in views)
    assert mirrored + sum((v == plain).all() for v in views) == 200
    assert 70 < mirrored < 130


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.booleans(),
    st.integers(0, 1000),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)).map(sorted).map(tuple),
)
def test_a_random_box_lies_inside_the_picture(width, height, stretched, seed, area, ratio):
    augment = Augment(crop_area=area, crop_ratio=ratio)
    left, top, right, bottom = random_box(width, height, stretched, augment, np.random.default_rng(seed))
    assert -1e-6 <= left < right <= width + 1e-6
    assert -1e-6 <= top < bottom <= height + 1e-6


def test_the_mean_area_of_the_boxes_is_that_of_the_range():
    augment, rng = Augment(crop_area=(0.2, 0.6), crop_ratio=(0.75, 4 / 3)), np.random.default_rng(0)
    boxes = [random_box(100, 100, False, augment, rng) for _ in range(3000)]
    areas = [(right - left) * (bottom - top) / 1e4 for left, top, right, bottom in boxes]
    assert np.mean(areas) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("operation", range(len(_OPERATIONS)))
@pytest.mark.parametrize("strength", [-1.0, 0.0, 1.0])
def test_every_operation_keeps_size_and_mode(mode, operation, strength):
    result = _OPERATIONS[operation](picture(mode=mode), strength)
    assert (result.size, result.mode) == ((60, 40), mode)


def test_randaugment_changes_most_pictures():
    changed = 0
    for seed in range(30):
        result = randaugment(picture(), 2, 9, np.random.default_rng(seed))
        changed += (np.asarray(result) != np.asarray(picture())).any()
    assert changed > 20


def test_shift_right_moves_right():
    image = Image.new("L", (32, 32), 0)
    image.putpixel((10, 16), 255)
    rightmost = Augment(
        crop_area=(1.0, 1.0),
        crop_ratio=(1.0, 1.0),
        flip=False,
        shift=0.25,
        brightness=0,
        contrast=0,
        saturation=0,
    )
    columns = {
        int(view(image, for_channels(1), 32, rightmost, np.random.default_rng(s))[:, :, 0].sum(0).argmax())
        for s in range(40)
    }
    assert min(columns) < 6
    assert max(columns) > 14
