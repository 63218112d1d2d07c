"""Nothing half-written stays behind."""

import ast
import gzip
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xmodaler_ssattn.configuring import read_yaml
from xmodaler_ssattn.errors import UserError, numbered, raise_all
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
from xmodaler_ssattn.ids import plain_id


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


def test_what_a_link_names_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "large_disk").mkdir()
    real, link = tmp_path / "large_disk" / "x.json", tmp_path / "x.json"
    real.write_text("old")
    link.symlink_to(real)
    write_json(link, [1])
    assert link.is_symlink() and real.read_text() == "[1]\n" and list(real.parent.iterdir()) == [real]


def test_a_pipe_receives_the_content_and_a_folder_is_refused(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as others:
        got = others.submit(pipe.read_text)
        write_json(pipe, {"a": 1})
        assert got.result(timeout=20) == '{"a": 1}\n'
    assert stat.S_ISFIFO(pipe.stat().st_mode) and list(tmp_path.iterdir()) == [pipe]
    with pytest.raises(UserError, match=r"is a folder, expected the name of a file"), atomic_path(tmp_path):
        pass


def test_a_name_may_be_as_long_as_the_system_allows_and_need_not_be_utf_8(tmp_path):
    write_json(tmp_path / ("x" * 250 + ".json"), 1)
    write_json(tmp_path / os.fsdecode(b"b\xff.json"), 1)
    assert len(list(tmp_path.iterdir())) == 2


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


def test_problems_of_one_kind_are_grouped_and_the_others_are_listed():
    few = [f"image {number} has the box '{number}, 2'" for number in range(5)]
    assert numbered(few).splitlines() == [f"  {at}. {problem}" for at, problem in enumerate(few, 1)]
    many = [f"image {number} has the box '{number}, 2'" for number in range(30_000)]
    assert numbered(["no head", *many, "no foot"]).splitlines() == [
        "  1. no head",
        "  2. image 0 has the box '0, 2'",
        "  3. image 1 has the box '1, 2'",
        "  4. image 2 has the box '2, 2'",
        "     ... and 29,997 more of this kind",
        "  5. no foot",
    ]
    with pytest.raises(UserError, match=r"(?s)^Here; 30,000 problems:\n  1\. image 0.*and 29,997 more of this kind$"):
        raise_all(many, "Here")
    kinds = [f"{letter} is missing" for letter in "abcdefghijklmnopqrstuvwxyz"]
    assert numbered(kinds).splitlines()[19:] == ["  20. t is missing", "  ... and 6 more"]
    with pytest.raises(UserError, match="26. z is missing"):
        raise_all(kinds, "Here")


def test_marks_inside_of_joined_files_and_compressed_texts(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n")
    assert read_lines(tmp_path / "x", "x") == ["a", "b"]
    (tmp_path / "x").write_bytes(gzip.compress("a\r\nb".encode("utf-16")))
    assert read_lines(tmp_path / "x", "x") == ["a", "b"]
    (tmp_path / "x").write_bytes(gzip.compress(b"a" * 1000)[:-9])
    with pytest.raises(UserError, match="The words: .*x is not a complete gzip file"):
        read_lines(tmp_path / "x", "The words")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is duplicated in one object"),
        ("[NaN]", "NaN is not a finite number"),
        ("[-Infinity]", "-Infinity is not"),
        ("[1e999]", "1e999 is not a finite number"),
        ("", "line 1, column 1"),
        ("{} {}", "Extra data"),
    ],
)
def test_json_that_python_alone_would_accept_is_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=rf"The table: .*x\.json is not valid JSON.*{message}"):
        read_json(tmp_path / "x.json", "The table")
    (tmp_path / "x.json").write_text("[NaN, 1e999]")
    assert str(read_json(tmp_path / "x.json", "The table", finite=False)) == "[nan, inf]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}", r"x\.yaml, line 2: the key 'c' is duplicated"),
        ("a: !!python/name:os.system", r"x\.yaml, line 1: .*could run code"),
        ("a: [1", r"x\.yaml is not valid yaml"),
        ("a: 2020-13-45", r"x\.yaml is not valid yaml"),
        ("a: \x07", r"x\.yaml is not valid yaml"),
    ],
)
def test_yaml_is_plain_data_without_a_key_twice(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "x.yaml", "The plan")
    (tmp_path / "x.yaml").write_text("a: &b {c: 1}\nd: {<<: *b, e: 2}\n")
    assert read_yaml(tmp_path / "x.yaml", "The plan") == {"a": {"c": 1}, "d": {"c": 1, "e": 2}}


@pytest.mark.parametrize(
    ("value", "number"),
    [("7", 7), ("007", 7), (7, 7), ("0", 0), (str(2**63 - 1), 2**63 - 1), ("0" * 40 + "7", 7), (" 7", 7)]
    + [(value, None) for value in ("-7", "+7", "1e9", "7.0", 7.0, "7 8", "1_0", "", "img_12", "\u0667", "\u00b2", True)]
    + [(value, None) for value in (None, [], 2**63, str(2**63), "9" * 5000, -7)],
)
def test_an_id_is_plain_digits_below_2_to_the_63(value, number):
    assert plain_id(value) == number


