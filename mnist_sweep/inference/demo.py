"""A page to draw a digit on: ``mnist-sweep demo [--model URI | --checkpoint FILE]``. Needs ``mnist_sweep[demo]``."""

import argparse
import logging
import os
import time
from typing import Any

import numpy as np
import torch

from mnist_sweep.config.image_sets import HANDWRITTEN
from mnist_sweep.errors import RequestError, check_interrupted
from mnist_sweep.inference import load, preprocess
from mnist_sweep.training import pictures
from mnist_sweep.training.trained_model import TrainedModel

log = logging.getLogger(__name__)

#: Gradio's canvas waits until a tool is chosen, but there is only one that makes sense.
_TAKE_THE_BRUSH = """() => {
  const timer = setInterval(() => {
    const brush = document.querySelector("#sketch button[aria-label=Brush]");
    if (brush) { brush.click(); clearInterval(timer); }
  }, 200);
}"""


def look(model: TrainedModel, drawing: Any) -> tuple[dict[str, float], Any]:
    """What a network sees in a drawing, a PIL image of one digit; a PictureError where nothing is drawn.

    Returns:
        The probability of each class by its name; the picture that the network saw, 8 times as large.
    """
    digit = preprocess.normalised(np.asarray(pictures.to_grey(drawing)))
    (row,) = model.probabilities(torch.from_numpy(digit)[None, None])
    large = np.kron(255 - digit, np.ones((8, 8), dtype=np.uint8))
    return {str(label): float(share) for label, share in enumerate(row)}, large


def page(model: TrainedModel, name: str) -> Any:
    """The page of a network, to be launched; a RequestError where Gradio is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read while gradio is imported
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio
    except ImportError as error:
        raise RequestError("the page needs Gradio; allowed: make demo, or pip install 'mnist_sweep[demo]'") from error

    def answer(sketch: Any) -> tuple[Any, Any]:
        try:
            return look(model, sketch["composite"])
        except (pictures.PictureError, TypeError):  # nothing has been drawn yet, or it was wiped out
            return None, None

    with gradio.Blocks(title="mnist_sweep", analytics_enabled=False) as blocks:
        gradio.Markdown(f"## Draw a digit\n`{name}` · {model.config.data.name}")
        with gradio.Row():
            sketch = gradio.Sketchpad(
                label="draw here", type="pil", image_mode="RGBA", canvas_size=(320, 320), layers=False,
                brush=gradio.Brush(default_size=22, colors=["#000000"], color_mode="fixed"), elem_id="sketch",
            )  # fmt: skip
            with gradio.Column():
                label = gradio.Label(label="answer", num_top_classes=3, elem_id="answer")
                seen = gradio.Image(label="what the network saw, 28 × 28", elem_id="seen", height=280, width=280)
        blocks.load(js=_TAKE_THE_BRUSH)
        sketch.change(answer, sketch, [label, seen], show_progress="hidden", trigger_mode="always_last")
    return blocks


def perform(options: argparse.Namespace) -> int:
    """Show the page until Ctrl-C."""
    model, name = load.chosen(options)
    if (trained := model.config.data.name) not in HANDWRITTEN:
        allowed = ", ".join(HANDWRITTEN)
        raise RequestError(f"{name}: this network was trained on {trained}; allowed for drawn digits: {allowed}")
    shown = page(model, name)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    shown.launch(server_name="127.0.0.1", server_port=options.port, quiet=True, share=False, prevent_thread_lock=True)
    log.info("http://127.0.0.1:%d   (Ctrl-C ends it)", options.port)
    while True:
        check_interrupted()
        time.sleep(0.2)
