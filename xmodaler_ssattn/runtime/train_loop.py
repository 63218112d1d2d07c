"""The training loop and its hooks, independent of models and data."""

from __future__ import annotations

import logging
import signal
import weakref
from typing import Any

from xmodaler_ssattn import stopping

from .events import EventStorage

logger = logging.getLogger(__name__)


class HookBase:
    """Code that runs around the steps of training.

    ::

        hook.before_train()
        for iter in range(start_iter, max_iter):
            hook.before_step()
            trainer.run_step()
            hook.after_step()
        hook.after_train()      # also after an error

    ``self.trainer`` is the trainer (a weak reference), set by ``register_hooks``.
    """

    trainer: TrainerBase

    def before_train(self) -> None:
        """Before the first step."""

    def after_train(self) -> None:
        """After the last step, or after an error: then ``trainer.iter`` is less than ``trainer.max_iter``."""

    def before_step(self) -> None:
        """Before each step; must be fast."""

    def after_step(self) -> None:
        """After each step."""

    def state_dict(self) -> dict[str, Any]:
        """The state for checkpoints; a hook that returns one also needs ``load_state_dict``."""
        return {}


class TrainerBase:
    """A loop with hooks; a subclass implements ``run_step``.

    Attributes:
        iter: the current iteration, from 0; ``max_iter`` after a complete run.
        start_iter, max_iter: first iteration and the one after the last.
        storage: the scalars of this run, during and after it.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = self.start_iter = self.max_iter = 0
        self.storage = EventStorage()

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Append hooks; they run in this order. None is skipped."""
        for hook in hooks:
            if hook is None:
                continue
            if not isinstance(hook, HookBase):
                raise TypeError(f"A hook must be a HookBase, received {type(hook).__name__}.")
            hook.trainer = weakref.proxy(self)  # otherwise trainer and hook would keep each other alive
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the steps ``start_iter`` to ``max_iter - 1``."""
        logger.info("Starting training from iteration %d", start_iter)
        self.iter, self.start_iter, self.max_iter = start_iter, start_iter, max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter = max(start_iter, max_iter)
            except stopping.Stopped as stop:  # by a hook that has saved, or in an evaluation, which is done again
                name = signal.Signals(stop.signum).name
                logger.info("Stopped by %s after iteration %d; --resume continues.", name, self.iter)
                raise
            except Exception:
                logger.exception("Training stopped at iteration %d:", self.iter)
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        """One step of training."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The iteration, and the states of the hooks that have one, by the names of their classes."""
        hooks = {type(hook).__qualname__: state for hook in self._hooks if (state := hook.state_dict())}
        return {"iteration": self.iter, **({"hooks": hooks} if hooks else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.iter = state_dict["iteration"]
        hooks = {type(hook).__qualname__: hook for hook in self._hooks}
        for name, state in state_dict.get("hooks", {}).items():
            if name in hooks:
                hooks[name].load_state_dict(state)
            else:
                logger.warning("The checkpoint has a state of the hook %s, which this run does not have.", name)
