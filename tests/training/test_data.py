"""The split, the batches, the augmentation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_sweep.config import schema
from mnist_sweep.training import data

PLAIN = schema.Augmentation(rotation=0.0, shift=0.0, scale=0.0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.data())
def test_each_class_has_its_share(labels: list[int], more: st.DataObject) -> None:
    count = more.draw(st.integers(0, len(labels)))
    array = np.array(labels)
    chosen = data.stratified(array, count, np.random.default_rng(0))
    assert len(chosen) == len(set(chosen.tolist())) == count
    for label in set(labels):
        share = (array == label).sum() * count / len(array)
        assert abs((array[chosen] == label).sum() - share) < 1


def test_the_real_split(mnist: Path) -> None:
    training, validation = data.training_and_validation("mnist", str(mnist), 0, None)
    assert (len(training), len(validation), len(data.test_set("mnist", str(mnist)))) == (55_000, 5_000, 10_000)
    everything = torch.cat([training.labels, validation.labels]).bincount()
    assert ((validation.labels.bincount() - everything / 12).abs() < 1).all()
    assert training.images.dtype == torch.uint8
    assert training.images.shape == (55_000, 1, 28, 28)
    assert training.standardisation == pytest.approx((0.1307, 0.3081), abs=2e-4)  # the published 60,000's


def test_the_parts_share_no_image(mnist: Path) -> None:
    """By the bytes of the images: MNIST itself has no image twice."""
    parts = [*data.training_and_validation("mnist", str(mnist), 1, None), data.test_set("mnist", str(mnist))]
    images = [{image.tobytes() for image in part.images.numpy()} for part in parts]
    assert [len(part) for part in images] == [55_000, 5_000, 10_000]
    assert not images[0] & images[1]
    assert not images[0] & images[2]
    assert not images[1] & images[2]


def test_the_split_follows_its_seed(mnist: Path) -> None:
    first, again, other = (data.training_and_validation("mnist", str(mnist), seed, 100)[1] for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.labels, other.labels)


def test_the_limit_takes_a_part_of_the_training_images_only(mnist: Path) -> None:
    training, validation = data.training_and_validation("mnist", str(mnist), 0, 1_000)
    assert (len(training), len(validation)) == (1_000, 5_000)
    assert training.labels.bincount().min() >= 88  # 5 is the rarest: 9.0%


def test_mnist5k_keeps_the_same_test_images_for_every_split() -> None:
    training, validation = data.training_and_validation("mnist5k", "", 0, None)
    test = data.test_set("mnist5k", "")
    assert [part.labels.bincount().tolist() for part in (training, validation, test)] == [
        [400] * 10,
        [50] * 10,
        [50] * 10,
    ]
    for seed in (1, 2):
        parts = data.training_and_validation("mnist5k", "", seed, None)
        kept = {image.tobytes() for image in test.images.numpy()}
        assert not kept & {image.tobytes() for part in parts for image in part.images.numpy()}


def images(count: int) -> data.ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return data.ImageSet(pixels, torch.arange(count) % 10)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50))
def test_evaluation_sees_each_image_once_in_order(count: int, batch_size: int) -> None:
    source = images(count)
    batches = list(data.Batches(source, batch_size))
    assert len(batches) == len(data.Batches(source, batch_size))
    torch.testing.assert_close(torch.cat([batch[0] for batch in batches]), source.images / 255)
    assert torch.equal(torch.cat([batch[1] for batch in batches]), source.labels)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50))
def test_training_batches_are_full_and_never_repeat_an_image(count: int, batch_size: int) -> None:
    batches = data.Batches(images(count), batch_size, torch.Generator().manual_seed(1))
    passed = list(batches)
    assert len(passed) == len(batches) == max(1, count // batch_size)
    assert {len(labels) for _, labels in passed} == {min(batch_size, count)}
    seen = torch.cat([batch[0] for batch in passed]).flatten(1)
    assert len(torch.unique(seen, dim=0)) == len(seen)


def test_the_order_changes_from_pass_to_pass_and_follows_the_seed() -> None:
    batches, again = (data.Batches(images(40), 40, torch.Generator().manual_seed(3)) for _ in range(2))
    first, second = (torch.cat([labels for _, labels in batches]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.cat([labels for _, labels in again]))


def test_no_augmentation_leaves_the_images() -> None:
    pixels = images(5).images / 255
    torch.testing.assert_close(data.augmented(pixels, PLAIN, torch.Generator()), pixels, atol=1e-5, rtol=0)
    assert data.Batches(images(5), 5, torch.Generator(), PLAIN).augmentation is None


def dot(row: int, column: int) -> torch.Tensor:
    """One image, black but for a white square of 3 × 3 pixels around a position."""
    picture = torch.zeros(1, 1, 28, 28)
    picture[..., row - 1 : row + 2, column - 1 : column + 2] = 1
    return picture


def centres(pictures: torch.Tensor) -> torch.Tensor:
    """The centre of mass (row, column) of each image, from the middle."""
    axis = torch.arange(28) - 13.5
    mass = pictures.sum((1, 2, 3))
    return torch.stack(
        [(pictures.sum((1, 3)) * axis).sum(1) / mass, (pictures.sum((1, 2)) * axis).sum(1) / mass], dim=1
    )


def test_every_image_is_moved_by_a_draw_of_its_own_within_the_bound() -> None:
    settings_ = schema.Augmentation(rotation=0.0, shift=0.25, scale=0.0)
    start = dot(13, 13)
    moved = data.augmented(start.expand(500, -1, -1, -1), settings_, torch.Generator().manual_seed(0))
    shifts = centres(moved) - centres(start)
    assert len(torch.unique(shifts, dim=0)) == 500
    assert shifts.abs().max() <= 7.01  # a quarter of 28
    assert shifts.max() > 6.5
    assert shifts.min() < -6.5


def test_every_image_is_turned_within_the_bound() -> None:
    settings_ = schema.Augmentation(rotation=30.0, shift=0.0, scale=0.0)
    start = dot(13, 22)
    turned = data.augmented(start.expand(500, -1, -1, -1), settings_, torch.Generator().manual_seed(0))
    rows, columns = centres(turned).T
    angles = torch.rad2deg(torch.atan2(rows, columns)) - torch.rad2deg(torch.atan2(*centres(start)[0]))
    assert 28 < angles.max() <= 30.5
    assert -30.5 <= angles.min() < -28
    torch.testing.assert_close(rows.hypot(columns), torch.full((500,), 8.515), atol=0.15, rtol=0)


def test_every_image_is_scaled_within_the_bound() -> None:
    settings_ = schema.Augmentation(rotation=0.0, shift=0.0, scale=0.2)
    scaled = data.augmented(dot(13, 20).expand(500, -1, -1, -1), settings_, torch.Generator().manual_seed(0))
    distances = centres(scaled)[:, 1] / 6.5
    assert 0.78 < distances.min() < 0.85
    assert 1.15 < distances.max() < 1.22
