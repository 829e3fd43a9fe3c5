"""The split, the batches, the augmentation."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnist_sweep.config.image_data import Augmentation
from mnist_sweep.training import data, kept_images

PLAIN = Augmentation(rotation=0.0, shift=0.0, scale=0.0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.data())
def test_each_class_has_its_share(labels: list[int], more: st.DataObject) -> None:
    count = more.draw(st.integers(0, len(labels)))
    array = np.array(labels)
    chosen = kept_images.stratified(array, count, np.random.default_rng(0))
    assert len(chosen) == len(set(chosen.tolist())) == count
    for label in set(labels):
        share = (array == label).sum() * count / len(array)
        assert abs((array[chosen] == label).sum() - share) < 1


def test_the_real_parts_are_stratified_and_share_no_image(mnist: Path) -> None:
    training, validation = data.training_and_validation("mnist", str(mnist), 0, None)
    parts = [training, validation, data.test_set("mnist", str(mnist))]
    images = [{image.tobytes() for image in part.images.numpy()} for part in parts]  # MNIST has no image twice
    assert [len(part) for part in parts] == [len(part) for part in images] == [55_000, 5_000, 10_000]
    assert len(set.union(*images)) == 70_000
    everything = torch.cat([training.labels, validation.labels]).bincount()
    assert ((validation.labels.bincount() - everything / 12).abs() < 1).all()
    assert training.standardisation == pytest.approx((0.1307, 0.3081), abs=2e-4)  # the published 60,000's


def test_the_split_follows_its_seed_and_the_limit_takes_training_images_only(mnist: Path) -> None:
    (training, first), (_, again), (_, other) = (
        data.training_and_validation("mnist", str(mnist), *how) for how in ((0, 1_000), (0, 100), (1, 100))
    )
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.labels, other.labels)
    assert (len(training), len(first)) == (1_000, 5_000)
    assert training.labels.bincount().min() >= 88  # 5 is the rarest: 9.0%


def test_mnist5k_keeps_the_same_test_images_for_every_split() -> None:
    test = data.test_set("mnist5k", "")
    kept = {image.tobytes() for image in test.images.numpy()}
    for seed in (0, 1):
        parts = data.training_and_validation("mnist5k", "", seed, None)
        counts = [part.labels.bincount().tolist() for part in (*parts, test)]
        assert counts == [[400] * 10, [50] * 10, [50] * 10]
        assert not kept & {image.tobytes() for part in parts for image in part.images.numpy()}


def images(count: int) -> data.ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return data.ImageSet(pixels, torch.arange(count) % 10)


@given(st.integers(1, 40), st.integers(1, 50))
def test_batches_are_full_and_a_pass_never_repeats_an_image(count: int, size: int) -> None:
    source = images(count)
    batches = data.Batches(source, size, torch.Generator().manual_seed(1), PLAIN)
    groups = list(batches)
    assert len(groups) == len(batches)
    found = list(itertools.chain(*groups))
    assert len(found) == batches.steps == max(1, count // size)
    assert {len(labels) for _, labels in found} == {min(size, count)}
    seen = torch.cat([pixels for pixels, _ in found])
    assert len(torch.unique(seen.flatten(1), dim=0)) == len(seen)
    whole = source.images / 255  # without augmentation they are the images themselves, beside their labels
    assert all(torch.equal(whole[(whole == one).all(dim=(1, 2, 3))][0], one) for one in seen)


def test_the_order_changes_from_pass_to_pass_and_follows_the_seed() -> None:
    batches, again = (data.Batches(images(40), 40, torch.Generator().manual_seed(3), PLAIN) for _ in range(2))
    first, second, other = (next(iter(each))[0][1] for each in (batches, batches, again))
    assert not torch.equal(first, second)
    assert torch.equal(first, other)


def moved(row: int, column: int, **settings: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a white square of 3 × 3 pixels is before, (1, 2), and after 500 draws, (500, 2), seen from the middle."""
    picture = torch.zeros(1, 1, 28, 28)
    picture[..., row - 1 : row + 2, column - 1 : column + 2] = 1
    wanted = Augmentation.model_validate({"rotation": 0.0, "shift": 0.0, "scale": 0.0, **settings})
    pictures = data.augmented(picture.expand(500, -1, -1, -1), wanted, torch.Generator().manual_seed(0))
    axis, found = torch.arange(28) - 13.5, []
    for each in (picture, pictures):
        sums = each.sum((1, 3)), each.sum((1, 2))  # by row, by column
        found.append(torch.stack([(one * axis).sum(1) / each.sum((1, 2, 3)) for one in sums], dim=1))
    return found[0], found[1]


