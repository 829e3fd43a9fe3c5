"""Take a network elsewhere: ``python -m mnist_sweep.inference.export --to onnx|safetensors FILE``."""

import contextlib
import io
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mnist_sweep import cli as console
from mnist_sweep.config import schema
from mnist_sweep.errors import RequestError, RunFailure

log = logging.getLogger("mnist_sweep.inference.export")  # __name__ is __main__ here

#: Images that an ONNX file is held against the network on.
CHECKED = 1_000
#: The greatest difference of a probability that is put down to rounding.
TOLERANCE = 1e-4


def onnx(classifier: Any, file: Path) -> float:
    """Write a network as ONNX: ``images`` (B, 1, 28, 28) float32, 0 … 1 → ``probabilities`` (B, 10).

    Args:
        classifier: a `Classifier` or an `Ensemble`.
        file: to be written.

    Returns:
        The greatest difference between ONNX Runtime's probabilities and the network's on `CHECKED` images.

    Raises:
        RequestError: a file of the network's data set is damaged.
        RunFailure: they differ by more than `TOLERANCE`.
    """
    import onnxruntime
    import torch

    from mnist_sweep.training import trained_model as inspection

    served = inspection.served(classifier)
    images = _images(classifier.config.data)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            served, (images[:3],), dynamo=True, verbose=False,
            input_names=["images"], output_names=["probabilities"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )  # fmt: skip
    assert program is not None
    program.save(str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"images": images.numpy()})
    with torch.no_grad():
        difference = float((torch.from_numpy(found) - served(images)).abs().max())
    if not difference <= TOLERANCE:
        raise RunFailure("error", f"the ONNX file differs from the network by {difference:.2g}; nothing is left of it")
    return difference


def safetensors(classifier: Any, file: Path) -> None:
    """Write a network's weights and standardisation as safetensors, with its config in the file's metadata as JSON.

    Of an ensemble, the tensors of each member and a list of their configs.
    """
    from safetensors.torch import save_file

    members = [member.config.plain() for member in getattr(classifier, "members", [])]
    config = members or classifier.config.plain()
    state = {key: value.contiguous() for key, value in classifier.state_dict().items()}
    save_file(state, file, metadata={"format": "pt", "config": json.dumps(config)})


def _images(settings: schema.Data) -> Any:
    """Validation and training images of the network's own data set, or of the one that is always there."""
    import torch

    from mnist_sweep.training import data, datasets

    datasets.verify(settings)
    own = not datasets.missing(settings)
    name, root = (settings.name, settings.root) if own else ("mnist5k", settings.root)
    training, validation = data.training_and_validation(name, root, settings.split_seed, None)
    pixels = torch.cat([validation.images, training.take(torch.arange(min(CHECKED, len(training))))])[:CHECKED]
    return pixels.float() / 255


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """Where to write a file that is to be there whole and checked, or not at all.

    Raises:
        RequestError: it is there already, or its folder takes no files.
    """
    with console.usable(str(file), "a new file in a folder that can be written"):
        if file.exists():
            raise RequestError(f"{file}: is there already; allowed: a new file")
        scratch = tempfile.TemporaryDirectory(prefix=".export-", dir=file.parent)
    with scratch as folder:
        part = Path(folder) / file.name
        yield part
        part.replace(file)


def perform(arguments: Sequence[str]) -> int:
    """Write the file that was asked for."""
    parser = console.parser("export", "Write a network for use elsewhere.")
    parser.add_argument("--to", required=True, choices=("onnx", "safetensors"), help="the format")
    parser.add_argument("file", metavar="FILE", type=Path, help="to be written; it must not be there yet")
    console.add_model(parser)
    options = parser.parse_args(arguments)
    with _whole(options.file) as part:
        classifier, name = console.classifier(options)
        if options.to == "onnx":
            difference = onnx(classifier, part)
            log.info(
                "%s: checked with ONNX Runtime on %d images, greatest difference of a probability %.2g",
                name, CHECKED, difference,
            )  # fmt: skip
        else:
            safetensors(classifier, part)
            log.info("%s: %d tensors, the config in the metadata", name, len(classifier.state_dict()))
    print(options.file)
    return console.DONE


if __name__ == "__main__":
    console.leave(lambda: console.run(lambda: perform(sys.argv[1:])))
