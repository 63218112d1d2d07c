"""X-modaler's train_net.py with this plugin, for use inside an X-modaler clone.

    cd /path/to/X-modaler
    python /path/to/xmodaler_ssattn/tools/train_net.py --config-file .../ss_attn.yaml --num-gpus 1

It is ``xmodaler train``: the flags of X-modaler's train_net.py, --data and --device. The working
directory is first on the path, so that a clone there is the host.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path.cwd()), str(Path(__file__).resolve().parents[1])]

from xmodaler_ssattn.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
