"""``DefaultTrainer``: model, data, losses, optimiser and schedule from a config, and one step of training."""

from __future__ import annotations

import functools
import logging
import os
import time
import uuid
import weakref
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.processes import images_per_step, losses_over_processes
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.safe_load import safe_load
from xmodaler_ssattn.sealed import save_sealed

from . import comm, hooks
from .checkpoint import CheckpointError, XmodalerCheckpointer
from .config import CfgNode, kfg
from .data import BatchesOfAnEpoch, build_xmodaler_train_loader, build_xmodaler_valtest_loader
from .events import EventWriter, default_writers
from .losses import build_losses
from .meta_arch import build_model
from .optim import build_optimizer
from .order import SharedOrder
from .registry import ENGINE_REGISTRY, build_evaluation, build_lr_scheduler
from .rng import get_random_state, set_random_state
from .setup import FILE_ONLY
from .train_loop import HookBase, TrainerBase

logger = logging.getLogger(__name__)
LAST_RANDOM_STATE = "last_random_state"


@ENGINE_REGISTRY.register()
class DefaultTrainer(TrainerBase):
    """One epoch: all training batches, a checkpoint, the evaluations.

    A run that was resumed after any step equals an uninterrupted one; "Resuming" in README.md explains how.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        if cfg.MODEL.USE_EMA:
            raise UserError("MODEL.USE_EMA is available with upstream X-modaler only.")
        self.cfg = cfg
        # The order of these lines determines the random numbers that each uses; it is the same as upstream's.
        model = self.build_model(cfg)
        self.optimizer = self.build_optimizer(cfg, model)
        self.train_data_loader = self.build_train_loader(cfg)
        self.val_data_loader = self.build_val_loader(cfg)
        self.test_data_loader = self.build_test_loader(cfg)
        has_training = self.train_data_loader is not None
        self.iters_per_epoch = len(self.train_data_loader) if has_training else 1
        self._epoch = BatchesOfAnEpoch()
        self._train_data_loader_iter = self._epoch.begin(self.train_data_loader) if has_training else None
        val, test, files = self.val_data_loader, self.test_data_loader, cfg.INFERENCE
        self.val_evaluator = build_evaluation(cfg, files.VAL_ANNFILE, None) if val is not None else None
        self.test_evaluator = build_evaluation(cfg, files.TEST_ANNFILE, cfg.OUTPUT_DIR) if test is not None else None
        self.losses = self.build_losses(cfg)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer, self.iters_per_epoch)
        self.ss_prob = 0.0

        if comm.get_world_size() > 1:
            if unstated := [type(loss).__name__ for loss in self.losses if not hasattr(loss, "normaliser")]:
                logger.warning(
                    "%s: no method normaliser, see xmodaler_ssattn/processes.py. Of this loss the mean over the "
                    "processes is used, which differs from the loss of one process with all images.",
                    ", ".join(unstated),
                )
            device_ids = [comm.get_local_rank()] if next(model.parameters()).is_cuda else None
            model = DistributedDataParallel(
                model, find_unused_parameters=True, device_ids=device_ids, broadcast_buffers=False
            )
        self.model = model
        self.model.train()
        self.checkpointer = XmodalerCheckpointer(self.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.max_iter = cfg.SOLVER.EPOCH * self.iters_per_epoch
        # By process, as of the last checkpoint; positions only within an epoch.
        self._random_states: list[dict[str, Any]] | None = None
        self._positions: list[dict[str, Any]] | None = None
        self.batch_ids: list[Any] = []  # the images of the present step
        self._save_id, self._saved_at = "", -1
        self._resumed = False
        self.register_hooks(self.build_hooks())

    # --- parts -------------------------------------------------------------------------------------------

    @staticmethod
    def build_model(cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        logger.info("Model:\n%s", model, extra=FILE_ONLY)
        logger.info("Model: %s weights", f"{sum(weight.numel() for weight in model.parameters()):,}")
        return model

    build_optimizer = staticmethod(build_optimizer)
    build_lr_scheduler = staticmethod(build_lr_scheduler)
    build_train_loader = staticmethod(build_xmodaler_train_loader)
    build_val_loader = staticmethod(functools.partial(build_xmodaler_valtest_loader, stage="val"))
    build_test_loader = staticmethod(functools.partial(build_xmodaler_valtest_loader, stage="test"))
    build_losses = staticmethod(build_losses)

    def build_writers(self) -> list[EventWriter]:
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def build_hooks(self) -> list[HookBase | None]:
        return hooks.default_hooks(self)

    # --- training ----------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train to the last epoch."""
        if self.train_data_loader is None:
            raise UserError("There is nothing to train on: DATASETS.TRAIN is empty.")
        super().train(self.start_iter, self.max_iter)

    def run_step(self) -> None:
        if not self.model.training:
            raise RuntimeError("The model was left in evaluation mode.")
        start = time.perf_counter()
        data = self._next_batch()
        data_time = time.perf_counter() - start

        data = comm.unwrap_model(self.model).preprocess_batch(data)
        data[kfg.SS_PROB] = self.ss_prob
        outputs = self.model(data)
        losses = losses_over_processes(self.losses, outputs)

        self.optimizer.zero_grad()
        total: Any = sum(_summands(losses).values())
        total.backward()
        if total.is_cuda:  # reading the losses waits for the device: the update is queued before
            self.optimizer.step()
        self._write_metrics(losses, data_time)
        if not total.is_cuda:
            self.optimizer.step()

    def _next_batch(self) -> list[dict[str, Any]]:
        iterator = self._train_data_loader_iter
        batch = self._epoch.take(iterator) if iterator is not None else None
        if batch is None:  # the epoch is over, or the run was resumed after one
            if self._shared_order is not None:
                self._shared_order.set_epoch(self.iter // self.iters_per_epoch)
            self._train_data_loader_iter = self._epoch.begin(self.train_data_loader)
            batch = self._epoch.take(self._train_data_loader_iter)
        self.batch_ids = [sample.get(kfg.IDS) for sample in batch if isinstance(sample, dict)]
        return batch

    def _write_metrics(self, loss_dict: dict[str, Tensor | float], data_time: float) -> None:
        """Put the losses, averaged over the processes, into the storage.

        Raises:
            FloatingPointError: a loss is infinite or NaN; on a CPU, the optimiser has not stepped yet.
        """
        metrics = {name: float(torch.as_tensor(value).detach()) for name, value in loss_dict.items()}
        bad = [name for name, value in metrics.items() if not np.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"The loss became infinite or NaN at iteration {self.iter}: {', '.join(bad)}. All losses: {metrics}. "
                "The last checkpoint is not affected."
            )
        gathered = comm.gather({**metrics, "data_time": data_time})
        if not comm.is_main_process():
            return
        self.storage.put_scalar("data_time", max(process.pop("data_time") for process in gathered))
        means = {name: float(np.mean([process[name] for process in gathered])) for name in metrics}
        self.storage.put_scalar("total_loss", sum(_summands(means).values()))
        if len(means) > 1:
            self.storage.put_scalars(**means)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, test_data_loader: DataLoader, evaluator: Any, epoch: int) -> Any:
        """Decode every image of a loader and score the results; '' without an evaluator.

        The evaluator receives ``[{ID_KEY: int, VALUE: output}, ...]`` in the order of the data set. Several processes
        each decode some of the batches; the first one has the evaluator, and the others return ''.
        """
        model.eval()
        unwrapped = comm.unwrap_model(model)
        generate = {"use_beam_search": True, "output_sents": True} if cfg.INFERENCE.GENERATION_MODE else {}
        id_key, value = cfg.INFERENCE.ID_KEY, cfg.INFERENCE.VALUE
        batches = []
        with torch.no_grad():
            shown = progress(test_data_loader, desc="decoding", say=logger.info)
            for data in shown if comm.is_main_process() else test_data_loader:
                data = unwrapped.preprocess_batch(data)
                ids, outputs = data[kfg.IDS], unwrapped(data, **generate)[kfg.OUTPUT]
                batches.append([{id_key: int(i), value: output} for i, output in zip(ids, outputs, strict=True)])
        # Batch 0 of process 0, 1, ..., then batch 1 of each.
        rounds = zip_longest(*comm.gather(batches), fillvalue=())
        results = [result for of_all in rounds for batch in of_all for result in batch]
        scores = evaluator.eval(results, epoch) if evaluator is not None and comm.is_main_process() else ""
        model.train()
        return scores

    @property
    def _shared_order(self) -> SharedOrder | None:
        sampler = getattr(self.train_data_loader, "sampler", None)
        return sampler if isinstance(sampler, SharedOrder) else None

    # --- resuming ----------------------------------------------------------------------------------------

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the output folder's last checkpoint, or load ``MODEL.WEIGHTS`` if there is none.

        Raises:
            CheckpointError: the checkpoint is of another model, or its epochs are not those of this run.
        """
        self._resumed = resume and self.checkpointer.has_checkpoint()
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if not self._resumed:
            return
        self.start_iter = self.iter + 1  # self.iter is the last iteration that was done
        if self.start_iter % self.iters_per_epoch and not self._positions:
            self._refuse_to_resume(f"it ends after {self.start_iter} iterations, which is not a whole number of epochs")
        if self.start_iter > self.max_iter:
            self._refuse_to_resume(
                f"it has {self.start_iter // self.iters_per_epoch} completed epochs and SOLVER.EPOCH is "
                f"{self.cfg.SOLVER.EPOCH}"
            )

    def _refuse_to_resume(self, why: str) -> None:
        raise CheckpointError(
            f"Cannot resume from the last checkpoint in {self.cfg.OUTPUT_DIR}: {why}. One epoch now has "
            f"{self.iters_per_epoch} iterations of {images_per_step(self.cfg, comm.get_world_size())} images in "
            f"{comm.get_world_size()} process(es) together. Resume with the batch size, processes and data of the run "
            "that wrote it, or start a new run from its weights: MODEL.WEIGHTS and another OUTPUT_DIR."
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "ss_prob": self.ss_prob,
            "random_states": self._random_states,
            "positions": self._positions,
            "save_id": self._save_id,
            "iters_per_epoch": self.iters_per_epoch,
            "order_seed": self._shared_order.seed if self._shared_order is not None else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        stored = state_dict.get("iters_per_epoch", self.iters_per_epoch)
        if stored != self.iters_per_epoch:  # epochs, schedule and evaluations are counted in iterations
            self._refuse_to_resume(f"one epoch of it has {stored} iterations")
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.scheduler.load_state_dict(state_dict["scheduler"])
        self.ss_prob = state_dict.get("ss_prob", 0.0)
        self._random_states = state_dict.get("random_states")
        self._positions = state_dict.get("positions")
        self._save_id = state_dict.get("save_id", "")
        order, seed = self._shared_order, state_dict.get("order_seed")
        if order is not None and seed is not None:
            order.seed = seed
        elif self._positions and (order is not None or seed is not None):
            self._refuse_to_resume("it ends within an epoch whose order of the images depends on the processes")

    @property
    def knows_its_place(self) -> bool:
        """Whether the present batch was counted; a derived class may take its batches another way."""
        return self._epoch.taken == self.iter % self.iters_per_epoch + 1

    def take_random_states(self) -> None:
        """Remember the random state and the place of every process, for the checkpoint that is about to be written."""
        self._random_states = comm.gather(get_random_state()) or None
        within = (self.iter + 1) % self.iters_per_epoch
        self._positions = comm.gather(self._epoch.state_dict()) or None if within else None
        self._save_id = uuid.uuid4().hex  # from the system, not from any seeded state
        self._saved_at = self.iter

    def keep_random_states_after_evaluation(self) -> None:
        """If this iteration has a checkpoint, write the random states after the evaluations."""
        if self._saved_at != self.iter:
            return
        states = comm.gather(get_random_state())
        if comm.is_main_process() and self.cfg.OUTPUT_DIR:
            path = os.path.join(self.cfg.OUTPUT_DIR, LAST_RANDOM_STATE)
            save_sealed(path, {"save_id": self._save_id, "random_states": states})

    def before_train(self) -> None:
        super().before_train()
        if self._resumed:
            # Drop the constructor's iterator; the first step then begins an epoch, as in an uninterrupted run.
            self._train_data_loader_iter = None
            self._restore_random_states()

    def _restore_random_states(self) -> None:
        states, evaluated = self._random_states, bool(self.start_iter % self.iters_per_epoch)
        path = os.path.join(self.cfg.OUTPUT_DIR, LAST_RANDOM_STATE)
        if states is not None and not evaluated and os.path.isfile(path):
            after = safe_load(path, "The checkpoint")
            if after["save_id"] == self._save_id:
                states, evaluated = after["random_states"], True
        if states is None or len(states) != comm.get_world_size():
            processes = comm.get_world_size()
            logger.warning("The checkpoint has no random states of %d process(es); new ones are used.", processes)
            states = [get_random_state()] * processes
        if self._positions:
            logger.info("Going to the place in the epoch: %d batches", self._positions[0]["taken"])
            # The place is the same in all processes; without a shared order there is only one.
            epoch = self.start_iter // self.iters_per_epoch
            self._train_data_loader_iter = self._epoch.go_to(self._positions[0], self.train_data_loader, epoch)
        set_random_state(states[comm.get_rank()])
        if self._save_id and not evaluated:
            self._evaluate_pending()

    def _evaluate_pending(self) -> None:
        """Do the evaluations of a run that ended after its checkpoint but before its evaluations were finished."""
        logger.info("The evaluations of iteration %d were not finished; doing them now", self.start_iter - 1)
        self.iter = self.storage.iter = self.start_iter - 1
        for hook in self._hooks:
            if isinstance(hook, hooks.EvalHook):
                hook.after_step()
        self._saved_at = self.iter
        self.keep_random_states_after_evaluation()
        self.iter = self.start_iter


def _summands(losses: dict[str, Any]) -> dict[str, Any]:
    """The losses to sum; a name with "acc" in it is an accuracy, for display only."""
    return {name: value for name, value in losses.items() if "acc" not in name}
