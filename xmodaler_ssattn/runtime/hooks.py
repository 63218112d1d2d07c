"""Hooks around the steps: timing, schedules, checkpoints, evaluation, writing."""

from __future__ import annotations

import datetime
import functools
import logging
import os
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from tqdm import tqdm

from xmodaler_ssattn import stopping
from xmodaler_ssattn.processes import images_per_step

from . import comm
from .checkpoint import XmodalerCheckpointer
from .events import EventWriter, losses_for_people, time_left
from .setup import show_bars
from .train_loop import HookBase

logger = logging.getLogger(__name__)


class IterationTimer(HookBase):
    """Puts ``time``, the seconds of a step, from the third step on; logs the speed at the end. Must come first."""

    def __init__(self) -> None:
        self._train_start = self._step_start = time.perf_counter()
        self._seconds_in_steps, self._timed = 0.0, 0

    def before_train(self) -> None:
        self._train_start = time.perf_counter()

    def before_step(self) -> None:
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        seconds = time.perf_counter() - self._step_start
        if self.trainer.iter - self.trainer.start_iter >= 2:
            self.trainer.storage.put_scalars(time=seconds)
            self._seconds_in_steps += seconds
            self._timed += 1

    def after_train(self) -> None:
        if self._timed:
            logger.info("Overall training speed: %.4f s / it", self._seconds_in_steps / self._timed)
        total = datetime.timedelta(seconds=int(time.perf_counter() - self._train_start))
        logger.info("Total training time: %s", total)


class LRScheduler(HookBase):
    """Puts ``lr`` and steps the schedule after each iteration.

    ``lr`` is the commonest rate among the groups, or the rate of the largest group when groups hold several tensors.
    """

    def before_train(self) -> None:
        groups = self.trainer.optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            self._shown = sizes.index(max(sizes))
        else:
            rates = [group["lr"] for group in groups]
            self._shown = rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        rate = self.trainer.optimizer.param_groups[self._shown]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.trainer.scheduler.step()


class ScheduledSampling(HookBase):
    """ss_prob = min(INC_PROB * floor(steps since the start / steps of one increment), MAX_PROB), for the next step."""

    def __init__(self, start_iter: int, inc_every_iter: int, inc_prob: float, max_prob: float) -> None:
        self._start_iter, self._inc_every_iter = start_iter, inc_every_iter
        self._inc_prob, self._max_prob = inc_prob, max_prob

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if next_iter > self._start_iter:
            increments = (next_iter - self._start_iter) // self._inc_every_iter
            self.trainer.ss_prob = min(self._inc_prob * increments, self._max_prob)


class ModelWeightsManipulating(HookBase):
    """Calls the model's ``bind_or_init_weights`` before training, after weights were loaded."""

    def before_train(self) -> None:
        model = comm.unwrap_model(self.trainer.model)
        if hasattr(model, "bind_or_init_weights"):
            model.bind_or_init_weights()


class PeriodicCheckpointer(HookBase):
    """Saves every ``period`` iterations, within epochs, when the run is asked to stop, and ``model_final`` at the end.

    Runs in every process: each contributes its random state; the first one writes the file.

    Args:
        period: iterations between ``model_Epoch_*``, a whole number of epochs.
        steps: iterations between ``model_Iter_*`` within epochs; 0 for none.
        minutes: minutes after a checkpoint until the next one, as ``model_Iter_*``; 0 for none.
    """

    def __init__(
        self, checkpointer: XmodalerCheckpointer, period: int, *, steps: int = 0, minutes: float = 0.0
    ) -> None:
        self.checkpointer = checkpointer
        self.period, self.steps, self.minutes = period, steps, minutes

    def before_train(self) -> None:
        self._saved_at = time.monotonic()
        trainer, folder = self.trainer, self.checkpointer.save_dir
        if trainer.start_iter >= trainer.max_iter and not os.path.isfile(os.path.join(folder, "model_final.pth")):
            trainer.iter = trainer.start_iter - 1  # the last file was lost, and the run has nothing else to do
            self.checkpointer.save("model_final", iteration=trainer.iter)
            trainer.iter = trainer.start_iter

    def after_step(self) -> None:
        iteration, next_iter = self.trainer.iter, self.trainer.iter + 1
        overdue = self.minutes > 0 and time.monotonic() - self._saved_at >= 60 * self.minutes
        signum, overdue = comm.largest(stopping.requested(), int(overdue))
        due = next_iter % self.period == 0
        last = next_iter >= self.trainer.max_iter
        wanted = bool(signum or overdue or (self.steps > 0 and next_iter % self.steps == 0))
        within = not due and wanted and self.trainer.knows_its_place
        if due or last or within:
            self.trainer.take_random_states()
            self._saved_at = time.monotonic()
        if due:
            epoch = next_iter // self.trainer.iters_per_epoch
            self.checkpointer.save(f"model_Epoch_{epoch:05d}_Iter_{iteration:07d}", iteration=iteration)
        if last:
            self.checkpointer.save("model_final", iteration=iteration)
        elif within:
            self.checkpointer.save(f"model_Iter_{iteration:07d}", iteration=iteration)
        if signum:
            raise stopping.Stopped(signum)


