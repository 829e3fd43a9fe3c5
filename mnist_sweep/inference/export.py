"""Write a network for use elsewhere: ``mnist-sweep export --to onnx|safetensors FILE``."""

import argparse
import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path

import onnxruntime
import torch
from onnx import load as loaded
from onnx import save
from onnx.helper import set_model_props
from safetensors.torch import save_file

from mnist_sweep.config.image_data import Data
from mnist_sweep.config.image_sets import HANDWRITTEN
from mnist_sweep.config.network_shapes import GREY28
from mnist_sweep.errors import RequestError, RunFailure, check_interrupted
from mnist_sweep.inference import load
from mnist_sweep.training import datasets
from mnist_sweep.training.data import parts
from mnist_sweep.training.trained_model import TrainedModel, served
from mnist_sweep.version import __version__

log = logging.getLogger(__name__)

#: Images that an ONNX file is compared with the network on.
CHECKED = 1_000
#: The greatest difference of a probability that rounding explains.
TOLERANCE = 1e-4


def onnx(model: TrainedModel, file: Path, opset: int | None = None) -> tuple[float, str]:
    """Write a network as ONNX: ``images`` (B, C, H, W) float32, 0 … 1 → ``probabilities`` (B, classes).

    Its metadata has the classes, the data set, what goes in and comes out, and the version of this package.

    Args:
        opset: the version of ONNX's operators, 18 … 23; None = that which torch's exporter writes.

    Returns:
        The greatest difference to the network's probabilities on `CHECKED` images, and the versions of the file.

    Raises:
        RunFailure: the difference is above `TOLERANCE`, or the network cannot be written with these operators.
    """
    data = model.config.data
    network, images = served(model.network, data.name), _images(data).float() / 255
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            network, (images[:3],), dynamo=True, verbose=False, input_names=["images"],
            output_names=["probabilities"], opset_version=opset, dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    assert program is not None
    written = program.model.opset_imports[""]
    if opset not in (None, written):
        raise RunFailure("error", f"--opset={opset}: torch writes this network with opset {written} only")
    program.save(str(file))
    described, form = loaded(file), data.images
    light = ", white on black" if data.name in HANDWRITTEN else ""
    set_model_props(described, {
        "classes": ",".join(data.classes), "dataset": data.label, "version": __version__,
        "input": f"images (B, {form.channels}, {form.height}, {form.width}) float32, 0 … 1{light}",
        "output": f"probabilities (B, {form.classes})",
    })  # fmt: skip
    save(described, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"images": images.numpy()})
    with torch.inference_mode():
        difference = float((torch.from_numpy(probabilities) - network(images)).abs().max())
    if not difference <= TOLERANCE:
        raise RunFailure("error", f"the ONNX file differs from the network by {difference:.2g}; nothing is left of it")
    return difference, f"opset {written}, IR version {program.model.ir_version}"


def _images(settings: Data) -> torch.Tensor:
    """At most `CHECKED` training images (N, C, H, W) uint8, or others of their form where these are not at hand.

    The user's own are not looked for: the export would decode all of them to use some.
    """
    own, form = settings.model_copy(update={"limit": None}), settings.images
    if not settings.own:
        datasets.verify(own)
        if datasets.missing(own) and form == GREY28:
            own = own.model_copy(update={"name": "mnist5k"})
        with contextlib.suppress(RequestError, OSError, RuntimeError):  # torchvision's, of an archive still packed
            if not datasets.missing(own):
                training, _ = parts(own)
                return training.take(torch.arange(min(CHECKED, len(training))))
    noise = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (CHECKED, *form.shape), dtype=torch.uint8, generator=noise)


def safetensors(model: TrainedModel, file: Path) -> int:
    """Write a network's tensors as safetensors, and return their number. Its config is in the metadata, as JSON.

    Of an ensemble, the tensors of all members and a list of their configs.
    """
    config = [member.config.trained() for member in model.members] or model.config.trained()
    state = {key: value.contiguous() for key, value in model.network.state_dict().items()}
    save_file(state, file, metadata={"format": "pt", "config": json.dumps(config)})
    return len(state)


def perform(options: argparse.Namespace) -> int:
    """Write the file, whole and checked, or not at all; print its path."""
    file = options.file
    if options.opset is not None and (options.to != "onnx" or not 18 <= options.opset <= 23):
        raise RequestError(f"--opset={options.opset}: allowed: 18 … 23, with --to onnx")
    try:
        if file.exists():
            raise RequestError(f"{file}: is there already; allowed: a new file")
        scratch = tempfile.TemporaryDirectory(prefix=".export-", dir=file.parent)
    except OSError as error:
        allowed = "a new file in a folder that can be written"
        raise RequestError(f"{file}: {error.strerror}; allowed: {allowed}") from error
    with scratch as folder:
        part = Path(folder) / file.name
        model, name = load.chosen(options)
        if options.to == "onnx":
            (difference, versions), checked = onnx(model, part, options.opset), f"checked on at most {CHECKED} images"
            log.info("%s: %s, %s, greatest difference of a probability %.2g", name, versions, checked, difference)
        else:
            log.info("%s: %d tensors, the config in the metadata", name, safetensors(model, part))
        check_interrupted()
        os.umask(mask := os.umask(0))  # there is no way to ask for it alone
        part.chmod(0o666 & ~mask)  # safetensors' own is for its owner only
        part.replace(file)
    print(file)
    return 0
