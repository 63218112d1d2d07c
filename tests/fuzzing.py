"""Random changes of valid inputs: a reader gives a value or a ``UserError``, soon, and nothing else.

``binary_inputs`` and the ``INPUTS`` of data/test_text_inputs.py have a valid input and the reader of each kind;
``foreign_errors`` tries changes of one. Used by test_fuzzing with few changes and by tools/faults.py with many.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ODD = (
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    -0.0,
    "",
    "x",
    "\0",
    "é" * 9,
    "1",
    [],
    {},
    [[]],
    {"a": {}},
    3.5,
    "../../x",
    "[]",
)
TOKENS = (
    b"1e999", b"NaN", b"-", b"9" * 5000, b"[" * 3000, b"{" * 3000, b'"\\ud800"', b"null", b"true", b'{"a":1,"a":2}',
    b"\0", b"\xff", b"\xef\xbb\xbf", b"&a [*a]", b"*a", b"? [a]\n: b\n", b"!!python/object:os.system ", b"<<: *a\n",
    b"\r", b"\x1b[2J", b"<!ENTITY a 'b'>", b"&a;", b"<x>", b"]]>", b"/dev/zero", b"..", b"\xed\xa0\x80",
    b"1" * 400 + b".5", b"\x80\x05", b"PK\x03\x04",
)  # fmt: skip
SECONDS = 5
"""Limit for one reading, of the process's own time; a small input takes milliseconds."""


def changed(data: bytes, rng: random.Random) -> bytes:
    """A random change, or two of them."""
    for _ in range(1 + (rng.random() < 0.3)):
        data = _change(data, rng)
    return data


def _change(data: bytes, rng: random.Random) -> bytes:
    i = rng.randrange(len(data) + 1)
    j = min(len(data), i + rng.randrange(1, 60))
    kind = rng.randrange(10)
    if kind == 0:
        return data[:i]
    if kind == 1:
        return data[:i] + bytes([data[i] ^ (1 << rng.randrange(8))]) + data[i + 1 :] if i < len(data) else data
    if kind == 2:
        return data[:i] + bytes(rng.randrange(256) for _ in range(j - i)) + data[j:]
    if kind == 3:
        return data[:i] + data[j:]
    if kind == 4:
        return data[:i] + data[i:j] * rng.randrange(2, 9) + data[j:]
    if kind == 5:
        return data[:i] + bytes(j - i) + data[j:]
    if kind in (6, 7):
        return data[:i] + rng.choice(TOKENS) + data[(i if kind == 6 else j) :]
    return _changed_value(data, rng)


