"""What the page to draw on shows; the page itself is tested in a browser."""

from pathlib import Path

import pytest
from PIL import Image

from mnist_sweep import cli
from mnist_sweep.errors import RequestError
from mnist_sweep.inference import demo
from mnist_sweep.training import trained_model
from tests.inference.conftest import Changed

pytestmark = pytest.mark.slow


def test_a_drawing_has_probabilities_the_picture_that_was_seen_and_activation_maps(
    checkpoint: Path, picture: Path
) -> None:
    with Image.open(picture) as drawing:
        shares, seen, maps = demo.look(trained_model.read(checkpoint), drawing.convert("RGBA"))
    assert list(shares) == [str(digit) for digit in range(10)]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert seen.shape == (8 * 28, 8 * 28)
    assert maps.size[0] > 100


def test_the_page_is_for_digits(changed: Changed) -> None:
    with pytest.raises(RequestError, match="was trained on kmnist; allowed for drawn digits: mnist, mnist5k"):
        cli.perform("demo", ["--port", "0", "--checkpoint", str(changed(name="kmnist"))])