# --- one reader ---------------------------------------------------------------------------------------
# Calls that turn bytes of a file into text, JSON or yaml. Each use outside files.py needs its reason here.
READS = {"read_text", "decode", "loads", "safe_load", "load_all", "loadtxt", "genfromtxt", "fromtxt", "reader"}
OWN, MACHINE, PROCESS = "written by this package", "the machine's own file", "output of a program that we started"
ALLOWED_READS = {
    "cli/demo.py": {"read_text": OWN, "loads": OWN},  # terminal output and metrics of the demo's runs, while they grow
    "cli/output.py": {"decode": "the name of a file, for a message"},
    "errors.py": {"decode": "an escaped character, for a message"},
    "engine/one_run.py": {"loads": "lines of metrics.json as bytes, to keep or remove"},
    "packs/trust.py": {"decode": PROCESS},
    "packs/opening.py": {"open": "bytes, in the mode that stands beside the opener"},
    "packs/safe_arrays.py": {"decode": "an id of one array element, as latin-1"},
    "packs/sniff.py": {"decode": "names of columns, as latin-1"},
    "packs/formats/tsv.py": {"decode": "an excerpt for a message, or the id column, as latin-1"},
    "data/device_cache.py": {"read_text": MACHINE},
    "packs/region_file.py": {"decode": "attributes of an HDF5 file"},
    "evaluation/java.py": {"decode": PROCESS},
    "evaluation/results.py": {"decode": "base64"},
    "evaluation/metrics/spice.py": {"read_text": PROCESS, "loads": PROCESS},
    "report/curves.py": {"loads": "lines of metrics.json from read_lines, where a run that diverged has NaN"},
    "report/page.py": {"read_text": "a template of this package", "decode": "what was encoded in the same line"},
    "report/single_file.py": {"read_text": OWN, "decode": "base64"},
    "reproduce/jobs.py": {"loads": "of json.dumps"},
    "reproduce/running.py": {"read_text": OWN},  # terminal output
    "runtime/setup.py": {"decode": "what the terminal's encoding lacks becomes an escape"},
    "runtime/data.py": {"loads": "of json.dumps"},
    "tools/docs.py": {"read_text": "the documents and sources of this clone"},
    "tools/faults.py": {"read_text": OWN, "loads": OWN},
    "tools/versions.py": {"read_text": OWN, "open": "an sdist that it has built"},
    "tools/benchmarks/contestants.py": {"loads": PROCESS},
    "tools/benchmarks/loading.py": {"loads": PROCESS},
    "tools/benchmarks/gpu_checks.py": {"read_text": OWN, "loads": OWN},
    "tools/gpu_check.py": {"read_text": OWN, "loads": PROCESS},
    "tools/benchmarks/measures.py": {"read_text": MACHINE},
    "tools/benchmark_store.py": {"read_text": MACHINE},
}


def text_reads(path):
    """(line, name) of every call that reads text in its own way: those of READS that are not the reader's own, and
    open() in a text mode that reads."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        name = called.rsplit(".", 1)[-1]
        ours = called == "read_text" or called.startswith("files.")  # xmodaler_ssattn.files
        if (name in READS and not ours and "." in called) or called in ("json.load", "yaml.load"):
            yield node.lineno, name
        if name == "open":
            # open(path, mode), but path.open(mode); PIL's Image.open and os.open have no text mode
            modes = [a.value for a in (*node.args, *(k.value for k in node.keywords if k.arg == "mode"))
                     if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
            if called in ("os.open", "Image.open", "archive.open") or any(set(mode) & set("bwax") for mode in modes):
                continue
            yield node.lineno, name


def test_every_text_file_is_read_by_the_one_reader():
    root = Path(__file__).parents[1]
    found: dict[str, dict[str, int]] = {}
    for path in sorted([*(root / "xmodaler_ssattn").rglob("*.py"), *(root / "tools").rglob("*.py")]):
        short = str(path.relative_to(root)).removeprefix("xmodaler_ssattn/")
        for line, name in text_reads(path):
            if short != "files.py":
                found.setdefault(short, {})[name] = line
    wild = {f"{short}:{line} {name}" for short, names in found.items() for name, line in names.items()
            if name not in ALLOWED_READS.get(short, {})}  # fmt: skip
    assert not wild, "use read_text, read_lines or read_json of xmodaler_ssattn.files, or give the reason"
    needless = {f"{short} {name}" for short, names in ALLOWED_READS.items() for name in names
                if name not in found.get(short, {})}  # fmt: skip
    assert not needless


def test_the_search_for_other_readers_finds_them(tmp_path):
    source = tmp_path / "x.py"
    source.write_text(
        "open(p)\nopen(p, encoding='utf-8')\nPath(p).read_text()\njson.load(f)\nyaml.safe_load(t)\nb.decode('utf-8')\n"
        "gzip.open(p, 'rt')\nnp.loadtxt(p)\np.open()\n"
        "open(p, 'rb')\nopen(p, 'w')\nread_text(p, 'x')\nfiles.read_text(p, 'x')\ntorch.load(p)\nImage.open(p)\n"
    )
    assert [line for line, _ in text_reads(source)] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
