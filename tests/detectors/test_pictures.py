"""Pictures of every kind become upright BGR bytes, or an error with the file's name."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from xmodaler_ssattn.detectors.pictures import MAX_PIXELS, MIN_SIDE, decode_ahead, read_picture
from xmodaler_ssattn.errors import UserError

HEIGHT, WIDTH = 20, 30


def colours():
    """(20, 30, 3) uint8 RGB: red grows to the right, green downwards, blue is 7 everywhere."""
    rgb = np.full((HEIGHT, WIDTH, 3), 7, dtype=np.uint8)
    rgb[:, :, 0] = np.arange(WIDTH) * 8
    rgb[:, :, 1] = np.arange(HEIGHT)[:, None] * 12
    return rgb


def save(path, rgb=None, mode="RGB", **options):
    Image.fromarray(colours() if rgb is None else rgb).convert(mode).save(path, **options)
    return path


def test_a_colour_picture_comes_blue_first(tmp_path):
    pixels = read_picture(save(tmp_path / "a.png"))
    assert pixels.dtype == np.uint8 and pixels.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(pixels, colours()[:, :, ::-1])


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".tiff", ".ppm", ".jp2", ".gif"])
def test_every_format_gives_nearly_the_same_pixels(tmp_path, suffix):
    smooth = colours()[:, :, ::-1].astype(int)
    options = {"quality": 98} if suffix in (".jpg", ".webp") else {}
    assert np.abs(read_picture(save(tmp_path / f"a{suffix}", **options)).astype(int) - smooth).mean() < 6


def test_grey_and_black_and_white_have_three_equal_channels(tmp_path):
    grey = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    pixels = read_picture(save(tmp_path / "grey.png", grey, "L"))
    for channel in range(3):
        np.testing.assert_array_equal(pixels[:, :, channel], grey)
    assert set(np.unique(read_picture(save(tmp_path / "two.png", grey, "1")))) == {0, 255}


def test_a_palette_gives_its_colours(tmp_path):
    rgb = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    rgb[:, : WIDTH // 2] = (250, 20, 30)
    Image.fromarray(rgb).quantize(4).save(tmp_path / "a.png", transparency=0)
    pixels = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels, rgb[:, :, ::-1])  # also where the palette says "transparent"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped_and_not_blended(tmp_path, mode):
    picture = Image.fromarray(colours()).convert(mode)
    picture.putalpha(Image.new("L", picture.size, 0))  # all of it invisible
    picture.save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(colours()).convert(mode[:-1]).convert("RGB"))[:, :, ::-1]
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), expected)


def test_cmyk_is_converted(tmp_path):
    pixels = read_picture(save(tmp_path / "a.jpg", mode="CMYK", quality=98))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - colours()[:, :, ::-1].astype(int)).mean() < 6


@pytest.mark.parametrize("brightest", [1, 255, 65535, 2**31 - 1])
def test_a_tiff_of_32_bit_integers_has_no_brightest_value_and_is_refused_whatever_it_holds(tmp_path, brightest):
    """Read as 16 bits, values up to 255 would give a black picture, and larger ones would wrap."""
    values = np.linspace(0, brightest, HEIGHT * WIDTH).astype(np.int32).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=rf"a\.tiff: its pixels are 32-bit numbers \(0 to {brightest}\).*8 or 16 bits"):
        read_picture(tmp_path / "a.tiff")


def tiff(bits, data, photometric=1, kind=1):
    """A grey TIFF of one strip, HEIGHT x WIDTH; photometric 0: zero is white; kind 2: signed."""
    values = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: HEIGHT, 339: kind}
    values[279] = len(data)
    values[273] = 8 + 2 + 12 * len(values) + 4  # where the pixels begin
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(values.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4) + data


def test_twelve_bits_are_cut_to_their_upper_eight_and_not_read_as_sixteen(tmp_path):
    values = np.arange(HEIGHT * WIDTH) * 6  # 0 to 3594
    pairs = values.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    (tmp_path / "a.tiff").write_bytes(tiff(12, packed.astype(np.uint8).tobytes()))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tiff")[:, :, 0].ravel(), values // 16)


@pytest.mark.parametrize(("bits", "kind"), [(8, "u1"), (16, "<u2")])
def test_a_tiff_whose_zero_is_white_is_turned_round(tmp_path, bits, kind):
    values = np.linspace(0, 2**bits - 1, HEIGHT * WIDTH).astype(kind)
    (tmp_path / "a.tiff").write_bytes(tiff(bits, values.tobytes(), photometric=0))
    pixels = read_picture(tmp_path / "a.tiff")[:, :, 0].ravel()
    np.testing.assert_array_equal(pixels, 255 - (values >> (bits - 8)))


@pytest.mark.parametrize(("bits", "kind"), [(8, "i1"), (16, "<i2")])
def test_signed_numbers_are_refused(tmp_path, bits, kind):
    (tmp_path / "a.tiff").write_bytes(tiff(bits, np.arange(HEIGHT * WIDTH).astype(kind).tobytes(), kind=2))
    with pytest.raises(UserError, match=rf"its pixels are signed {bits}-bit numbers"):
        read_picture(tmp_path / "a.tiff")


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_keep_their_upper_eight(tmp_path, suffix):
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    pixels = read_picture(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(pixels[:, :, 1], values // 256)  # 65535 -> 255, 300 -> 1


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("#ff0000", "#0000ff")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_picture(tmp_path / "a.gif")[0, 0], [0, 0, 255])


@pytest.mark.parametrize("suffix", [".gif", ".tiff", ".webp", ".png"])
def test_of_several_frames_or_pages_it_is_said_that_the_first_one_is_used(tmp_path, caplog, suffix):
    read_picture(save(tmp_path / f"one{suffix}"))
    assert not caplog.records
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("#ff0000", "#0000ff")]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / f"a{suffix}")[0, 0, 2] > 250  # red
    assert f"a{suffix}: it has several frames or pages; the first one is used" in caplog.text


# What to do with the stored rows and columns so that the picture stands upright, by the EXIF standard's table.
UPRIGHT = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}  # fmt: skip


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_exif_rotation_is_applied_once(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a{suffix}", exif=exif)
    np.testing.assert_array_equal(read_picture(path), UPRIGHT[orientation](colours())[:, :, ::-1])


def test_a_turned_jpeg_is_turned_back(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = read_picture(save(tmp_path / "a.jpg", exif=exif, quality=98))
    assert pixels.shape == (WIDTH, HEIGHT, 3)
    # Stored row 0, where green is darkest, is the right-hand column now.
    assert pixels[:, -1, 1].mean() < 30 < pixels[:, 0, 1].mean()


# --- what cannot be used --------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_data_do_not_spoil_a_picture(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(colours()).save(buffer, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert read_picture(tmp_path / "a.jpg").shape == (HEIGHT, WIDTH, 3)


def bad(tmp_path, content, name="photo.jpg"):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_picture(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    return str(caught.value)


def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_what_is_not_a_picture_says_so(tmp_path):
    assert "not a picture of a known format (JPEG, PNG" in bad(tmp_path, b"a text file, named so\n")
    assert "the file is empty" in bad(tmp_path, b"")
    assert "HEIC and AVIF" in bad(tmp_path, b"\0\0\0\x18ftypheic" + bytes(20))
    # A format that would start another program is not even looked at.
    assert "not a picture of a known format" in bad(tmp_path, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n")


def test_a_jpeg_cut_short_is_refused_wherever_it_is_cut(tmp_path):
    whole = jpeg()
    for share in (0.1, 0.5, 0.9, 0.99):
        assert "damaged or incomplete" in bad(tmp_path, whole[: int(share * len(whole))])


def test_pictures_too_small_for_a_region_are_refused(tmp_path):
    for size in ((1, 1), (MIN_SIDE - 1, 200), (200, MIN_SIDE - 1)):
        Image.new("RGB", size).save(tmp_path / "a.png")
        with pytest.raises(UserError, match=rf"a\.png: {size[0]} x {size[1]} pixels; regions need at least 16"):
            read_picture(tmp_path / "a.png")
    Image.new("RGB", (MIN_SIDE, MIN_SIDE)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").shape == (MIN_SIDE, MIN_SIDE, 3)


def test_a_panorama_of_20_000_pixels_is_read_and_one_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (20_000, 300)).save(tmp_path / "wide.png")
    assert read_picture(tmp_path / "wide.png").shape == (300, 20_000, 3)
    high = MAX_PIXELS // 20_000 + 1
    Image.new("1", (20_000, high)).save(tmp_path / "huge.png")
    with pytest.raises(UserError, match=rf"huge\.png: 20000 x {high} are 89 million pixels"):
        read_picture(tmp_path / "huge.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_small_file_that_would_unpack_to_gigabytes_is_refused(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")  # 50 kB
    with pytest.raises(UserError, match=r"bomb\.png: it has more than 89 million pixels"):
        read_picture(tmp_path / "bomb.png")


def test_pixels_that_are_no_colours_are_refused(tmp_path):
    Image.fromarray(np.zeros((20, 20), dtype=np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"a\.tiff: its pixels are floating-point numbers"):
        read_picture(tmp_path / "a.tiff")
    Image.fromarray(np.full((20, 20), 70_000, dtype=np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"32-bit numbers \(70000 to 70000\)"):
        read_picture(tmp_path / "a.tiff")


def test_folders_and_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match="the file does not exist"):
        read_picture(tmp_path / "none.jpg")
    with pytest.raises(UserError, match="this is not a file"):
        read_picture(tmp_path)


# --- reading ahead --------------------------------------------------------------------------------------
def test_pictures_come_in_order_with_errors_in_the_place_of_the_bad_ones(tmp_path):
    items = []
    for number in range(9):
        path = tmp_path / f"{number}.png"
        if number % 4 == 1:
            path.write_bytes(b"nothing")
        else:
            Image.new("RGB", (20 + number, 20)).save(path)
        items.append((number, path))
    for ahead in (1, 3, 100):
        found = list(decode_ahead(items, ahead))
        assert [(number, path) for number, path, _ in found] == items
        for number, path, pixels in found:
            if number % 4 == 1:
                assert isinstance(pixels, UserError) and str(path) in str(pixels)
            else:
                assert pixels.shape == (20, 20 + number, 3)


def test_no_more_pictures_are_read_than_requested(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    taken = []

    def pictures():
        for number in range(100):
            taken.append(number)
            yield number, tmp_path / "a.png"

    reader = decode_ahead(pictures(), 3)
    next(reader)
    assert len(taken) == 3
    next(reader)
    assert len(taken) == 4
    reader.close()


def test_no_picture_at_all_gives_nothing():
    assert list(decode_ahead([])) == []


def test_16_bits_that_hold_fewer_are_warned_of(tmp_path, caplog):
    """12-bit numbers, up to 4095 = 15 * 256 + 255, are nearly black as 16-bit ones; a bright picture is not."""
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(tmp_path / "bright.png")
    Image.fromarray(values // 16).save(tmp_path / "dark.png")
    read_picture(tmp_path / "bright.png")
    assert not caplog.records
    assert read_picture(tmp_path / "dark.png").max() == 15
    assert "dark.png: read as 16-bit numbers it is nearly black: the brightest one is 4095 of 65535" in caplog.text
