"""Messages to arrays, against values computed by hand; no ROS needed.

The table is read by own code, and by what stands for it where cv_bridge is installed.
"""

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from easi3r_ros.messages.images import (
    ConversionError,
    array_from_image,
    intrinsics,
    layout_of,
    rgb_from_compressed,
    rgb_from_image,
    to_8bit,
)
from easi3r_ros.messages.ros_libraries import CV_BRIDGE_ENCODINGS, camera_image, cv_bridge

BOTH = pytest.mark.parametrize("read", [rgb_from_image, camera_image], ids=["own code", "as installed"])
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def image(encoding, width, height, data, step=None, bigendian=False):
    """A duck-typed sensor_msgs/Image; `data`: the rows' bytes."""
    data = bytes(data)
    return SimpleNamespace(
        encoding=encoding,
        width=width,
        height=height,
        step=len(data) // height if step is None else step,
        is_bigendian=int(bigendian),
        data=data,
    )


def words(values, order="<"):
    return np.asarray(values, f"{order}u2").tobytes()


# (encoding, width, height, bytes, RGB pixels row by row); 16-bit: v / 257 rounded; YUV: BT.601, limited range.
COLOURS = [
    ("rgb8", 2, 1, [1, 2, 3, 4, 5, 6], [(1, 2, 3), (4, 5, 6)]),
    ("bgr8", 2, 1, [1, 2, 3, 4, 5, 6], [(3, 2, 1), (6, 5, 4)]),
    ("rgba8", 2, 1, [1, 2, 3, 99, 4, 5, 6, 99], [(1, 2, 3), (4, 5, 6)]),
    ("bgra8", 2, 1, [1, 2, 3, 99, 4, 5, 6, 99], [(3, 2, 1), (6, 5, 4)]),
    ("mono8", 2, 1, [7, 200], [(7,) * 3, (200,) * 3]),
    ("8UC1", 2, 1, [7, 200], [(7,) * 3, (200,) * 3]),
    ("8UC", 2, 1, [7, 200], [(7,) * 3, (200,) * 3]),
    ("8UC3", 2, 1, [1, 2, 3, 4, 5, 6], [(3, 2, 1), (6, 5, 4)]),
    ("8UC4", 1, 1, [1, 2, 3, 99], [(3, 2, 1)]),
    # 128 / 257 = 0.498 -> 0, 129 / 257 = 0.502 -> 1, 25700 / 257 = 100, 65535 / 257 = 255
    ("mono16", 4, 1, words([128, 129, 25700, 65535]), [(0,) * 3, (1,) * 3, (100,) * 3, (255,) * 3]),
    ("rgb16", 1, 1, words([257, 514, 65535]), [(1, 2, 255)]),
    ("bgr16", 1, 1, words([257, 514, 65535]), [(255, 2, 1)]),
    ("rgba16", 1, 1, words([257, 514, 65535, 9]), [(1, 2, 255)]),
    ("bgra16", 1, 1, words([257, 514, 65535, 9]), [(255, 2, 1)]),
    ("16UC3", 1, 1, words([257, 514, 65535]), [(255, 2, 1)]),
    ("16UC4", 1, 1, words([257, 514, 65535, 9]), [(255, 2, 1)]),
    # Y 16 is black, 235 white; grey has U = V = 128. Red is Y 81, U 90, V 240: 1.164 * 65 + 1.596 * 112 = 254.4,
    # 75.7 - 0.813 * 112 + 0.391 * 38 = -0.5, 75.7 - 2.018 * 38 = -1.0
    ("uyvy", 2, 1, [128, 16, 128, 235], [(0,) * 3, (255,) * 3]),
    ("yuv422", 2, 1, [90, 81, 240, 81], [(254, 0, 0), (254, 0, 0)]),
    ("yuyv", 2, 1, [16, 128, 235, 128], [(0,) * 3, (255,) * 3]),
    ("yuv422_yuy2", 2, 1, [81, 90, 81, 240], [(254, 0, 0), (254, 0, 0)]),
    ("nv12", 2, 2, [81, 81, 81, 81, 90, 240], [(254, 0, 0)] * 4),
    ("nv21", 2, 2, [81, 81, 81, 81, 240, 90], [(254, 0, 0)] * 4),
    ("nv24", 2, 1, [81, 16, 90, 240, 128, 128], [(254, 0, 0), (0, 0, 0)]),
]
# The four colours of a 2 x 2 cell; on a plane of one colour only that colour's sites are lit.
BAYER = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}
ABSTRACT = {
    "8U": "u1",
    "8S": "i1",
    "16U": "u2",
    "16S": "i2",
    "32S": "i4",
    "32F": "f4",
    "64F": "f8",
}


