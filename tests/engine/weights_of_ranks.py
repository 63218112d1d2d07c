"""The command line in a process of torchrun, which also leaves a digest of the weights that its rank ends with."""

import hashlib
import os
import sys
from pathlib import Path

from xmodaler_ssattn import host
from xmodaler_ssattn.cli import training
from xmodaler_ssattn.cli.main import main


class Digest(host.HookBase):
    def after_train(self):
        model = host.comm.unwrap_model(self.trainer.model)
        digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters()))
        Path(f"rank{host.comm.get_rank()}").write_text(digest.hexdigest())


def ready_trainer(*args, original=training.ready_trainer):
    trainer = original(*args)
    trainer.register_hooks([Digest()])
    return trainer


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2"
    training.ready_trainer = ready_trainer
    sys.exit(main())
