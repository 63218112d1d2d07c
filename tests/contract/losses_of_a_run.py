"""Train on a data folder with the host that the environment chooses; write every step's loss. A script, not a test.

    python losses_of_a_run.py CONFIG DATA OUT.json WORKERS STEPS_TO_KEEP [KEY VALUE ...]

A process of its own, because a process has one host. The trainer is the host's stock one.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1] / "standins"))
    import torch

    torch.set_num_threads(1)
    from xmodaler_ssattn import host
    from xmodaler_ssattn.cli.configuring import load_config

    config, data, out, workers, steps, *opts = sys.argv[1:]
    cfg = load_config(config, ["DATALOADER.NUM_WORKERS", workers, *opts], data=data, device="cpu")
    cfg.freeze()
    host.default_setup(cfg, Namespace(config_file=config, eval_only=False))
    trainer = host.build_engine(cfg)
    trainer.resume_or_load(resume=False)
    history = {"losses": [], "evaluations": 0}
    run_step, test = trainer.run_step, type(trainer).test

    def recorded_step():
        run_step()
        history["losses"].append(trainer.storage.history("total_loss").latest())

    def counted_test(*args, **kwargs):
        history["evaluations"] += 1
        return test(*args, **kwargs)

    trainer.run_step, trainer.test = recorded_step, counted_test
    trainer.train()
    history["losses"] = history["losses"][: int(steps)]
    history["host"] = host.NAME
    Path(out).write_text(json.dumps(history))
