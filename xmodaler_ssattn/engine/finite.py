"""No checkpoint of infinite or NaN numbers: gradients are tested before each step, weights before each save."""

from __future__ import annotations

import logging
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from xmodaler_ssattn.host import HookBase, comm

EXPLODED, RECENT = 10.0, 50  # a loss above this multiple of the median of that many losses is reported
STILL = "The weights are still those of the previous step."
logger = logging.getLogger(__name__)


def answers_late(tensor: Tensor) -> bool:
    """Whether the host must wait for the device to read ``tensor``."""
    return tensor.is_cuda


def bad_tensors(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the floating-point tensors that hold an infinity or NaN."""
    tensors = [(name, tensor) for name, tensor in named if tensor.is_floating_point() and tensor.numel()]
    if not tensors:
        return []
    # A sum is finite only if each number is; it takes a twentieth of the time of ``isfinite``. A sum of finite numbers
    # may be infinite, therefore the second look. Adam counts its steps on the CPU, also when its moments are on a GPU.
    device = tensors[-1][1].device
    sums = torch.stack([tensor.detach().sum(dtype=torch.float32).to(device) for _, tensor in tensors])
    suspects = [pair for pair, fine in zip(tensors, torch.isfinite(sums.cpu()).tolist()) if not fine]
    return [name for name, tensor in suspects if not torch.isfinite(tensor).all()]


class OnlyFinite(HookBase):
    """Stops a run before infinite or NaN numbers change its weights or reach a checkpoint. Works on both hosts."""

    def __init__(self) -> None:
        self._tested, self._said = -1, -RECENT  # iterations
        self._losses: deque[float] = deque(maxlen=RECENT)
        self._unread: tuple[list[str], Tensor] | None = None

    def before_train(self) -> None:
        self._named = dict(comm.unwrap_model(self.trainer.model).named_parameters())
        # Before clipping, which would turn an infinite gradient into a small one.
        self.trainer.optimizer.register_step_pre_hook(lambda *_: self._test_gradients())
        save = self.trainer.checkpointer.save

        def save_finite(name: str, **more: Any) -> None:
            self._test_weights(name)
            save(name, **more)

        self.trainer.checkpointer.save = save_finite

    def after_step(self) -> None:
        if self._unread is not None:
            (names, largest), self._unread = self._unread, None
            bad = [name for name, fine in zip(names, torch.isfinite(largest.cpu()).tolist()) if not fine]
            self._refuse("gradient", bad, STILL)
        if (latest := self.trainer.storage.latest().get("total_loss")) is None:
            return
        loss = latest[0] if isinstance(latest, tuple) else latest
        if len(self._losses) == RECENT and self.trainer.iter - self._said >= RECENT:
            usual = statistics.median(self._losses)
            if loss > EXPLODED * usual > 0:
                self._said = self.trainer.iter
                logger.warning(
                    "The loss of iteration %d is %.4g, %.0f times the median of the %d before%s. If it does not come "
                    "down again, resume from an earlier checkpoint with a lower SOLVER.BASE_LR.",
                    self.trainer.iter, loss, loss / usual, RECENT, self._images(),
                )  # fmt: skip
        self._losses.append(loss)

    def _test_gradients(self) -> None:
        if self._tested == self.trainer.iter:
            return  # the step of a class that clips calls the step of the optimiser itself
        self._tested = self.trainer.iter
        named = {name: p.grad for name, p in self._named.items() if p.grad is not None}
        optimizer = self.trainer.optimizer
        if not (optimizer.defaults.get("fused") and named and all(answers_late(grad) for grad in named.values())):
            return self._refuse("gradient", bad_tensors(named.items()), STILL)
        # Waiting for the answer here would delay the update. Instead the fused kernel is told, on the device, to change
        # nothing if a number is bad; ``after_step`` reads the answer.
        largest = torch.stack(torch._foreach_norm(list(named.values()), float("inf")))
        optimizer.found_inf = (~torch.isfinite(largest).all()).float()
        self._unread = list(named), largest

    def _test_weights(self, name: str) -> None:
        self._refuse("weight", bad_tensors(self._named.items()), f"{name} was not written.")
        moments = (
            (f"{key} of {parameter}", value)
            for parameter, p in self._named.items()
            for key, value in self.trainer.optimizer.state.get(p, {}).items()
            if isinstance(value, Tensor)
        )
        self._refuse("state of the optimiser", bad_tensors(moments), f"{name} was not written.")

    def _refuse(self, what: str, names: list[str], consequence: str) -> None:
        if not names:
            return
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise FloatingPointError(  # by this name, as of an infinite loss, a study knows that the run diverged
            f"A {what} became infinite or NaN at iteration {self.trainer.iter}: {shown}{self._images()}. {consequence} "
            "The last checkpoint is not affected. Look at these images' regions with `xmodaler check`, or lower "
            "SOLVER.BASE_LR."
        )

    def _images(self) -> str:
        ids = getattr(self.trainer, "batch_ids", None)
        return f" (images {', '.join(str(int(i)) for i in ids)})" if ids else ""
