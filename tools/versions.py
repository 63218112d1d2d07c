"""Install the package with the lowest and the newest dependencies on several Pythons, and run it there.

    pip install uv
    python tools/versions.py                                             all; prints a table as Markdown
    python tools/versions.py --python 3.11 --deps lowest --quick         one line, for CI

Builds the sdist, and from it the wheel. For each line of the table it makes a virtual environment in a temporary folder
outside the clone, installs the wheel, and runs there: `xmodaler --help`; `xmodaler train` with a config of the package,
until it names the missing data; a small `xmodaler demo`; and the tests of the unpacked sdist, with --quick those of
QUICK. The environment is then deleted. Exit code: 0, or 1 if anything failed; the output of what failed is in --logs.

uv does the installing. `lowest` takes for each requirement of setup.py the lowest version that its bound allows and for
which this Python has a wheel; the table names what is above its bound. For a Python that uv neither finds, also in
pyenv's folder, nor can download, the table has only the versions. PyPI has PyTorch's CUDA build for Linux, with which
an environment takes 6 GB; with --torch-backend cpu, 1.3 GB.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
DEPS = {"lowest": "lowest-direct", "newest": "highest"}
SOURCE_ONLY = ("fvcore", "iopath")  # pure Python, published without a wheel
SHOWN = ("torch", "numpy", "h5py")
# About 500 tests in a minute or two: tensors, files, configs, data, HDF5, pictures, scores, the page.
QUICK = (
    "tests/modeling",
    "tests/losses",
    "tests/contract/test_registered.py",
    "tests/contract/test_stock_parity.py",
    "tests/runtime/test_runtime_config.py",
    "tests/test_files.py",
    "tests/test_safe_load.py",
    "tests/test_sealed.py",
    "tests/test_boxes_and_caption.py",
    "tests/test_doctests.py",
    "tests/packs/test_store.py",
    "tests/data/test_sigma.py",
    "tests/evaluation/test_grounding_metric.py",
)
DEMO = ("--images", "60", "--epochs", "1")


class Failed(Exception):
    """A step failed; the message is a word for the table."""


class Line(NamedTuple):
    """One line of the table."""

    python: str
    deps: str
    versions: str
    size: str
    demo: str
    tests: str


class Cell:
    """One Python with one set of dependencies, in a folder of its own."""

    def __init__(self, uv: str, place: Path, log: Path, torch_backend: str | None) -> None:
        self.uv, self.place, self.log = uv, place, log
        self.venv, self.lock = place / "venv", place / "requirements.txt"
        self.options = [word for name in bounds() if name not in SOURCE_ONLY for word in ("--only-binary", name)]
        self.options += ["--torch-backend", torch_backend] if torch_backend else []

    def run(self, what: str, command: list[str], *, folder: Path | None = None, code: int = 0) -> str:
        """The output of a command that must end with ``code``."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("XMODALER", "PYTHON"))}
        environ |= {"OMP_NUM_THREADS": "1", "XMODALER_SSATTN_HOST": "embedded", "VIRTUAL_ENV": str(self.venv)}
        done = subprocess.run(
            command,
            cwd=folder or self.place,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n{done.stdout}\n")
        if done.returncode != code:
            raise Failed(f"{what} failed")
        return done.stdout

    def has(self, python: str) -> bool:
        """Make the environment, unless there is no such Python."""
        try:
            self.run("venv", [self.uv, "venv", "--quiet", "--python", python, str(self.venv)])
        except Failed:
            return False
        return True

    def resolve(self, deps: str, *python: str) -> dict[str, str]:
        """The version of each package that will be installed."""
        words = ["--extra", "test", "--resolution", DEPS[deps], "--output-file", str(self.lock), "--quiet", *python]
        self.run("resolving", [self.uv, "pip", "compile", str(ROOT / "setup.py"), *words, *self.options])
        return dict(re.findall(r"^([\w.-]+)==(\S+)$", self.lock.read_text(encoding="utf-8"), re.MULTILINE))

    def install(self, wheel: Path) -> None:
        self.run("install", [self.uv, "pip", "install", "--quiet", *self.options, "-r", str(self.lock)])
        self.run("install", [self.uv, "pip", "install", "--quiet", "--no-deps", str(wheel)])

    def try_elsewhere(self) -> str:
        """The installed command in a folder without the clone; returns the seconds of the demo."""
        xmodaler = str(self.venv / "bin" / "xmodaler")
        self.run("--help", [xmodaler, "--help"])
        words = ["train", "--config-file", "flickr30k_entities/ss_attn.yaml"]
        if "Data files are missing" not in self.run("train", [xmodaler, *words], code=2):
            raise Failed("train failed")
        begun = time.monotonic()
        self.run("demo", [xmodaler, "demo", *DEMO, "--out", "demo"])
        return f"{time.monotonic() - begun:.0f} s"

    def test(self, source: Path, quick: bool) -> str:
        """The tests of an sdist; returns pytest's counts."""
        command = [str(self.venv / "bin" / "python"), "-m", "pytest", "-q", *(QUICK if quick else ())]
        try:
            output = self.run("tests", command, folder=source)
        except Failed:
            output = self.log.read_text(encoding="utf-8")
        counts = re.findall(r"^(?=.*\d+ (?:passed|failed|error)).* in [\d.]+s.*$", output, re.MULTILINE)
        return re.sub(r"=+|, \d+ warnings?", "", counts[-1]).strip() if counts else "tests failed"


def bounds() -> dict[str, str]:
    """Requirement -> lowest allowed version, from setup.py; without the higher bounds of some Pythons."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    return dict(re.findall(r'"([\w-]+)>=([\w.]+)"', text[text.index("install_requires") :]))


def described(versions: dict[str, str], deps: str) -> str:
    """Versions of the main packages; of ``lowest`` also those above their bound, as this Python has no such wheel."""

    def number(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text.split("+")[0])]

    raised = [
        f"{name} {versions[name]} ({bound})"
        for name, bound in bounds().items()
        if deps == "lowest" and name in versions and name not in SOURCE_ONLY
        # 2.4 is also 2.4.0, and 17 also 17.0.2.1
        if number(versions[name])[: len(number(bound))] != number(bound)
    ]
    main = ", ".join(f"{name} {versions.get(name, '-')}" for name in SHOWN)
    return main + (f"; above the lowest bound: {', '.join(raised)}" if raised else "")


def size_of(folder: Path) -> str:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return f"{sum(path.stat().st_size for path in files) / 1e9:.1f} GB"


def build(uv: str, out: Path) -> tuple[Path, Path]:
    """(the wheel, the folder of the unpacked sdist)"""
    subprocess.run([uv, "build", "--quiet", "--out-dir", str(out), str(ROOT)], check=True)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(out)
    return wheel, out / sdist.name.removesuffix(".tar.gz")


def line_of(cell: Cell, python: str, deps: str, wheel: Path, source: Path, quick: bool) -> Line:
    versions = size = demo = tests = "-"
    try:
        if not cell.has(python):
            versions = described(cell.resolve(deps, "--python-version", python), deps)
            return Line(python, deps, versions, size, "this Python was not found", tests)
        versions = described(cell.resolve(deps, "--python", str(cell.venv)), deps)
        cell.install(wheel)
        size = size_of(cell.venv)
        demo = cell.try_elsewhere()
    except Failed as error:
        demo = str(error)
    if size != "-":
        tests = cell.test(source, quick)
    return Line(python, deps, versions, size, demo, tests)


def table(lines: list[Line]) -> str:
    head = "| Python | dependencies | versions | installed | demo | tests |\n|---|---|---|---|---|---|\n"
    return head + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS, metavar="X.Y", help=f"default: {' '.join(PYTHONS)}")
    parser.add_argument("--deps", nargs="+", default=list(DEPS), choices=DEPS, help="default: both")
    parser.add_argument("--quick", action="store_true", help="a selection of fast tests, about a minute")
    parser.add_argument("--torch-backend", metavar="B", help="uv's option: cpu takes PyTorch's CPU index, much smaller")
    parser.add_argument("--logs", default="output/versions", metavar="DIR", help="default: output/versions")
    args = parser.parse_args()
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        parser.error("uv is needed: pip install uv")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *(str(path) for path in sorted(pyenv.glob("*/bin")))])
    logs = Path(args.logs).resolve()
    logs.mkdir(parents=True, exist_ok=True)
    lines = []
    with tempfile.TemporaryDirectory(prefix="versions-") as place:
        wheel, source = build(uv, Path(place))
        for deps in args.deps:
            for python in args.python:
                log = logs / f"{python}-{deps}.txt"
                log.unlink(missing_ok=True)
                with tempfile.TemporaryDirectory(dir=place) as folder:
                    cell = Cell(uv, Path(folder), log, args.torch_backend)
                    lines.append(line_of(cell, python, deps, wheel, source, args.quick))
                print(table(lines[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(lines))
    return int(any("failed" in cell or "error" in cell for line in lines for cell in line))


if __name__ == "__main__":
    sys.exit(main())
