"""X-modaler's train_net.py with this plugin: for people who work inside an X-modaler clone.

    cd /path/to/X-modaler
    python /path/to/xmodaler_ssattn/tools/train_net.py --config-file .../ss_attn.yaml --num-gpus 1

The same flags as X-modaler's own, and --data and --device of ``xmodaler train``, which this is. The
working directory comes first on the path, so that a clone there is the host.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path.cwd()), str(Path(__file__).resolve().parents[1])]

from xmodaler_ssattn.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