def test_every_image_is_moved_turned_and_scaled_by_a_draw_of_its_own_within_the_bound() -> None:
    pixels = images(5).images / 255
    torch.testing.assert_close(data.augmented(pixels, PLAIN, torch.Generator()), pixels, atol=1e-5, rtol=0)
    start, end = moved(13, 13, shift=0.25)
    shifts = end - start
    assert len(torch.unique(shifts, dim=0)) == 500
    assert 6.5 < shifts.max() <= 7.01  # a quarter of 28
    assert -7.01 <= shifts.min() < -6.5
    start, end = moved(13, 22, rotation=30.0)
    angles = torch.rad2deg(torch.atan2(*end.T) - torch.atan2(*start[0]))
    assert 28 < angles.max() <= 30.5
    assert -30.5 <= angles.min() < -28
    torch.testing.assert_close(end.norm(dim=1), torch.full((500,), 8.515), atol=0.15, rtol=0)
    sizes = moved(13, 20, scale=0.2)[1][:, 1] / 6.5
    assert 0.78 < sizes.min() < 0.85
    assert 1.15 < sizes.max() < 1.22


def test_images_that_are_no_squares_are_turned_without_being_sheared() -> None:
    """As the same image within a black square is; and the middle is moved by parts of the width and the height."""
    wide = torch.rand(200, 1, 12, 24, generator=torch.Generator().manual_seed(0))
    square = torch.nn.functional.pad(wide, (0, 0, 6, 6))
    turned = Augmentation(rotation=180.0, shift=0.0, scale=0.2)
    found, wanted = (data.augmented(each, turned, torch.Generator().manual_seed(1)) for each in (wide, square))
    torch.testing.assert_close(found, wanted[:, :, 6:18], atol=1e-4, rtol=0)
    spot = torch.zeros(200, 1, 12, 24)
    spot[..., 5:7, 11:13] = 1
    centres = []
    for rotation in (0.0, 90.0):
        settings = Augmentation(rotation=rotation, shift=0.2, scale=0.0)
        pixels = data.augmented(spot, settings, torch.Generator().manual_seed(1))[:, 0]
        rows, columns = (pixels.sum(axis) / pixels.sum((1, 2))[:, None] for axis in (2, 1))
        centres.append(torch.stack([rows @ torch.arange(12.0), columns @ torch.arange(24.0)], dim=1))
    torch.testing.assert_close(centres[0], centres[1], atol=0.1, rtol=0)


def photographs(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 6, 8, generator=torch.Generator().manual_seed(1)) + 0.1  # none is black


def drawn(images: torch.Tensor, **settings: Any) -> torch.Tensor:
    own = Augmentation(rotation=0.0, shift=0.0, scale=0.0, **settings)
    return data.changed(images, own, torch.Generator().manual_seed(0))


def test_half_of_the_images_are_flipped_each_by_its_own_draw() -> None:
    images = photographs(200)
    changed = drawn(images, flip=0.5)
    flipped = [torch.equal(one, other.flip(2)) for one, other in zip(changed, images, strict=True)]
    same = [torch.equal(one, other) for one, other in zip(changed, images, strict=True)]
    assert all(one != other for one, other in zip(flipped, same, strict=True))
    assert 70 < sum(flipped) < 130
    assert torch.equal(drawn(images, flip=1.0), images.flip(3))


def test_a_crop_moves_each_image_by_whole_pixels_and_black_comes_in() -> None:
    images = photographs(60)
    framed = torch.nn.functional.pad(images, (2, 2, 2, 2))
    found = set()
    for image, frame in zip(drawn(images, crop=2), framed, strict=True):
        places = [(y, x) for y in range(5) for x in range(5) if torch.equal(frame[:, y : y + 6, x : x + 8], image)]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 15


def test_cutout_hides_a_square_in_the_mean_colour() -> None:
    images = photographs(60)
    corners = set()
    for before, after in zip(images, drawn(images, cutout=4), strict=True):
        hidden = (before != after).any(dim=0)
        assert torch.allclose(after[:, hidden], before.mean(dim=(1, 2))[:, None])
        rows, columns = hidden.any(dim=1).nonzero().flatten(), hidden.any(dim=0).nonzero().flatten()
        assert hidden.sum() == len(rows) * len(columns)
        assert 2 <= len(rows) <= 4
        assert 2 <= len(columns) <= 4
        corners.add((int(rows[0]), int(columns[0])))
    assert len(corners) > 10


def test_augmentation_is_off_by_default_and_does_not_change_its_images() -> None:
    images = photographs(4)
    before = images.clone()
    assert torch.equal(drawn(images), images)
    drawn(images, flip=1.0, crop=3, cutout=3)
    assert torch.equal(images, before)
