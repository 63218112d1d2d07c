"""`xmodaler reproduce` without an installation: the paper's Tables 1 and 2, or any other plan.

    python tools/reproduce_tables.py --data DIR --seeds 0 1 2 --out output/tables
    python tools/reproduce_tables.py --data DIR --seeds 0 1 2 --out output/tables --resume     after a kill

See --help, and xmodaler_ssattn/reproduce/plan.py for the format of plans.
"""

import sys
from pathlib import Path

# The working directory is first on the path, so that an X-modaler clone there is the host.
sys.path[:0] = [str(Path.cwd()), str(Path(__file__).resolve().parents[1])]

from xmodaler_ssattn.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
