"""Train the toy with the host that RUNTIME_TOY_HOST names; write what it did. A script: one process, one host.

python stock_run.py FOLDER [KEY VALUE ...]
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import torch

    from runtime.toy_host import RuntimeToyEvaler, losses_of, toy_config, toy_trainer

    torch.set_num_threads(1)
    folder, *opts = sys.argv[1:]
    trainer = toy_trainer(toy_config(Path(folder), *opts))
    trainer.train()
    done = {
        "host": type(trainer).__module__.split(".")[0],
        "losses": losses_of(trainer),
        "weights": {name: tensor.tolist() for name, tensor in trainer.model.state_dict().items()},
        "sentences": RuntimeToyEvaler.sentences,
        "groups": len(trainer.optimizer.param_groups),
    }
    Path(folder, "done.json").write_text(json.dumps(done))
