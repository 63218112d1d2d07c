"""One rule for image ids, wherever they are read."""

import numpy as np
import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.ids import id_in_name, image_id_of


@pytest.mark.parametrize("value, number", [
    (0, 0), (139, 139), (np.int64(139), 139), (np.uint8(3), 3), (2**63 - 1, 2**63 - 1),
    ("139", 139), ("000000000139", 139), (" 139\n", 139), ("0", 0), ("0" * 5000 + "7", 7),
    ("9223372036854775807", 2**63 - 1),
])  # fmt: skip
def test_whole_numbers_are_ids(value, number):
    assert image_id_of(value) == number and type(image_id_of(value)) is int


@pytest.mark.parametrize("value", [
    -7, 2**63, True, False, 12.0, 1e9, np.float64(12), np.bool_(True), None, [12], b"12",
    "", " ", "-7", "+7", "1e9", "12.0", "1_000", "0x1f", "12 3", "１２", "²", "٣", "nan", "True", "b'12'",
    "9223372036854775808", "9" * 5000,
])  # fmt: skip
def test_nothing_else_is(value):
    with pytest.raises(UserError, match=r"^the image id .* is not an integer from 0 to 2\*\*63 - 1$") as caught:
        image_id_of(value)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("name, number", [
    ("123.jpg", 123), ("123", 123), ("000000000139.jpg", 139), ("COCO_val2014_000000000139.jpg", 139),
    ("COCO_val2014_000000000139", 139), ("IMG_2041.JPEG", 2041), ("more/7.png", 7), ("7.jpg.npz", 7), ("7.npy", 7),
    ("C:\\val2014\\COCO_val2014_000000000140.jpg", 140), ("2014/12/7.jpg", 7), ("my-holiday_7.png", 7),
    ("写真_7.jpg", 7), ("_7.jpg", 7), ("9223372036854775807.jpg", 2**63 - 1),
])  # fmt: skip
def test_the_number_that_ends_a_name_is_its_id(name, number):
    assert id_in_name(name) == number


@pytest.mark.parametrize("name, reason", [
    ("beach.jpg", "does not end with a number"), ("IMG2041.jpg", "does not end"), ("7 copy.jpg", "does not end"),
    ("-7.jpg", "does not end"), ("img_-7.jpg", "does not end"), ("1e9.jpg", "does not end"), ("12.0", "does not end"),
    ("٣.jpg", "does not end"), ("²", "does not end"), ("img_１２.jpg", "does not end"), ("", "does not end"),
    (".jpg", "does not end"), ("img_12_3.jpg", "several numbers"), ("img-12_3.jpg", "several numbers"),
    ("20240102_120000.jpg", "several numbers"), ("12.5_7", "several numbers"), ("²_7", "several numbers"),
    ("1e9_7.jpg", "several numbers"), ("9223372036854775808.jpg", "9223372036854775808' is not an integer"),
])  # fmt: skip
def test_a_name_without_one_clear_number_gives_none(name, reason):
    with pytest.raises(UserError, match=reason):
        id_in_name(name)
