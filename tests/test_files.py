"""Nothing half-written stays behind."""

import json

import pytest

from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import (
    atomic_directory,
    atomic_path,
    decode_text,
    read_json,
    read_lines,
    read_text,
    sha256_of,
    write_json,
)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "x.json"
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and list(target.parent.iterdir()) == [target]


def test_a_failed_rewrite_keeps_the_old_file(tmp_path):
    target = tmp_path / "x.json"
    write_json(target, {"a": 1})
    with pytest.raises(ValueError):
        write_json(target, {"a": float("nan")})  # JSON has no NaN
    assert json.loads(target.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_whole_and_is_never_replaced(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(KeyError), atomic_directory(target) as temporary:
        (temporary / "a").write_text("1")
        raise KeyError
    assert not target.exists() and list(tmp_path.iterdir()) == []
    with atomic_directory(target) as temporary:
        (temporary / "a").write_text("1")
    assert (target / "a").read_text() == "1"
    with pytest.raises(FileExistsError), atomic_directory(target):
        pass


def test_reading_json_names_the_file_and_the_place(tmp_path):
    with pytest.raises(UserError, match="The table: the file .*x.json does not exist"):
        read_json(tmp_path / "x.json", "The table")
    (tmp_path / "x.json").write_text('{"a": 1,')
    with pytest.raises(UserError, match=r"x\.json is not valid JSON \(line 1, column 9.*is the file complete"):
        read_json(tmp_path / "x.json", "The table")
    (tmp_path / "x.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(UserError, match="The table: .*x.json is not valid UTF-8 text: line 1, byte 7 is 0xe9"):
        read_json(tmp_path / "x.json", "The table")
    for text in ("[" * 200_000, "9" * 5000):  # deeper, and longer, than Python's own limits
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UserError, match=r"x\.json (cannot be read as|is not valid) JSON"):
            read_json(tmp_path / "x.json", "The table")
    with pytest.raises(UserError, match="is a folder"):
        read_json(tmp_path, "The table")


def test_a_name_that_stands_twice_in_an_object_is_refused_where_it_would_hide_something(tmp_path):
    (tmp_path / "x.json").write_text('{"a": {"7": 1, "8": 2, "7": 3}}')
    assert read_json(tmp_path / "x.json", "The table") == {"a": {"7": 3, "8": 2}}
    with pytest.raises(UserError, match=r"The table: .*x\.json .*these names stand twice in one object: 7\."):
        read_json(tmp_path / "x.json", "The table", unique_keys=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_is_the_same_in_every_unicode_encoding_and_with_every_line_end(tmp_path, encoding, end):
    path = tmp_path / "words.txt"
    path.write_bytes(f"caf\xe9{end}dog{end}".encode(encoding))
    assert read_text(path, "The words") == "caf\xe9\ndog\n"
    assert read_lines(path, "The words") == ["caf\xe9", "dog"]


def test_only_line_feeds_end_a_line(tmp_path):
    # str.splitlines also breaks at a form feed, at U+0085 and at U+2028.
    (tmp_path / "x").write_text("a\x0cb\x85c\u2028d\n\ne\n", encoding="utf-8")
    assert read_lines(tmp_path / "x", "x") == ["a\x0cb\x85c\u2028d", "", "e"]
    (tmp_path / "x").write_text("")
    assert read_lines(tmp_path / "x", "x") == []


def test_bytes_that_are_not_text_are_refused_with_line_and_byte():
    with pytest.raises(UserError, match=r"w\.txt is not valid UTF-8 text: line 2, byte 7 is 0xe9"):
        decode_text(b"abc\ncaf\xe9 x", "w.txt")
    with pytest.raises(UserError, match="NUL character at position 1. If it is UTF-16 without a byte order mark"):
        decode_text("ab".encode("utf-16-le"), "w.txt")
    with pytest.raises(UserError, match="not valid UTF-16 text: line 1, byte 4"):
        decode_text(b"\xff\xfeabc", "w.txt")


def test_a_text_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"The words: the file .*none\.txt does not exist"):
        read_text(tmp_path / "none.txt", "The words")
    with pytest.raises(UserError, match=r"The words: .* is a folder, expected a file"):
        read_text(tmp_path, "The words")


def test_sha256_is_the_published_one_of_the_empty_file(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_all_problems_come_in_one_message():
    raise_all([], "nothing")
    with pytest.raises(UserError, match="^Here: one thing$"):
        raise_all(["one thing"], "Here")
    with pytest.raises(UserError, match="2 problems:\n  1. one\n  2. two"):
        raise_all(["one", "two"], "Here")
