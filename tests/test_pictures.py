import os
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from broken_pictures import CASES, HEIGHT, USABLE, WIDTH, encode, heic, jpeg, photo, pixels, with_orientation
from mobilenets import formats, pictures
from mobilenets.errors import PictureError
from mobilenets.preprocessing import for_channels, prepare, to_mode
from mobilenets.threads import in_threads

RGB = for_channels(3)


@pytest.fixture(autouse=True)
def filters_stay():
    """No call may change what the process does with warnings."""
    before = list(warnings.filters)
    yield
    assert list(warnings.filters) == before


def written(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(CASES[name].data)
    return path


def kind_of(path: Path) -> str:
    with pytest.raises(PictureError) as caught:
        pictures.load(path)
    assert caught.value.file == str(path)
    return caught.value.kind


def rgb(path: Path) -> np.ndarray:
    return np.asarray(to_mode(pictures.load(path), RGB)).astype(int)


def test_there_are_many_kinds_of_broken_file():
    assert sum(not case.used for case in CASES.values()) >= 40
    assert sum(case.used for case in CASES.values()) >= 40


@pytest.mark.parametrize("name", CASES)
def test_every_file_is_used_or_named(tmp_path, name):
    path, case = written(tmp_path, name), CASES[name]
    if not case.used:
        with pytest.raises(PictureError) as caught:
            pictures.examine(path)
        assert (caught.value.kind,) == case.kinds
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value)
        assert kind_of(path) == case.kinds[0]
        return
    examined = pictures.examine(path)
    assert sorted(kind for kind, _ in examined.oddities) == sorted(case.kinds)
    image = pictures.load(path)
    assert image.size == (examined.width, examined.height)
    for channels in (1, 3, 4):
        assert prepare(image, for_channels(channels), 32).shape == (32, 32, channels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_comes_upright(tmp_path, orientation):
    path = written(tmp_path, f"orientation {orientation}.jpg")
    assert np.abs(rgb(path) - pixels()).mean() < 3
    stored = pictures.load(path, exif=False)
    assert stored.size == ((WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH))


@pytest.mark.parametrize("name", ["turned.png", "turned.webp", "turned.tif"])
def test_other_formats_come_upright(tmp_path, name):
    assert np.array_equal(rgb(written(tmp_path, name)), pixels())


def test_tiff_is_whole_whether_exif_counts_or_not(tmp_path):
    image = pictures.load(written(tmp_path, "turned.tif"), exif=False)
    assert np.array_equal(np.asarray(image), pixels())
    assert prepare(image, RGB, 32).shape == (32, 32, 3)


@pytest.mark.parametrize("name", ["rgb16.png", "plain.bmp", "plain.qoi", "plain.tif", "keyed.png"])
def test_lossless_pictures_keep_every_pixel(tmp_path, name):
    assert np.array_equal(rgb(written(tmp_path, name)), pixels())


@pytest.mark.parametrize("name", ["grey16.png", "grey16.tif", "grey16 big-endian.tif", "int32.tif"])
def test_16_bit_keeps_the_upper_8(tmp_path, name):
    expected = np.repeat(pixels()[:, :, :1], 3, axis=2)
    assert np.array_equal(rgb(written(tmp_path, name)), expected)


@pytest.mark.parametrize("name", ["animated.webp", "animated.png", "pages.tif"])
def test_of_an_animation_the_first_frame(tmp_path, name):
    assert np.array_equal(rgb(written(tmp_path, name)), pixels(seed=0))


def test_of_two_jpegs_in_one_the_first(tmp_path):
    found = rgb(written(tmp_path, "two in one.jpg"))
    assert np.abs(found - pixels(seed=0)).mean() < 6 < np.abs(found - pixels(seed=1)).mean()


def test_alpha_is_composed(tmp_path):
    expected = pixels() * (128 / 255) + 255 * (127 / 255)
    assert np.abs(rgb(written(tmp_path, "alpha.png")) - expected).max() <= 1


@pytest.mark.parametrize("name", ["cmyk.jpg", "cmyk.tif"])
def test_cmyk_keeps_its_colours(tmp_path, name):
    assert np.abs(rgb(written(tmp_path, name)) - pixels()).mean() < 6


def test_cmyk_stored_inverted_as_adobe_does(tmp_path):
    assert b"Adobe" in CASES["cmyk.jpg"].data
    black = tmp_path / "black.jpg"
    black.write_bytes(encode(Image.new("CMYK", (40, 40), (0, 0, 0, 255)), "JPEG"))
    assert rgb(black).max() < 8


def test_neither_file_nor_picture(tmp_path):
    assert kind_of(tmp_path) == "not a file"
    assert kind_of(tmp_path / "nothing.jpg") == "missing"
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    assert kind_of(tmp_path / "link.jpg") == "broken link"
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    assert kind_of(tmp_path / "circle.jpg") == "unreadable"
    assert kind_of(Path(f"{tmp_path}/a\0b.jpg")) == "unreadable"
    assert kind_of(Path(f"{tmp_path}/{'n' * 300}.jpg")) == "unreadable"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert kind_of(tmp_path / "pipe.jpg") == "not a file"


def test_no_permission(tmp_path, monkeypatch):
    path = written(tmp_path, "plain.jpg")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert kind_of(path) == "unreadable"


def test_a_gigantic_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_BYTES", 100)
    assert kind_of(written(tmp_path, "plain.jpg")) == "too large"


def test_between_pillows_limit_and_ours_there_is_no_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(written(tmp_path, "plain.png")).close()
    assert pictures.load(tmp_path / "plain.png").size == (WIDTH, HEIGHT)


def test_our_limit_holds_without_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert kind_of(written(tmp_path, "bomb.png")) == "decompression bomb"
    assert kind_of(written(tmp_path, "huge.bmp")) == "decompression bomb"


def test_no_memory_is_a_designed_error(tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    path = written(tmp_path, "plain.png")
    monkeypatch.setattr(Image.Image, "load", full)
    assert kind_of(path) == "decompression bomb"


def test_warnings_stay_away_in_threads_too():
    noisy = [
        CASES[name].data for name in ("bad exif.jpg", "bad multi-picture index.jpg", "invalid animation.png")
    ]
    with pytest.warns(UserWarning):
        for data in noisy:
            Image.open(pictures.BytesIO(data)).close()
    sizes = set(in_threads(lambda data: pictures.decode(data).size, noisy * 60, threads=8))
    assert sizes == {(WIDTH, HEIGHT)}


def test_warnings_of_others_still_come(tmp_path):
    inside, leave = threading.Event(), threading.Event()

    def stay_inside():
        with pictures._QUIET:
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=stay_inside)
    thread.start()
    assert inside.wait(10)
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", UserWarning, stacklevel=1)
    leave.set()
    thread.join()


def test_a_smaller_scale_for_augmented_views(tmp_path):
    path = tmp_path / "large.jpg"
    path.write_bytes(encode(photo(800, 600), "JPEG", quality=95))
    assert pictures.load(path).size == (800, 600)
    assert pictures.load(path, at_least=160).size == (400, 300)
    assert pictures.load(path, at_least=75).size == (100, 75)
    assert pictures.load(path, at_least=601).size == (800, 600)
    reduced = np.asarray(pictures.load(path, at_least=75)).astype(int)
    assert np.abs(reduced - np.asarray(photo(800, 600).resize((100, 75), Image.Resampling.BOX))).mean() < 3


def test_only_jpegs_come_smaller(tmp_path):
    assert pictures.load(written(tmp_path, "plain.png"), at_least=8).size == (WIDTH, HEIGHT)
    turned = pictures.load(written(tmp_path, "orientation 6.jpg"), at_least=32)
    assert turned.size == (WIDTH // 2, HEIGHT // 2)


def test_heic(tmp_path):
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(heic(photo()))
    assert pictures.examine(path).oddities == ()
    assert np.abs(rgb(path) - pixels()).mean() < 6
    exif = Image.Exif()
    exif[0x0112] = 6
    path.write_bytes(heic(photo().rotate(90, expand=True), exif=exif.tobytes()))
    assert np.abs(rgb(path) - pixels()).mean() < 6
    path.write_bytes(path.read_bytes()[:-200])
    assert kind_of(path) in ("truncated", "damaged")
    renamed = tmp_path / "renamed.jpg"
    renamed.write_bytes(heic(photo()))
    assert [kind for kind, _ in pictures.examine(renamed).oddities] == ["wrong extension"]


def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(heic(photo()))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PictureError, match=r"pip install 'mobilenets\[heif\]'") as caught:
        pictures.load(path)
    assert caught.value.kind == "HEIC without pillow-heif"


def test_heic_leaves_pillow_as_it_was(tmp_path):
    pictures.decode(heic(photo()))
    assert "HEIF" not in Image.OPEN


def test_text_is_known_when_cut_inside_a_character():
    assert formats.looks_like_text("só".encode()[:-1])
    assert not formats.looks_like_text(b"\xff\xfe\xfd\xfc")
    assert not formats.looks_like_text(b"null\0byte")


def test_extensions():
    assert {".jpg", ".jpeg", ".png", ".heic", ".webp"} <= formats.EXTENSIONS
    assert all(extension == extension.lower() for extension in formats.EXTENSIONS)


@pytest.mark.slow
@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(USABLE)),
    edits=st.lists(
        st.tuples(
            st.floats(0, 1), st.sampled_from(["set", "cut", "drop", "add"]), st.binary(min_size=1, max_size=9)
        ),
        min_size=1,
        max_size=5,
    ),
    near_start=st.booleans(),
)
@example(name="plain.jpg", edits=[(0.0, "cut", b"x")], near_start=False)
def test_damage_gives_a_picture_or_a_picture_error(name, edits, near_start):
    data = USABLE[name]
    for where, edit, new in edits:
        at = int(where * min(len(data), 300 if near_start else len(data)))
        tail = {"set": data[at + len(new) :], "cut": b"", "drop": data[at + len(new) :], "add": data[at:]}[
            edit
        ]
        data = data[:at] + (new if edit in ("set", "add") else b"") + tail
    try:
        image = pictures.decode(data)
    except PictureError as error:
        assert error.kind and error.what
        return
    assert prepare(image, RGB, 32).shape == (32, 32, 3)


