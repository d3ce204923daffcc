"""Sensors that fill the lower bits of 16, Bayer pictures in a codec, and YUV by its other names."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from easi3r_ros.io import open_source
from easi3r_ros.messages.bit_depth import BitDepth, ImageReader
from easi3r_ros.messages.images import ConversionError, rgb_from_compressed, rgb_from_image

H, W = 12, 16


def image(values, encoding, bigendian=False):
    values = np.ascontiguousarray(values, ">u2" if bigendian else "<u2")
    step = values.nbytes // values.shape[0]
    return SimpleNamespace(
        encoding=encoding,
        width=values.shape[1],
        height=values.shape[0],
        step=step,
        is_bigendian=int(bigendian),
        data=values.tobytes(),
    )


def ramp(top, *shape):
    return np.linspace(0, top, np.prod(shape)).reshape(shape).astype(np.uint16)


@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bgra16", "bayer_rggb16"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("bigendian", [False, True])
def test_the_range_is_learned(encoding, bits, bigendian):
    shape = {"rgb16": (H, W, 3), "bgra16": (H, W, 4)}.get(encoding, (H, W))
    found = ImageReader().raw(image(ramp(2**bits - 1, *shape), encoding, bigendian))
    full = rgb_from_image(image(ramp(65535, *shape), encoding, bigendian))
    assert np.abs(found.astype(int) - full).max() <= 2 and found.max() >= 230


def test_it_only_grows_and_says_so(caplog):
    reader = ImageReader()
    dark, bright = (image(ramp(top, H, W), "mono16") for top in (900, 4095))
    assert reader.raw(dark).max() > 220 and caplog.records == []
    assert reader.raw(bright).max() >= 254 and "taken as 12 bits from now on, not 10" in caplog.text
    assert reader.raw(dark).max() == pytest.approx(900 / 4095 * 255, abs=1.5)


def test_it_can_be_given():
    assert ImageReader(12).raw(image(ramp(900, H, W), "mono16")).max() == pytest.approx(900 / 4095 * 255, abs=1.5)
    assert BitDepth(10).widened(np.array([[5000]], np.uint16))[0, 0] == 1023 << 6, "more than it can be is white"


def test_8_bits_are_left_alone():
    message = SimpleNamespace(encoding="mono8", width=W, height=H, step=W, is_bigendian=0, data=bytes([9]) * W * H)
    assert (ImageReader().raw(message) == 9).all()


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "no_such"])
def test_refusals_are_as_before(encoding):
    with pytest.raises(ConversionError):
        ImageReader().raw(image(ramp(1000, H, W), encoding))


def png(values):
    return cv2.imencode(".png", values)[1].ravel()


def test_pngs_of_12_bits(tmp_path):
    values = ramp(4095, 48, 64)
    message = SimpleNamespace(format="16UC1; png compressed", data=png(values))
    with pytest.raises(ConversionError, match="depth image"):
        ImageReader().compressed(message)
    message.format = "mono16; png compressed"
    assert ImageReader().compressed(message).max() >= 254
    cv2.imwrite(str(tmp_path / "0.png"), values)
    with open_source(tmp_path) as source:
        assert next(iter(source)).image.max() >= 254


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_compressed_bayer_is_demosaiced(pattern, dtype):
    mosaic = np.zeros((H, W), dtype)
    row, column = divmod(pattern.index("r"), 2)
    mosaic[row::2, column::2] = np.iinfo(dtype).max  # red alone
    bits = 8 * np.dtype(dtype).itemsize
    for text in ("png compressed", "jpeg compressed", f"jpeg compressed bayer_{pattern}{bits}"):
        message = SimpleNamespace(format=f"bayer_{pattern}{bits}; {text}", data=png(mosaic))
        assert (rgb_from_compressed(message)[2:-2, 2:-2] == [255, 0, 0]).all()


def test_bayer_that_the_sender_demosaiced_and_bayer_in_three_equal_channels():
    colour = np.full((H, W, 3), (10, 20, 200), np.uint8)
    message = SimpleNamespace(format="bayer_rggb8; jpeg compressed bgr8", data=png(colour))
    assert (rgb_from_compressed(message) == [200, 20, 10]).all()
    mosaic = np.zeros((H, W), np.uint8)
    mosaic[::2, ::2] = 255
    message.data = png(np.repeat(mosaic[..., None], 3, -1))
    assert (rgb_from_compressed(message)[2:-2, 2:-2] == [255, 0, 0]).all()


def test_yuv_by_its_other_names():
    rng = np.random.default_rng(0)
    data = rng.integers(16, 235, W * H * 3 // 2, np.uint8)

    def read(name):
        return rgb_from_image(SimpleNamespace(encoding=name, width=W, height=H, step=W, is_bigendian=0, data=data))

    assert np.array_equal(read("NV12"), read("nv12"))
    expected = cv2.cvtColor(data.reshape(H * 3 // 2, W), cv2.COLOR_YUV2RGB_I420)
    for name in ("i420", "yuv420", "YUV420P"):
        assert np.array_equal(read(name), expected)
    jpeg = cv2.imencode(".jpg", np.full((H, W, 3), 99, np.uint8))[1].ravel()
    for name in ("nv12", "NV12"):
        message = SimpleNamespace(format=f"{name}; jpeg compressed bgr8", data=jpeg)
        assert np.abs(rgb_from_compressed(message).astype(int) - 99).max() <= 2
