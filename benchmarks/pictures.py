"""How well pictures are recognised: python benchmarks/pictures.py [--model URI | --checkpoint FILE] [--offset N]

200 test digits of MNIST (MNIST_SWEEP_DATA names their folder), each written as a file in the styles of
`tests/styles.py`, and read by ``predict``: by style the share that is right, the share that is refused with a reason,
and the share that is wrong with more than 0.9 certainty. The network is the champion of
``mlruns/mlflow.db`` unless another one is named. ``--offset 25`` takes other digits, and draws their sizes, places and
noise anew: a rule that was made for the first 200 has to hold for those, too.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the styles are the tests'

from mnist_sweep import cli
from mnist_sweep.inference import load
from mnist_sweep.inference.predict import Prediction, predictions
from mnist_sweep.training import data
from mnist_sweep.training.trained_model import served
from tests import styles

COUNT = 200
CERTAIN = 0.9
#: The class of what is no digit: an answer is always wrong.
NONE = -1


def perform(arguments: list[str]) -> int:
    """Print the shares."""
    parser = cli.Parser(prog="python benchmarks/pictures.py", description="How well pictures are recognised.")
    cli.add_model(parser)
    told = "of the first digit; others are every 50th after it (default: %(default)s)"
    parser.add_argument(
        "--offset", type=int, choices=range(50), default=0, metavar="N", help=f"position, 0 … 49, {told}"
    )
    options = parser.parse_args(arguments)
    model, name = load.chosen(options)
    test = data.test_set("mnist", os.environ.get("MNIST_SWEEP_DATA", "data"))
    chosen = slice(options.offset, None, len(test) // COUNT)
    images, labels = test.images[chosen], test.labels[chosen].numpy()
    direct = (model.probabilities(images).argmax(axis=1) == labels).mean()
    print(f"{name}: {COUNT} test digits, as the network sees them {100 * direct:.1f}% right; as files:")
    print(f"    {'':<20} {'right':>10} {'refused':>10} {'sure, wrong':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for style, (make, suffix) in styles.STYLES.items():
            paths = styles.write(Path(folder) / style, style, images[:, 0].numpy(), options.offset)
            read = predictions(served(model.network), model.config.data.name, paths)
            found = {result.image: result for result in read if isinstance(result, Prediction)}
            said = [found.get(str(path)) for path in paths]
            truth = [NONE if style == "two_digits" else label for label in labels]
            right = sum(bool(each) and each.digit == label for each, label in zip(said, truth, strict=True))
            wrong = [each for each, label in zip(said, truth, strict=True) if each and each.digit != label]
            sure = sum(max(each.probabilities) > CERTAIN for each in wrong)
            shares = [100 * count / COUNT for count in (right, COUNT - right - len(wrong), sure)]
            print(f"    {style:<20} {shares[0]:9.1f}% {shares[1]:9.1f}% {shares[2]:9.1f}%   {suffix}, {make.__doc__}")
    return cli.DONE


if __name__ == "__main__":
    sys.exit(cli.run_command(lambda: perform(sys.argv[1:])))
