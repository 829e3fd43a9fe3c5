"""A page to draw a digit on: ``python -m mnist_sweep.inference.demo [--model URI | --checkpoint FILE]``. Needs ``[demo]``."""

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnist_sweep import cli as console
from mnist_sweep.errors import RequestError
from mnist_sweep.inference import preprocess as digits

log = logging.getLogger("mnist_sweep.inference.demo")  # __name__ is __main__ here

HOST = "127.0.0.1"
_CANVAS = 320
#: Of each pixel of the 28 × 28 picture on the page.
_ENLARGED = 8
#: Gradio's canvas waits until a tool is chosen, but there is only one that makes sense.
_TAKE_THE_BRUSH = """() => {
  const timer = setInterval(() => {
    const brush = document.querySelector("#sketch button[aria-label=Brush]");
    if (brush) { brush.click(); clearInterval(timer); }
  }, 200);
}"""


def look(classifier: Any, drawing: Any) -> tuple[dict[str, float], Any, Any]:
    """What the network says of a drawing.

    Args:
        classifier: a `Classifier` or an `Ensemble`.
        drawing: a PIL image of one digit.

    Returns:
        The probability of each class by its name, the 28 × 28 picture that the network saw, enlarged, and its
        activation maps as a PIL image (None where it has no blocks).

    Raises:
        PictureError: nothing is drawn.
    """
    import torch
    from PIL import Image

    from mnist_sweep.tracking import figures
    from mnist_sweep.training import trained_model as inspection

    digit = digits.normalised(np.asarray(digits.to_grey(drawing)))
    images = torch.from_numpy(digit)[None, None]
    (row,) = inspection.probabilities(classifier, images)
    seen = np.kron(255 - digit, np.ones((_ENLARGED, _ENLARGED), dtype=np.uint8))
    maps = None
    if blocks := inspection.activation_maps(classifier, images):
        figure = figures.activations(digit[None], [int(row.argmax())], blocks, "what each block makes of it", each=8)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi="figure")
        maps = Image.open(file)
    return {str(label): float(value) for label, value in enumerate(row)}, seen, maps


def page(classifier: Any, name: str) -> Any:
    """The page, to be launched.

    Args:
        classifier: a `Classifier` or an `Ensemble`.
        name: of the network.

    Raises:
        RequestError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read while gradio is imported
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio
    except ImportError as error:
        raise RequestError("the page needs Gradio; allowed: make demo, or pip install 'mnist_sweep[demo]'") from error

    def answer(sketch: Any) -> tuple[Any, Any, Any]:
        try:
            return look(classifier, sketch["composite"])
        except (digits.PictureError, TypeError):  # nothing has been drawn yet, or it was wiped out
            return None, None, None

    with gradio.Blocks(title="mnist_sweep", analytics_enabled=False) as made:
        gradio.Markdown(f"## Draw a digit\n`{name}` · {classifier.config.data.name}")
        with gradio.Row():
            sketch = gradio.Sketchpad(
                label="draw here", type="pil", image_mode="RGBA", canvas_size=(_CANVAS, _CANVAS), layers=False,
                brush=gradio.Brush(default_size=22, colors=["#000000"], color_mode="fixed"), elem_id="sketch",
            )  # fmt: skip
            with gradio.Column():
                label = gradio.Label(label="answer", num_top_classes=3, elem_id="answer")
                seen = gradio.Image(label="what the network saw, 28 × 28", elem_id="seen", height=280, width=280)
        maps = gradio.Image(label="activation maps", elem_id="maps")
        made.load(js=_TAKE_THE_BRUSH)
        sketch.change(answer, sketch, [label, seen, maps], show_progress="hidden", trigger_mode="always_last")
    return made


def perform(arguments: Sequence[str]) -> int:
    """Show the page until Ctrl-C."""
    from mnist_sweep.ui import check_port

    parser = console.parser("demo", "A page on this machine to draw a digit on.")
    parser.add_argument("--port", type=int, default=7860, help="of the page (default: %(default)s)")
    console.add_model(parser)
    options = parser.parse_args(arguments)
    check_port(options.port)
    classifier, name = console.classifier(options)
    if (trained := classifier.config.data.name) not in console.DIGITS:
        allowed = ", ".join(console.DIGITS)
        raise RequestError(f"{name}: this network was trained on {trained}; allowed for drawn digits: {allowed}")
    made = page(classifier, name)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    log.info("http://%s:%d   (Ctrl-C ends it)", HOST, options.port)
    made.launch(server_name=HOST, server_port=options.port, quiet=True, share=False)
    return console.DONE


if __name__ == "__main__":
    console.leave(lambda: console.run(lambda: perform(sys.argv[1:])))
