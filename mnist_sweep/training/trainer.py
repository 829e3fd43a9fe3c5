"""Lightning's Trainer for one config: quiet, without a logger, with one call an epoch."""

import contextlib
import ctypes
import functools
import gc
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar

from mnist_sweep.config import schema
from mnist_sweep.errors import RunFailure, check_interrupted
from mnist_sweep.training.lightning_module import Classifier

log = logging.getLogger(__name__)

#: Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

#: Called after each epoch with the epoch, counted from 1, and its metrics; whether training may go on.
AfterEpoch = Callable[[int, dict[str, float]], bool]


class Watch(Callback):
    """Hears of each epoch, and takes the time of all.

    Args:
        after_epoch: called after each.
        limit: seconds in which the run must have ended; None = no limit.
        since: when the run began, by `time.monotonic`.

    Attributes:
        stopped: whether `after_epoch` ended the training.
    """

    def __init__(self, after_epoch: AfterEpoch, limit: float | None = None, since: float = 0.0) -> None:
        self.after_epoch = after_epoch
        self.limit, self.since = limit, since
        self.stopped = False
        self._earlier = 0.0
        self._started: float | None = None

    def seconds(self) -> float:
        """Spent on the epochs, those of earlier attempts included."""
        return self._earlier + (0.0 if self._started is None else time.monotonic() - self._started)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier = state_dict["seconds"]

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._started is None:
            self._started = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        check_interrupted()
        if self.limit is not None and time.monotonic() - self.since > self.limit:
            done = trainer.current_epoch
            raise RunFailure("timeout", f"longer than {self.limit:g} s ({done} epoch{'s' * (done != 1)} done)")

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Classifier)
        if not self.after_epoch(len(module.history), module.history[-1]):
            self.stopped = True
            trainer.should_stop = True


class LastState(Callback):
    """Keeps all that a run needs to go on after its last whole epoch, so exactly that the numbers stay the same.

    Lightning's checkpoint holds the network, the optimizer, the schedule and the loops. This adds the states of the
    random generators, and the best checkpoint so far: if the process dies after saving a new best, that epoch is
    trained again, and on hardware that does not repeat its numbers the saved best would not match.
    It is written when the next epoch begins, since only then the schedule of the last one has moved.

    Args:
        path: of the checkpoint.
        best: of the best one.
        order: draws the order of the images.
    """

    def __init__(self, path: Path, best: Path, order: torch.Generator) -> None:
        self.path, self.best, self.order = path, best, order
        self._state: dict[str, Any] = {}
        self._loaded: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        part = self.best.with_suffix(".part")
        torch.save(checkpoint["best"], part)
        part.replace(self.best)
        # Where the folder has been moved, ModelCheckpoint would forget its best score, and keep a worse epoch.
        here = str(self.path.parent.resolve())
        for state in checkpoint["callbacks"].values():
            if there := state.get("dirpath"):
                state["dirpath"] = here
                state["best_k_models"] = {path.replace(there, here): v for path, v in state["best_k_models"].items()}
                for key in ("best_model_path", "kth_best_model_path"):
                    state[key] = state[key].replace(there, here)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict
        self.order.set_state(state_dict["order"])  # before the first batches are drawn

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._loaded:
            torch.set_rng_state(self._loaded["torch"])
            if self._loaded["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._loaded["cuda"])

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        on_gpu = module.device.type == "cuda"
        self._state = {
            "order": self.order.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(module.device) if on_gpu else None,
        }

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if "loops" in checkpoint:
            # Lightning counts the epoch that begins as ready; with it, it would take the last one for half done.
            for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
                counts["ready"] = counts["completed"]
            checkpoint["best"] = _read(self.best)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._state:
            part = self.path.with_suffix(".part")
            trainer.save_checkpoint(part)
            part.replace(self.path)


@functools.cache
def keep_memory() -> None:
    """From now on the C library keeps the memory that is freed: that of a step's activations serves the next step.

    glibc gives large blocks back to the system at once, and each step would fault their pages in again, 800 to 1,400
    of them (mallopt(3)). Blocks of more than 32 MiB, its limit for this, still go back. Elsewhere nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_M_MMAP_THRESHOLD, 2**25)
        library.mallopt(_M_TRIM_THRESHOLD, 2**28)


def release_memory() -> None:
    """After a run: free what it left in cycles of references, and give spare memory back, the GPU's too.

    Otherwise networks of all sizes, one after another, leave more and more gaps between what is in use, and the
    workers that share a GPU would keep from each other what their largest network has taken.
    """
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def loadable(checkpoint: Path) -> Path | None:
    """The last state of a run, where it is there and whole; else None, and a line if it is damaged."""
    if not checkpoint.exists():
        return None
    try:
        _read(checkpoint)["best"]
    except Exception as error:  # torch's, zipfile's and pickle's own
        log.warning(
            "%s cannot be read (%s); starting from the beginning", checkpoint, " ".join(str(error).split())[:100]
        )
        return None
    return checkpoint


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The state of a checkpoint's `Classifier`, on the CPU."""
    state: dict[str, torch.Tensor] = _read(checkpoint)["state_dict"]
    return state


def _read(checkpoint: Path) -> Any:
    """What a checkpoint holds, on the CPU; only plain data is read."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True)


def best_checkpoint(config: schema.Config, folder: Path) -> ModelCheckpoint:
    """Keeps the best epoch's weights, by the config's objective, as ``best.ckpt`` in a folder."""
    return ModelCheckpoint(
        dirpath=folder.resolve(),
        filename="best",
        monitor=config.objective,
        mode=_mode(config),
        save_weights_only=True,
        save_on_train_epoch_end=False,  # but with the validation, whose weights the classifier has in place until then
        enable_version_counter=False,
    )


def trainer(config: schema.Config, device: torch.device, callbacks: list[Callback], bars: bool) -> pl.Trainer:
    """The Trainer of a config.

    Args:
        config: its ``trainer`` gives epochs and early stopping.
        device: ``cpu``, or a GPU.
        callbacks: besides early stopping and bars.
        bars: show progress bars, on standard error.
    """
    quiet()
    if device.type == "cuda":  # torch multiplies in TF32 within a convolution, with a mantissa of ten bits
        torch.backends.cudnn.allow_tf32 = False
    more = list(callbacks)
    if config.trainer.patience is not None:
        patience = config.trainer.patience
        more.append(EarlyStopping(config.objective, patience=patience, mode=_mode(config), check_finite=False))
    if bars:
        more.append(RichProgressBar(refresh_rate=20, leave=False, console_kwargs={"stderr": True}))
    return pl.Trainer(
        max_epochs=config.trainer.max_epochs,
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=1,
        precision="32-true",  # of the weights; the steps are the classifier's own
        callbacks=more,
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in more),
        num_sanity_val_steps=0,
        enable_progress_bar=bars,
        enable_model_summary=False,
    )


def _mode(config: schema.Config) -> str:
    return "max" if config.direction == "maximize" else "min"


def quiet() -> None:
    """No tips, no lines about hardware, no warnings about what Lightning calls from torch."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
