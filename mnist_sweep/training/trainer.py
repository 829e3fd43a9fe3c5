"""One training from its seed to its best epoch's network, by Lightning's Trainer."""

import contextlib
import copy
import ctypes
import functools
import gc
import logging
import math
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from torch import nn

from mnist_sweep.config import schema
from mnist_sweep.config.metrics import best_epoch
from mnist_sweep.errors import RunFailure, one_line
from mnist_sweep.training import data, trained_model
from mnist_sweep.training.data import ImageSet
from mnist_sweep.training.evaluate import Evaluation, evaluate
from mnist_sweep.training.lightning_module import Classifier
from mnist_sweep.training.progress_bar import ProgressBar

log = logging.getLogger(__name__)

#: Threads of the processor, as torch found the machine and OMP_NUM_THREADS at the start.
ALL_THREADS = torch.get_num_threads()


#: Whether a run goes on after an epoch; or it pauses, with a checkpoint, to be resumed.
Decision = bool | Literal["pause"]


@dataclass(eq=False)
class Fit(Callback):
    """The training of one config. What is public here is also there after an exception.

    After each epoch the best network so far is in ``checkpoints/best.ckpt``, and all that is needed to go on in
    ``checkpoints/last.ckpt``, from which a training goes on with exactly the numbers of an uninterrupted one.
    """

    config: schema.Config  # of the run; its precision is a fixed one, and its data set is on disk
    folder: Path  # of the run
    device: torch.device
    on_epoch: Callable[[int, dict[str, float]], Decision]  # hears of each epoch, from 1, and its metrics
    check: Callable[[], None]  # is called between groups of batches, and raises where the training must end
    bar: bool = False  # show one, on standard error
    # images (B, C, H, W), 0 … 1 → logits (B, classes), and the validation images; None until they are there
    network: nn.Module | None = field(default=None, init=False)  # it ends with the best epoch's weights
    held_out: ImageSet | None = field(default=None, init=False)
    history: list[dict[str, float]] = field(default_factory=list, init=False)  # each epoch's metrics by name
    validation: Evaluation | None = field(default=None, init=False)  # of the best epoch; None until one has ended
    stopped: bool = field(default=False, init=False)  # whether `on_epoch` ended the training
    paused: bool = field(default=False, init=False)  # whether it is to be resumed
    train_seconds: float = field(default=0.0, init=False)  # all epochs, validation included; not what attempts lost

    def run(self) -> None:
        """Train. Ends by what `on_epoch` or `check` raises, or by RunFailure (``diverged``: a loss is not finite)."""
        settings, part = self.config.trainer, self.config.data
        self._best, self._last = (self.folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
        self._order, self._began = torch.Generator().manual_seed(self.config.seed), math.inf
        keep_memory()
        torch.set_num_threads(settings.threads or ALL_THREADS)
        torch.backends.cudnn.allow_tf32 = False  # in which a GPU convolves with a mantissa of ten bits
        pl.seed_everything(self.config.seed, verbose=False)
        images, self.held_out = data.parts(part)
        self.network = self.config.model.build(*images.standardisation, part.images)
        if settings.init_from:
            trained_model.start_from(settings.init_from, self.network)
        self.network.to(self.device)
        self._validation = self.held_out.to(self.device)
        batches = data.Batches(images.to(self.device), part.batch_size, self._order, part.augmentation)
        weights = None
        if self.config.loss.class_weights:
            counts = torch.bincount(images.labels, minlength=part.images.classes)
            weights = (len(images) / (len(counts) * counts.clamp_min(1))).float().to(self.device)
        self._classifier = Classifier(self.network, self.config, settings.max_epochs * batches.steps, weights)
        self._resume()
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # torch's, by Lightning
        shown = settings.max_epochs, len(self.history), batches.steps * batches.size
        bars = [ProgressBar(*shown)] if self.bar else []
        trainer = pl.Trainer(
            max_epochs=settings.max_epochs - len(self.history),
            accelerator="cpu" if self.device.type == "cpu" else "gpu",
            devices=1,
            callbacks=[*bars, self],
            # else SLURM's, which wants as many processes as tasks, and reads checkpoints that others left in the folder
            plugins=[LightningEnvironment()],
            default_root_dir=self.folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(self._classifier, batches)
        except SystemExit:  # by which Lightning ends when a SIGTERM comes
            self.check()
            raise
        finally:
            self._clock()
        self.check()
        self.network.load_state_dict(trained_model.read(self._best).network.state_dict())
        self.network.eval()  # else a picture of its maps would move the statistics of its batch normalisation

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.monotonic() - self.train_seconds

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed what only a network of the user's own draws from, so that a run that goes on has the same draws."""
        seed = (self.config.seed + len(self.history) + 1) % 2**32
        random.seed(seed)
        np.random.seed(seed)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.check()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the epoch, keep the best one, and decide whether there is another."""
        values, evaluation = self._classifier.end_epoch(self._validation)
        done, objective, settings = len(self.history) + 1, self.config.objective, self.config.trainer
        for name in values:
            if not math.isfinite(values[name]):
                raise RunFailure("diverged", f"{name} became {values[name]} in epoch {done}")
        self.history.append(values)
        best = best_epoch([epoch[objective] for epoch in self.history], self.config.direction) or 0
        if best == done:
            self.validation = evaluation
            trained_model.save(self._best, self._classifier.trained, self.config)
        self._clock()
        decision = self.on_epoch(done, values)
        last = done == settings.max_epochs or (settings.patience is not None and done - best >= settings.patience)
        self.stopped, self.paused = not decision, decision == "pause" and not last
        trainer.should_stop = self.stopped or self.paused or last
        if not (self.stopped or last):
            self._keep()

    def _clock(self) -> None:
        self.train_seconds = max(self.train_seconds, time.monotonic() - self._began)

    def _keep(self) -> None:
        """Write all that is needed to go on after this epoch."""
        state = {
            "parts": {name: part.state_dict() for name, part in self._classifier.parts().items()},
            "history": self.history,
            # else a process that dies after saving a new best would train that epoch again, with other numbers on a GPU
            "best": torch.load(self._best, weights_only=True),
            "order": self._order.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "seconds": self.train_seconds,
        }
        trained_model.write(self._last, state)

    def _resume(self) -> None:
        """Go on after the last whole epoch of an earlier attempt, where there was one."""
        parts, chance = self._classifier.parts(), torch.get_rng_state()
        fresh = copy.deepcopy({name: part.state_dict() for name, part in parts.items()})
        try:
            state = torch.load(self._last, map_location="cpu", weights_only=True)
            trained_model.write(self._best, state["best"])
            best, history, seconds = (
                trained_model.read(self._best).network,
                [*state["history"]],
                float(state["seconds"]),
            )
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
            self._order.set_state(state["order"])
            torch.set_rng_state(state["torch"])
            if state["cuda"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda"], self.device)
        except Exception as error:  # torch's, zipfile's and pickle's own, or one of another network's or version's file
            self._best.unlink(missing_ok=True)  # it would stand beside ours
            if not isinstance(error, FileNotFoundError):
                log.warning("%s cannot be read (%s); starting from the beginning", self._last, one_line(error, 100))
            for name, part in parts.items():
                part.load_state_dict(fresh[name])
            self._order.manual_seed(self.config.seed)
            torch.set_rng_state(chance)
            return
        self.history, self.train_seconds = history, seconds
        self.validation = evaluate(best, self._validation, "val", self.device, self._classifier.extra)


@functools.cache
def keep_memory() -> None:
    """From now on glibc keeps freed memory for the next step, which would else fault 800 to 1,400 pages in again.

    Blocks of more than 32 MiB, its limit for this, still go back.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD of malloc.h, see mallopt(3)
        library.mallopt(-1, 2**28)  # M_TRIM_THRESHOLD


def release_memory() -> None:
    """After a run: free what it left in cycles of references, and give spare memory back, also to a shared GPU."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing where CUDA is not in use
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