class EvalHook(HookBase):
    """Evaluates every ``eval_period`` epochs after epoch ``eval_start``, and after the last epoch, once each.

    The scores are put under ``<stage>/name``; a name that already begins with it is not changed.

    Args:
        eval_function: takes the epoch and returns a (nested) dict of numbers, or something empty. It is called in every
            process; only what the first one returns is used.
        images: their number in one evaluation, to estimate the time of the first one.

    Attributes:
        seconds: of each evaluation so far.
    """

    def __init__(
        self,
        eval_period: int,
        eval_start: int,
        eval_function: Callable[[int], Any],
        iters_per_epoch: int,
        stage: str,
        images: int = 0,
    ) -> None:
        self._period, self._start = eval_period * iters_per_epoch, eval_start
        self._function, self._stage = eval_function, stage
        self._iters_per_epoch = iters_per_epoch
        self._evaluated_at: int | None = None
        self.images = images
        self.seconds: list[float] = []

    def remaining(self, next_iter: int, max_iter: int) -> int:
        """The number of evaluations after iteration ``next_iter`` up to the end of the run."""
        period, first = self._period, max(self._start, 0) * self._iters_per_epoch
        scheduled = max_iter // period - max(next_iter, first) // period if period > 0 and max_iter > first else 0
        return scheduled + int(period <= 0 or max_iter % period != 0 or max_iter <= first)

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        epoch = next_iter // self._iters_per_epoch
        if self._period > 0 and next_iter % self._period == 0 and epoch > self._start:
            self._evaluate(next_iter)

    def after_train(self) -> None:
        # iter reaches max_iter only when no step failed.
        finished = self.trainer.iter >= self.trainer.max_iter
        if finished and self._evaluated_at != self.trainer.max_iter:
            self._evaluate(self.trainer.max_iter)

    def _evaluate(self, next_iter: int) -> None:
        epoch = next_iter // self._iters_per_epoch
        started = time.perf_counter()
        with stopping.stopping_at_once():  # a resumed run does a missing evaluation first
            results = self._function(epoch)
        self.seconds.append(time.perf_counter() - started)
        self._evaluated_at = next_iter
        comm.synchronize()  # the other processes wait for the evaluation
        if not comm.is_main_process() or not results:
            return
        if not isinstance(results, Mapping):
            raise TypeError(f"An evaluation must return a dict of numbers, received a {type(results).__name__}.")
        prefix = f"{self._stage}/"
        scores = {prefix + name.removeprefix(prefix): value for name, value in flatten_results_dict(results).items()}
        for name, value in scores.items():
            try:
                float(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"The evaluation score {name!r} is not a number: {value!r}.") from error
        self.trainer.storage.put_scalars(**scores, smoothing_hint=False)
        logger.info("Epoch %d: %s", epoch, "  ".join(f"{name} {float(value):.4f}" for name, value in scores.items()))


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a/b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{inner}": v for inner, v in flatten_results_dict(value).items()})
        else:
            flat[key] = value
    return flat


class RandomStateAfterEvaluation(HookBase):
    """After the evaluations of an iteration with a checkpoint: save the random state after them."""

    def after_step(self) -> None:
        self.trainer.keep_random_states_after_evaluation()


class PeriodicWriter(HookBase):
    """Lets the writers write every ``period`` iterations and at the end, then closes them. Must come last."""

    def __init__(self, writers: list[EventWriter], period: int = 20) -> None:
        self._writers, self._period = writers, period

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if next_iter % self._period == 0 or next_iter == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()
            writer.close()


