"""How well pictures are recognised: python benchmarks/pictures.py [--model URI | --checkpoint FILE]

200 test digits of MNIST (MNIST_SWEEP_DATA names their folder), each written as a file in the styles of
`tests/styles.py`, and read by ``predict``: the share that is right, by style. The network is the champion of
``mlruns/mlflow.db`` unless another one is named.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the styles are the tests'

from mnist_sweep import cli as console
from mnist_sweep.inference import predict
from mnist_sweep.training import data
from mnist_sweep.training import trained_model as inspection
from tests import styles

COUNT = 200


def perform(arguments: list[str]) -> int:
    """Print the shares."""
    parser = console.parser("predict", "How well pictures are recognised.")
    console.add_model(parser)
    classifier, name = console.classifier(parser.parse_args(arguments))
    test = data.test_set("mnist", os.environ.get("MNIST_SWEEP_DATA", "data"))
    step = len(test) // COUNT
    images, labels = test.images[::step][:COUNT], test.labels[::step][:COUNT].numpy()
    direct = (inspection.probabilities(classifier, images).argmax(axis=1) == labels).mean()
    print(f"{name}: {COUNT} test digits, as the network sees them {100 * direct:.1f}% right; as files:")
    with tempfile.TemporaryDirectory() as folder:
        for style, (make, suffix) in styles.STYLES.items():
            paths = styles.write(Path(folder) / style, style, images[:, 0].numpy())
            said = [answer.digit if answer else -1 for answer in predict.answers(classifier, paths)]
            print(f"    {style:<12} {100 * (said == labels).mean():5.1f}%   {suffix}, {make.__doc__}")
    return console.DONE


if __name__ == "__main__":
    sys.exit(console.run(lambda: perform(sys.argv[1:])))