def paths(folder: Path, *names: str) -> list[Path]:
    return [written(folder, name) for name in names]


def test_batches_come_in_order_and_equal_prepare(tmp_path):
    files = paths(tmp_path, "plain.jpg", "alpha.png", "orientation 6.jpg", "cmyk.jpg", "grey16.tif")
    result = list(pictures.batches(files, RGB, 32, batch_size=2, threads=3))
    assert [indices for indices, _ in result] == [[0, 1], [2, 3], [4]]
    for indices, batch in result:
        assert batch.dtype == np.uint8
        for index, one in zip(indices, batch, strict=True):
            assert np.array_equal(one, prepare(pictures.load(files[index]), RGB, 32))


def test_batches_name_a_broken_picture(tmp_path):
    files = paths(tmp_path, "plain.jpg", "no end mark.jpg")
    with pytest.raises(PictureError, match=r"no end mark\.jpg: is truncated"):
        list(pictures.batches(files, RGB, 32, batch_size=2))


def test_batches_leave_a_broken_picture_out(tmp_path):
    files = paths(tmp_path, "text.jpg", "plain.jpg", "no end mark.jpg", "plain.png", "grey.jpg", "empty.jpg")
    said: list[tuple[int, str]] = []
    result = list(
        pictures.batches(files, RGB, 32, batch_size=2, on_error=lambda i, error: said.append((i, error.kind)))
    )
    assert [indices for indices, _ in result] == [[1, 3], [4]]
    assert [batch.shape for _, batch in result] == [(2, 32, 32, 3), (1, 32, 32, 3)]
    assert said == [(0, "not a picture"), (2, "truncated"), (5, "empty file")]