def _changed_value(data: bytes, rng: random.Random) -> bytes:
    """Another value at a random place of a JSON text; other data are cut."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data[: rng.randrange(len(data) + 1)]
    places: list[tuple[Any, Any]] = []

    def collect(node: Any, depth: int = 0) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            if depth < 20:
                collect(node[key], depth + 1)

    collect(value)
    if not places:
        return json.dumps(rng.choice(ODD)).encode()
    node, key = rng.choice(places)
    if isinstance(node, dict) and rng.random() < 0.2:
        node[rng.choice(("", "x", "1", str(key) + " "))] = node.pop(key)
    else:
        node[key] = rng.choice(ODD)
    return json.dumps(value).encode()


class TooLong(Exception):
    pass


def open_in_a_fork(paths: Sequence[Path], seconds: int) -> tuple[bytes, str]:
    """As ``packs.trust._open_elsewhere``, in a copy of this process: a new one takes half a second."""
    from xmodaler_ssattn.packs import trust

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sys.argv[:] = ["-c", "2", str(SECONDS * 60), *map(str, paths)]
            sys.stdout = os.fdopen(writer, "w")
            exec(trust._PROBE, {})
        except SystemExit as end:
            os._exit(end.code)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        seen = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return seen, trust.how_it_ended(code)


def foreign_errors(name: str, path: Path, read: Any, changes: int, seed: int = 0) -> tuple[Counter, list[str]]:
    """Read ``changes`` changed inputs; the file is valid before and afterwards.

    Returns:
        the number of outcomes by kind ("value", "our error", "foreign error", "too long"), and a text for each of the
        last two.
    """
    from xmodaler_ssattn.errors import UserError
    from xmodaler_ssattn.packs import trust

    def alarm(number: int, frame: Any) -> None:
        raise TooLong

    valid = path.read_bytes()
    before, elsewhere = signal.signal(signal.SIGPROF, alarm), trust._open_elsewhere
    trust._open_elsewhere = open_in_a_fork
    counts: Counter = Counter()
    found = []
    try:
        for number in range(changes):
            rng = random.Random(f"{name} {seed} {number}")
            data = changed(valid, rng)
            path.write_bytes(data)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                read(path)
                outcome = "value"
            except UserError:
                outcome = "our error"
            except TooLong:
                outcome = "too long"
            except Exception as error:
                outcome = "foreign error"
                last = traceback.extract_tb(error.__traceback__)[-1]
                found.append(
                    f"{name} {seed} {number}: {type(error).__name__} at {last.filename}:{last.lineno}: {error}"[:300]
                )
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            if outcome == "too long":
                found.append(f"{name} {seed} {number}: more than {SECONDS} s")
            counts[outcome] += 1
    finally:
        signal.signal(signal.SIGPROF, before)
        trust._open_elsewhere = elsewhere
        path.write_bytes(valid)
    return counts, found


def binary_inputs(folder: Path) -> dict[str, tuple[Path, Any]]:
    """What it is -> (a valid file, how it is read), for files that are not text; they are written into ``folder``.

    The files of one reader have names with " / "."""
    import torch
    from PIL import Image

    from detectors.test_sources import pack as pack_pictures
    from packs.pack_writers import SIZES, WRITERS
    from packs.test_mutated_packs import reopen, write
    from xmodaler_ssattn.detectors.pictures import read_picture
    from xmodaler_ssattn.detectors.sources import open_source
    from xmodaler_ssattn.engine.kept import damage
    from xmodaler_ssattn.engine.resume import iterations_of, run_of
    from xmodaler_ssattn.packs.convert import convert_regions
    from xmodaler_ssattn.packs.select import Rules
    from xmodaler_ssattn.packs.store import RegionStore
    from xmodaler_ssattn.safe_load import read_checkpoint
    from xmodaler_ssattn.sealed import save_sealed

    content = {
        "model": {"w": torch.arange(40.0)},
        "iteration": 3,
        "trainer": {"optimizer": {"state": {0: {"step": 1.0}}}},
    }
    save_sealed(folder / "sealed.pth", content)
    torch.save(content, folder / "old.pth", _use_new_zipfile_serialization=False)
    found: dict[str, tuple[Path, Any]] = {}
    for name in ("sealed", "old"):
        path = folder / f"{name}.pth"
        found[f"{name} checkpoint"] = (path, read_checkpoint)
        found[f"{name} checkpoint, its run"] = (path, run_of)
        found[f"{name} checkpoint, its iteration"] = (path, iterations_of)
        found[f"{name} checkpoint, its damage"] = (path, damage)
    picture = Image.radial_gradient("L").resize((40, 30)).convert("RGB")
    for suffix in ("png", "jpg", "webp", "tiff", "gif", "bmp"):
        picture.save(folder / f"p1.{suffix}")
        found[f"picture, {suffix}"] = (folder / f"p1.{suffix}", read_picture)

    def read_pictures(path: Path) -> list[Any]:
        source = open_source(path)
        return list(source.read(source.names))

    for kind in ("zip", "tar", "tar.gz", *(["parquet"] if find_spec("pyarrow") else [])):
        found[f"pictures, {kind}"] = (pack_pictures(folder, kind), read_pictures)

    def read_all(path: Path) -> list[Any]:
        store = RegionStore(path)
        return [store.read(image_id).check_numbers(path) for image_id in store.ids.tolist()]

    for name in (*WRITERS, "regions"):
        pack = folder / f"pack {name}"
        write(name, pack)  # makes the folder

        def convert(path: Path, name: str = name, pack: Path = pack) -> Any:
            for old in folder.glob("out.h5*"):
                old.unlink()
            return convert_regions(reopen(name, pack), folder / "out.h5", Rules(), sizes=SIZES, skip_bad=True)

        for path in sorted(pack.rglob("*.h5" if name == "regions" else "*.*")):
            found[f"pack {name} / {path.relative_to(pack)}"] = (path, convert)
    found["region file"] = (folder / "pack regions" / "r.h5", read_all)
    return found


def text_inputs(folder: Path) -> dict[str, tuple[Path, Any]]:
    """The same for text."""
    from data.test_text_inputs import INPUTS

    found = {}
    for kind, (name, text, read) in INPUTS.items():
        path = folder / kind / name
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        found[kind] = (path, read)
    return found
