"""The entry point of the command ``xmodaler``, outside the package on purpose.

Importing the package chooses and imports a host, which can fail for reasons that a person can mend (a
wrong XMODALER_HOME, a clone that lacks a requirement). Out here that failure becomes a plain message.
"""

import sys


def main() -> int:
    try:
        from xmodaler_ssattn.cli.main import main as run
    except RuntimeError as error:
        if type(error).__name__ != "HostError":  # the class lives in the module that failed to import
            raise
        print(f"xmodaler: error: {error}", file=sys.stderr)
        return 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