def twice(encoding, width, height, data):
    """The image below itself, as planes of rows: only then does the distance from row to row matter."""
    data = bytes(data)
    if not encoding.startswith("nv"):
        row = len(data) // height
        return [[data[i * row : (i + 1) * row] for i in range(height)] * 2]
    chroma_row = 2 * width if encoding == "nv24" else width
    luma, chroma = data[: width * height], data[width * height :]
    planes = ((luma, width), (chroma, chroma_row))
    return [[plane[i : i + row] for i in range(0, len(plane), row)] * 2 for plane, row in planes]


@BOTH
@pytest.mark.parametrize(("encoding", "width", "height", "data", "pixels"), COLOURS, ids=[c[0] for c in COLOURS])
class TestColours:
    def check(self, read, message, pixels):
        rgb = read(message)
        assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous and rgb.shape == (message.height, message.width, 3)
        # 1: OpenCV's YUV arithmetic is in fixed point, and its rounding changed between versions.
        tolerance = 1 if message.encoding.startswith(("yu", "uy", "nv")) else 0
        np.testing.assert_allclose(rgb.reshape(-1, 3).astype(int), pixels, rtol=0, atol=tolerance)

    def test_values(self, read, encoding, width, height, data, pixels):
        step = len(bytes(data)) // _rows_of(encoding, height)
        self.check(read, image(encoding, width, height, data, step=step), pixels)

    @pytest.mark.parametrize("padding", [1, 6, 24])  # 24: whole pixels of every encoding
    def test_padded_rows(self, read, encoding, width, height, data, pixels, padding):
        planes = twice(encoding, width, height, data)
        step = len(planes[0][0]) + padding
        # The chroma rows of nv24 are twice as long as the luma rows, and so is their padding.
        steps = [step, 2 * step if encoding == "nv24" else step]
        padded = b"".join(
            row.ljust(stride, b"\xaa") for rows, stride in zip(planes, steps, strict=False) for row in rows
        )
        self.check(read, image(encoding, width, 2 * height, padded, step=step), pixels * 2)

    def test_big_endian(self, read, encoding, width, height, data, pixels):
        raw = np.frombuffer(bytes(data), np.uint8)
        if "16" in encoding:
            raw = raw.view("<u2").byteswap().view(np.uint8)
        step = len(raw) // _rows_of(encoding, height)
        self.check(read, image(encoding, width, height, raw.tobytes(), step=step, bigendian=True), pixels)

    def test_data_of_rclpy_and_rosbags(self, read, encoding, width, height, data, pixels):
        message = image(encoding, width, height, data, step=len(bytes(data)) // _rows_of(encoding, height))
        raw = message.data
        for container in (array.array("B", raw), np.frombuffer(raw, np.uint8), memoryview(raw), list(raw)):
            message.data = container
            self.check(read, message, pixels)

    def test_too_short(self, read, encoding, width, height, data, pixels):
        message = image(encoding, width, height, data, step=len(bytes(data)) // _rows_of(encoding, height))
        message.data = message.data[:-1]
        with pytest.raises(ConversionError, match=r"has a step|bytes of data; it needs \d+"):
            read(message)


def _rows_of(encoding, height):
    """Rows of `step` bytes in the data."""
    return {"nv12": height * 3 // 2, "nv21": height * 3 // 2, "nv24": height * 3}.get(encoding, height)


def test_the_table_has_every_encoding_of_the_header():
    names = "rgb8 rgba8 rgb16 rgba16 bgr8 bgra8 bgr16 bgra16 mono8 mono16 uyvy yuv422 yuyv yuv422_yuy2 nv12 nv21 nv24"
    assert set(names.split()) <= {row[0] for row in COLOURS}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", BAYER)
@pytest.mark.parametrize(("colour", "rgb"), [("R", RED), ("G", GREEN), ("B", BLUE)])
@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("padding", [0, 5])
@BOTH
def test_bayer(read, pattern, bits, colour, rgb, bigendian, padding):
    top = 255 if bits == 8 else 65535
    cell = np.array([top if site == colour else 0 for site in BAYER[pattern]]).reshape(2, 2)
    mosaic = np.tile(cell, (4, 4)).astype(f"{'>' if bigendian else '<'}u{bits // 8}")
    rows = np.pad(mosaic.view(np.uint8), ((0, 0), (0, padding)), constant_values=170)
    result = read(image(f"bayer_{pattern}{bits}", 8, 8, rows.tobytes(), bigendian=bigendian))
    assert (result[2:-2, 2:-2] == rgb).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ABSTRACT)
@pytest.mark.parametrize("bigendian", [False, True])
def test_abstract_encodings_as_they_are(name, channels, bigendian):
    kind = np.dtype(ABSTRACT[name])
    values = np.arange(2 * 3 * channels).reshape(2, 3, channels).astype(kind) - (kind.kind != "u")
    if kind.itemsize > 1:
        values = values * 100  # both bytes of a value differ
    raw = values.astype(kind.newbyteorder(">" if bigendian else "<")).tobytes()
    row = len(raw) // 2
    message = image(f"{name}C{channels}", 3, 2, raw[:row] + b"pad" + raw[row:], step=row + 3, bigendian=bigendian)
    result = array_from_image(message)
    assert result.dtype == kind and result.dtype.isnative
    np.testing.assert_array_equal(result, values[..., 0] if channels == 1 else values)


@BOTH
@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "64FC1", "16U"])
def test_depth_is_no_camera_image(read, encoding):
    with pytest.raises(ConversionError, match=rf"'{encoding}' is that of a depth image.*accepted: mono8, rgb8"):
        read(image(encoding, 1, 1, bytes(8)))


