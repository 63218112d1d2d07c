"""``python -m xmodaler_ssattn`` is the command line ``xmodaler``."""

import sys

from xmodaler_ssattn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
