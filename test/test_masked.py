"""Masks in the polarity and at the size of others, and images and depth without what moves."""

import numpy as np
import pytest

from easi3r_ros.messages.conversions import fill_data, time_message
from easi3r_ros.messages.images import COLOUR_ENCODINGS, ConversionError, array_from_image, layout_of, rgb_from_image
from easi3r_ros.messages.masked import blacked_out, external_mask, fitted, static_mask, with_header, without_movers
from easi3r_ros.messages.message_types import Header, Image

WIDTH, HEIGHT = 8, 6
# rgb of a black pixel of Bayer sensors depends on its neighbours, which are not all black at an outline
BAYER = [encoding for encoding in COLOUR_ENCODINGS if encoding.startswith("bayer")]
PLANES = {"nv12": 9, "nv21": 9, "nv24": 18, "i420": 9, "yv12": 9}  # rows of WIDTH bytes


def image(encoding: str, padding: int = 0, bigendian: int = 0, seed: int = 1) -> Image:
    """Noise of the encoding, WIDTH x HEIGHT, with `padding` bytes after each row."""
    rng = np.random.default_rng(seed)
    if encoding in PLANES:
        rows, row = PLANES[encoding], WIDTH
    else:
        layout = layout_of(encoding)
        rows, row = HEIGHT, WIDTH * layout.channels * layout.itemsize
    data = rng.integers(40, 220, (rows, row + padding), np.uint8)
    header = Header(stamp=time_message(7_000_000_009), frame_id="cam")
    made = Image(header=header, height=HEIGHT, width=WIDTH, encoding=encoding, step=row + padding)
    made.is_bigendian = bigendian
    fill_data(made, data)
    return made


def half(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """True in the left half."""
    return np.arange(width)[None] < width // 2 + np.zeros((height, 1))


def test_polarity_for_opencv():
    np.testing.assert_array_equal(static_mask(np.array([[True, False]])), [[0, 255]])
    assert static_mask(half()).dtype == np.uint8


@pytest.mark.parametrize("encoding", COLOUR_ENCODINGS)
def test_movers_are_black_and_the_rest_is_as_it_was(encoding):
    given, mask = image(encoding), half()
    made = blacked_out(given, mask)
    assert (made.encoding, made.step, made.header, len(made.data)) == (
        encoding,
        given.step,
        given.header,
        len(given.data),
    )
    before, after = rgb_from_image(given), rgb_from_image(made)
    inside, outside = (mask, ~mask) if encoding not in BAYER else (half() & (np.arange(WIDTH) < 3), ~half(12)[:, 2:-2])
    assert after[inside].max() <= 1
    if encoding not in BAYER:
        np.testing.assert_array_equal(after[outside], before[outside])
    else:
        np.testing.assert_array_equal(after[:, 5:], before[:, 5:])


@pytest.mark.parametrize("encoding", ["rgba8", "bgra8"])
def test_alpha_stays(encoding):
    given = image(encoding)
    made = blacked_out(given, np.ones((HEIGHT, WIDTH), bool))
    np.testing.assert_array_equal(array_from_image(made)[..., 3], array_from_image(given)[..., 3])


@pytest.mark.parametrize("encoding", ["uyvy", "yuyv", "nv12", "i420", "yv12"])
def test_a_neighbour_that_shares_a_colour_keeps_its_luma(encoding):
    """A mask of one column: the next one is of the same block."""
    given = image(encoding)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, 0] = True
    after = rgb_from_image(blacked_out(given, mask))
    assert after[:, 0].max() <= 1
    assert np.ptp(after[:, 1].astype(int), axis=1).max() <= 1 and after[:, 1].min() > 10, "grey, not black"
    np.testing.assert_array_equal(after[:, 2:], rgb_from_image(given)[:, 2:])


@pytest.mark.parametrize("padding", [0, 3])
def test_padding_is_kept(padding):
    given = image("rgb8", padding)
    made = blacked_out(given, half())
    assert made.step == 3 * WIDTH + padding
    rows = np.frombuffer(made.data, np.uint8).reshape(HEIGHT, -1)
    assert not rows[:, : 3 * WIDTH // 2].any() and rows[:, 3 * WIDTH // 2 :].all()


@pytest.mark.parametrize("encoding, dtype, nothing", [("16UC1", "u2", 0), ("mono16", "u2", 0), ("32FC1", "f4", np.nan)])
@pytest.mark.parametrize("bigendian", [0, 1])
def test_depth_without_movers(encoding, dtype, nothing, bigendian):
    given = image(encoding, 4, bigendian)
    made = without_movers(given, half())
    before, after = array_from_image(given), array_from_image(made)
    assert (made.encoding, made.step, made.header, made.is_bigendian) == (encoding, given.step, given.header, bigendian)
    np.testing.assert_array_equal(after[half()], nothing)
    np.testing.assert_array_equal(after[~half()], before[~half()])
    np.testing.assert_array_equal(array_from_image(image(encoding, 4, bigendian)), before)  # the given one is whole


def test_depth_of_another_size_gets_the_mask_at_its_size():
    made = without_movers(image("16UC1"), half(2 * WIDTH, 2 * HEIGHT))
    np.testing.assert_array_equal(array_from_image(made) == 0, half())


@pytest.mark.parametrize("encoding", ["rgb8", "8UC1", "32SC1"])
def test_what_is_no_depth_image_is_refused(encoding):
    with pytest.raises(ConversionError, match="a depth image must be one of 16UC1"):
        without_movers(image(encoding), half())


def test_another_picture_is_refused():
    with pytest.raises(ConversionError, match="8 x 6 and 16 x 9 pixels do not show the same picture"):
        fitted(half(), (16, 9))


def test_a_part_of_a_mover_is_enough():
    mask = np.zeros((60, 80), bool)
    mask[33, 41] = True
    small = fitted(mask, (8, 6))
    assert small.sum() == 1 and small[3, 4]
    assert fitted(mask, (160, 120)).sum() == 4


def test_masks_of_others():
    mask = image("mono8")
    expected = array_from_image(mask) >= 128
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(external_mask(mask), expected)
    with pytest.raises(ConversionError, match="a mask must be mono8 .* this one is 'rgb8'"):
        external_mask(image("rgb8"))


def test_another_header_shares_the_data():
    given = image("16UC1")
    made = with_header(given, Header(stamp=time_message(1), frame_id="b"))
    assert made.header.frame_id == "b" and given.header.frame_id == "cam" and made.data is given.data
