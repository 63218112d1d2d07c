"""The entry point of the command ``xmodaler``, outside the package so that it can answer without PyTorch.

Importing the package registers its classes, which imports a host and PyTorch: two seconds. The command therefore
makes the package known without running its ``__init__``; ``cli.main`` runs it once the command line is understood.
"""

import importlib.util
import sys


def main() -> int:
    spec = importlib.util.find_spec("xmodaler_ssattn")
    assert spec is not None and spec.loader is not None  # it is installed together with this file
    execute = spec.loader.exec_module
    package = importlib.util.module_from_spec(spec)
    sys.modules["xmodaler_ssattn"] = package
    if sys.argv[1:] == ["--version"]:  # half of the time would go into argparse
        from xmodaler_ssattn._version import __version__

        print(f"xmodaler_ssattn {__version__}")
        return 0

    from xmodaler_ssattn.cli.main import main as run

    return run(register_classes=lambda: execute(package))


if __name__ == "__main__":
    sys.exit(main())