@BOTH
@pytest.mark.parametrize("encoding", ["8UC2", "8SC3", "32SC1", "32FC3", "8UC5"])
def test_channels_without_meaning_are_no_camera_image(read, encoding):
    with pytest.raises(ConversionError, match="does not say what its channels mean"):
        read(image(encoding, 1, 1, bytes(32)))


@BOTH
@pytest.mark.parametrize("encoding", ["", "RGB8", "rgb", "h264", "8UC0", "bayer_rggb12", "32UC1"])
def test_unknown_encoding_says_what_is_accepted(read, encoding):
    with pytest.raises(ConversionError, match=rf"unknown image encoding '{encoding}'; accepted: .*bgr8.*nv21"):
        read(image(encoding, 1, 1, bytes(32)))


@BOTH
def test_step_too_small(read):
    with pytest.raises(ConversionError, match=r"rgb8 image of 4 x 2 has a step of 11 bytes; a row needs at least 12"):
        read(image("rgb8", 4, 2, bytes(24), step=11))


@BOTH
@pytest.mark.parametrize("encoding", ["rgb8", "rgb16", "bayer_rggb8"])
def test_step_beyond_the_data(read, encoding):
    size = 4 * _bytes_of_a_pixel(encoding)
    with pytest.raises(ConversionError, match=rf"with a step of {size // 2 + 1} has {size} bytes of data; it needs"):
        read(image(encoding, 2, 2, bytes(size), step=size // 2 + 1))


@BOTH
def test_padding_after_the_last_row_may_be_left_out(read):
    assert read(image("mono8", 2, 2, [1, 2, 0, 0, 3, 4], step=4))[1, 1, 0] == 4


@BOTH
@pytest.mark.parametrize(("encoding", "size"), [("uyvy", (3, 2)), ("nv21", (3, 2)), ("nv21", (2, 3)), ("nv12", (2, 3))])
def test_odd_sizes_of_shared_colours(read, encoding, size):
    with pytest.raises(ConversionError, match="must be even"):
        read(image(encoding, *size, bytes(64), step=8))


@BOTH
@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
@pytest.mark.parametrize("step", [4, 8, 6])
def test_planes_whose_step_counts_chroma(read, encoding, step):
    """Without padding the step is clear, whether a driver says width, two channels of it, or all data over height."""
    luma, chroma = [81] * 8, [90, 240] * 2 if encoding == "nv12" else [240, 90] * 2
    pixels = read(image(encoding, 4, 2, luma + chroma, step=step))
    np.testing.assert_allclose(pixels.reshape(-1, 3).astype(int), [(254, 0, 0)] * 8, rtol=0, atol=1)


@BOTH
def test_empty_image(read):
    with pytest.raises(ConversionError, match="0 x 2 pixels is empty"):
        read(image("mono8", 0, 2, b"", step=0))


@BOTH
@pytest.mark.parametrize("encoding", ["rgb8", "mono8", "bayer_rggb8", "yuv422", "rgb16", "nv12"])
def test_the_result_does_not_share_memory_with_the_message(read, encoding):
    message = image(encoding, 2, 2, bytes(6) if encoding == "nv12" else bytes(4 * _bytes_of_a_pixel(encoding)))
    message.data = bytearray(message.data)
    result = read(message)
    before = result.copy()
    message.data[:] = b"\xff" * len(message.data)
    np.testing.assert_array_equal(result, before)


def _bytes_of_a_pixel(encoding):
    return layout_of(encoding).channels * layout_of(encoding).itemsize


def test_every_16_bit_value():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(to_8bit(values), (values.astype(int) + 128) // 257)


def test_nv24_against_the_formula():
    """BT.601, limited range, which OpenCV has no code for."""
    planes = np.random.default_rng(0).integers(0, 256, (3 * 16, 24), np.uint8)
    luma = 1.164 * (planes[:16].astype(float) - 16)
    u, v = np.moveaxis(planes[16:].reshape(16, 24, 2) - 128.0, 2, 0)
    rgb = np.stack([luma + 1.596 * v, luma - 0.813 * v - 0.391 * u, luma + 2.018 * u], axis=2)
    result = rgb_from_image(image("nv24", 24, 16, planes.tobytes(), step=24))
    np.testing.assert_allclose(result.astype(float), rgb.clip(0, 255), rtol=0, atol=1)


@given(
    pixels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).map(lambda s: (*s, 3))),
    order=st.sampled_from(["rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "bgr16", "rgba16", "bgra16"]),
    padding=st.integers(0, 7),
    bigendian=st.booleans(),
)
def test_round_trip(pixels, order, padding, bigendian):
    """What a driver would send of an RGB image comes back exactly, whatever the memory layout."""
    height, width = pixels.shape[:2]
    channels = pixels[..., ::-1] if order.startswith("b") else pixels
    if "a" in order:
        channels = np.dstack([channels, np.full((height, width), 77, np.uint8)])
    if order.endswith("16"):
        channels = (channels.astype(np.uint16) * 257).astype(">u2" if bigendian else "<u2")
    rows = np.ascontiguousarray(channels).reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=170)
    message = image(order, width, height, rows.tobytes(), bigendian=bigendian)
    for read in (rgb_from_image, camera_image):
        np.testing.assert_array_equal(read(message), pixels)


@pytest.mark.skipif(cv_bridge().entry is None, reason=f"cv_bridge {cv_bridge().why_not}; it comes with an apt ROS 2")
@pytest.mark.parametrize(
    "encoding",
    sorted({"rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "yuv422", "yuv422_yuy2"} | CV_BRIDGE_ENCODINGS),
)
def test_same_pixels_as_cv_bridge(encoding):
    width, height = 64, 48
    size = width * height * _bytes_of_a_pixel(encoding)
    message = image(encoding, width, height, np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes())
    theirs = cv_bridge().entry.imgmsg_to_cv2(message, "rgb8").astype(int)
    # 1: cv_bridge may be linked to another OpenCV than cv2; YUV and averages are rounded as each likes.
    np.testing.assert_allclose(rgb_from_image(message), theirs, rtol=0, atol=1)


class TestCompressed:
    def message(self, name, data):
        return SimpleNamespace(format=name, data=data)

    def picture(self, dtype=np.uint8):
        rgb = np.zeros((16, 24, 3), dtype)
        rgb[:, :8, 0] = rgb[:, 8:16, 1] = rgb[:, 16:, 2] = np.iinfo(dtype).max
        return rgb

    def encoded(self, suffix, rgb):
        return cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()

    @pytest.mark.parametrize("name", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8", ""])
    def test_png(self, name):
        rgb = self.picture()
        np.testing.assert_array_equal(rgb_from_compressed(self.message(name, self.encoded(".png", rgb))), rgb)

    @pytest.mark.parametrize("name", ["jpeg", "rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8"])
    def test_jpeg(self, name):
        rgb = self.picture()
        result = rgb_from_compressed(self.message(name, self.encoded(".jpg", rgb)))
        np.testing.assert_allclose(result[:, [3, 12, 21]].astype(int), rgb[:, [3, 12, 21]], atol=12)

    def test_16_bit_png(self):
        name = "rgb16; png compressed bgr16"
        result = rgb_from_compressed(self.message(name, self.encoded(".png", self.picture(np.uint16))))
        np.testing.assert_array_equal(result, self.picture())

    def test_grey_png(self):
        data = cv2.imencode(".png", np.full((4, 5), 9, np.uint8))[1].tobytes()
        assert (rgb_from_compressed(self.message("mono8; png compressed ", data)) == np.full((4, 5, 3), 9)).all()

    def test_colours_that_were_swapped_before_compression(self):
        data = self.encoded(".png", self.picture()[..., ::-1])
        result = rgb_from_compressed(self.message("rgb8; png compressed rgb8", data))
        np.testing.assert_array_equal(result, self.picture())

    def test_orientation_is_not_applied(self):
        """EXIF orientation 6 would turn the image; the mask has to fit the sensor's pixels."""
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
        jpeg = self.encoded(".jpg", self.picture())
        data = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
        assert rgb_from_compressed(self.message("jpeg", data)).shape == (16, 24, 3)

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    @pytest.mark.parametrize("part", [0.3, 0.7, 0.95])
    def test_truncated(self, suffix, part):
        data = self.encoded(suffix, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
        with pytest.raises(ConversionError, match="is truncated: it ends after"):
            rgb_from_compressed(self.message(suffix[1:], data[: int(len(data) * part)]))

    def test_truncated_behind_its_thumbnail(self):
        """The thumbnail in the header has an end marker of its own."""
        jpeg = self.encoded(".jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
        thumbnail = self.encoded(".jpg", self.picture())
        data = jpeg[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + jpeg[2:]
        assert rgb_from_compressed(self.message("jpeg", data)).shape == (64, 64, 3)
        with pytest.raises(ConversionError, match="is truncated"):
            rgb_from_compressed(self.message("jpeg", data[:-100]))

    @pytest.mark.parametrize("data", [b"", b"not an image at all"])
    def test_not_an_image(self, data):
        with pytest.raises(ConversionError, match="cannot be decoded; accepted: jpeg, png"):
            rgb_from_compressed(self.message("jpeg", data))

    @pytest.mark.parametrize("name", ["16UC1; compressedDepth", "32FC1; compressedDepth png", "16UC1; png compressed "])
    def test_depth(self, name):
        with pytest.raises(ConversionError, match="depth image"):
            rgb_from_compressed(self.message(name, self.encoded(".png", self.picture())))


class TestIntrinsics:
    def info(self, **changes):
        K = [100.0, 0.0, 31.5, 0.0, 110.0, 23.5, 0.0, 0.0, 1.0]
        P = [90.0, 0.0, 30.0, 0.0, 0.0, 95.0, 22.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
        fields = {"k": K, "p": P, "d": [], "width": 64, "height": 48, "binning_x": 0, "binning_y": 0, "roi": roi}
        return SimpleNamespace(**{**fields, **changes})

    def test_raw_image_uses_K(self):
        model = intrinsics(self.info())
        np.testing.assert_array_equal(model.K, [[100, 0, 31.5], [0, 110, 23.5], [0, 0, 1]])
        assert model.size == (64, 48) and not model.distorted

    def test_rectified_image_uses_P(self):
        np.testing.assert_array_equal(intrinsics(self.info(), True).K, [[90, 0, 30], [0, 95, 22], [0, 0, 1]])

    def test_rectified_image_without_P_uses_K(self):
        assert intrinsics(self.info(p=[0.0] * 12), True).K[0, 0] == 100

    @pytest.mark.parametrize("k", [[0.0] * 9, [float("nan")] * 9])
    def test_not_calibrated(self, k):
        assert intrinsics(self.info(k=k)).K is None

    def test_distortion_counts_for_raw_images_only(self):
        info = self.info(d=[0.1, 0.0, 0.0, 0.0, 0.0])
        assert intrinsics(info).distorted and not intrinsics(info, True).distorted
        assert not intrinsics(self.info(d=[0.0] * 5)).distorted

    def test_region_of_interest_and_binning(self):
        roi = SimpleNamespace(x_offset=8, y_offset=4, width=40, height=32, do_rectify=False)
        model = intrinsics(self.info(roi=roi, binning_x=2, binning_y=2))
        assert model.size == (20, 16)
        np.testing.assert_allclose(model.K, [[50, 0, (31.5 - 8) / 2], [0, 55, (23.5 - 4) / 2], [0, 0, 1]])
