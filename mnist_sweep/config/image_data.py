"""The image sets as a config has them: the keys of each, their bounds, and what it says of itself."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import AfterValidator, Discriminator, Field, Tag

from mnist_sweep.config.image_sets import IMAGE_SETS
from mnist_sweep.config.network_shapes import Images
from mnist_sweep.config.paths import PathText
from mnist_sweep.config.section import Count, Fraction, Positive, Section, above, absolute, name_of, one_of


class Augmentation(Section):
    rotation: Annotated[float, Field(ge=0, le=180)]
    shift: Fraction
    scale: Fraction
    flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    crop: Count = 0
    cutout: Count = 0


class _Data(Section):
    own: ClassVar[bool] = False  # the user's pictures, rather than a set that others publish
    places: ClassVar[tuple[str, ...]] = ("root",)  # the keys that say where the files are
    root: PathText
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    limit: Positive | None
    batch_size: Positive
    augmentation: Augmentation
    fallback: Literal["mnist5k"] | None = None
    name: str

    @property
    @abstractmethod
    def images(self) -> Images:
        """What a network for these takes and tells apart."""

    @property
    @abstractmethod
    def classes(self) -> Sequence[str]:
        """The names of the classes, in the order of their labels."""

    @property
    def label(self) -> str:
        """What results and models of this set are filed under."""
        return self.name

    @property
    def split(self) -> dict[str, Any]:
        """What says which images are for training, validation and test, by key: it is the same for what is compared."""
        return {"name": self.label, "split_seed": self.split_seed}

    def below(self, root: str) -> Self:
        """The same set in a folder that has what `datasets.needed` names of it."""
        return self.model_copy(update={"root": root})


class KnownSet(_Data):
    """A set by its name in `IMAGE_SETS`."""

    name: Annotated[str, one_of([*IMAGE_SETS, "folder", "arrays"])]
    fallback: Literal["mnist5k"] | None

    @property
    def images(self) -> Images:
        return IMAGE_SETS[self.name].images

    @property
    def classes(self) -> Sequence[str]:
        return IMAGE_SETS[self.name].classes


class Contents(Section):
    """What the files of an image set of one's own hold; kept with each run and in its checkpoints."""

    channels: Literal[1, 3]
    size: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # height and width
    classes: Annotated[list[str], Field(min_length=2)]
    digest: str  # of the files, and of how they are read


class _OwnSet(_Data):
    own = True
    places = ("root", "path", "cache")
    path: Annotated[str, Field(min_length=1), AfterValidator(absolute)]
    cache: Annotated[PathText, Field(min_length=1)]
    validation_share: Annotated[float, Field(gt=0, lt=1)]
    test_share: Annotated[float, Field(gt=0, lt=1)]
    contents: Contents | None = None  # of a run that has been made: its files need not be there any more

    @property
    def found(self) -> Contents:
        """What the files hold; RequestError where they are no image set."""
        return self.contents or cast(Contents, above("own_images:contents")(self))

    @property
    def images(self) -> Images:
        found = self.found
        height, width = found.size
        return Images(found.channels, height, width, len(found.classes))

    @property
    def classes(self) -> Sequence[str]:
        return self.found.classes

    @property
    def split(self) -> dict[str, Any]:
        found, shares = self.found, {key: getattr(self, key) for key in ("validation_share", "test_share")}
        form = {"contents.channels": found.channels, "contents.size": found.size}
        return super().split | shares | form | {"contents.digest": found.digest}

    def below(self, root: str) -> Self:
        return self.model_copy(update={"root": root, "cache": f"{root}/cache"})

    @property
    def label(self) -> str:
        return f"{self.name}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', Path(self.path).stem)}"


class Folder(_OwnSet):
    """Pictures, a folder for each class; see conf/data/folder.yaml."""

    name: Literal["folder"]
    size: Annotated[list[Annotated[int, Field(ge=1, le=4_096)]], Field(min_length=2, max_length=2)] | None
    channels: Literal[1, 3] | None
    skip_bad: bool


class Arrays(_OwnSet):
    """Images in a file of numpy's; see conf/data/arrays.yaml."""

    name: Literal["arrays"]


Data = Annotated[
    Annotated[KnownSet, Tag("")] | Annotated[Folder, Tag("folder")] | Annotated[Arrays, Tag("arrays")],
    Discriminator(lambda value: name if (name := name_of(value)) in ("folder", "arrays") else ""),
]