class TimeLeft(HookBase):
    """Puts ``eta_seconds``: the steps and evaluations to come, at the pace so far. Must come after the evaluations.

    The pace of the steps is that of the clock without the evaluations, from the third step on: it includes
    checkpoints and writers. Before the first evaluation, an image there is assumed to take as long as in training.

    Args:
        evaluations: the run's evaluations.
        images_per_step: in all processes together.
    """

    def __init__(self, evaluations: Sequence[EvalHook], images_per_step: int) -> None:
        self._evaluations, self._images_per_step = evaluations, images_per_step
        self._since = (0, 0.0)

    def after_step(self) -> None:
        trainer = self.trainer
        next_iter = trainer.iter + 1
        now = time.perf_counter() - sum(sum(hook.seconds) for hook in self._evaluations)
        if next_iter - trainer.start_iter <= 2:
            self._since = (next_iter, now)
            return
        per_step = (now - self._since[1]) / (next_iter - self._since[0])
        left = per_step * (trainer.max_iter - next_iter)
        for hook in self._evaluations:
            each = fmean(hook.seconds) if hook.seconds else hook.images * per_step / self._images_per_step
            left += each * hook.remaining(next_iter, trainer.max_iter)
        trainer.storage.put_scalar("eta_seconds", left, smoothing_hint=False)


class ProgressBar(HookBase):
    """On a terminal: a bar over the iterations with epoch, losses and time left."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def before_train(self) -> None:
        if show_bars():
            # The postfix has our time left; the bar's own does not know the evaluations.
            shown = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"
            steps = {"total": self.trainer.max_iter, "initial": self.trainer.start_iter}
            self._bar = tqdm(**steps, dynamic_ncols=True, unit="it", bar_format=shown)

    def after_step(self) -> None:
        if self._bar is not None:
            trainer, storage = self.trainer, self.trainer.storage
            epoch, epochs = (steps // trainer.iters_per_epoch for steps in (trainer.iter, trainer.max_iter))
            self._bar.set_description(f"epoch {epoch + 1}/{epochs}", False)
            self._bar.set_postfix_str("  ".join([*time_left(storage), *losses_for_people(storage)]), False)
            self._bar.update()

    def after_train(self) -> None:
        if self._bar is not None:
            self._bar.close()


def default_hooks(trainer: Any) -> list[HookBase]:
    """Those of the trainer: checkpoints before evaluations, so that a failing one loses no work; writers last."""
    cfg, solver, epoch = trainer.cfg, trainer.cfg.SOLVER, trainer.iters_per_epoch
    me = weakref.proxy(trainer)  # the trainer refers to the hooks: a strong reference would be circular
    evaluations = []
    for stage, loader in (("val", trainer.val_data_loader), ("test", trainer.test_data_loader)):
        if loader is not None:
            start, evaluate = cfg.INFERENCE[f"{stage.upper()}_EVAL_START"], functools.partial(_evaluate, me, stage)
            evaluations.append(EvalHook(solver.EVAL_PERIOD, start, evaluate, epoch, stage, len(loader.dataset)))
    sampling = cfg.SCHEDULED_SAMPLING
    hooks = [
        IterationTimer(),
        LRScheduler(),
        ScheduledSampling(
            start_iter=sampling.START_EPOCH * epoch,
            inc_every_iter=sampling.INC_EVERY_EPOCH * epoch,
            inc_prob=sampling.INC_PROB,
            max_prob=sampling.MAX_PROB,
        ),
        ModelWeightsManipulating(),
        PeriodicCheckpointer(
            trainer.checkpointer,
            solver.CHECKPOINT_PERIOD * epoch,
            steps=solver.CHECKPOINT_STEPS,
            minutes=solver.CHECKPOINT_MINUTES,
        ),
        *evaluations,
        RandomStateAfterEvaluation(),
    ]
    if comm.is_main_process():
        hooks += [
            TimeLeft(evaluations, images_per_step(cfg, comm.get_world_size())),
            ProgressBar(),
            PeriodicWriter(trainer.build_writers(), period=solver.WRITE_PERIOD),
        ]
    return hooks


def _evaluate(trainer: Any, stage: str, epoch: int) -> Any:
    loader, evaluator = getattr(trainer, f"{stage}_data_loader"), getattr(trainer, f"{stage}_evaluator")
    return trainer.test(trainer.cfg, trainer.model, loader, evaluator, epoch)