def test_no_usable_picture_gives_no_batch(tmp_path):
    files = paths(tmp_path, "text.jpg", "empty.jpg")
    assert list(pictures.batches(files, RGB, 32, batch_size=2, on_error=lambda *_: None)) == []
    assert list(pictures.batches([], RGB, 32, batch_size=2)) == []


def test_leaving_batches_early_leaves_no_thread(tmp_path):
    files = paths(tmp_path, "plain.jpg") * 50
    before = threading.active_count()
    stream = pictures.batches(files, RGB, 32, batch_size=2, threads=4)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_threads_keep_order_and_look_ahead_no_further_than_told():
    begun: list[int] = []

    def slow(n: int) -> int:
        begun.append(n)
        time.sleep(0.002 * (n % 3))
        return n

    stream = in_threads(slow, iter(range(1000)), threads=4, ahead=10)
    assert [next(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    time.sleep(0.05)
    assert len(begun) <= 15
    stream.close()
    assert list(in_threads(slow, range(30), threads=4, ahead=5)) == list(range(30))


def test_an_error_in_a_thread_comes_out():
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda n: 1 // n, [2, 1, 0, 3]))


def test_decode_names_no_file():
    assert pictures.decode(jpeg()).size == (WIDTH, HEIGHT)
    assert pictures.decode(with_orientation(6)).size == (WIDTH, HEIGHT)
    with pytest.raises(PictureError) as caught:
        pictures.decode(jpeg()[:-9])
    assert caught.value.file is None
    with pytest.raises(PictureError):
        pictures.decode(b"")
