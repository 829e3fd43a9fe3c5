"""Whatever is read is read or refused: no traceback, no hang, no memory beyond what the file itself has.

``FUZZ=1000`` tries so many inputs of each kind; what was found once is an ``example``.
"""

import io
import json
import os
import string
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError
from mnist_sweep.inference.preprocess import PictureError, decode, normalised
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.space import Space
from mnist_sweep.tracking.journal import Journal
from mnist_sweep.training import datasets, trained_model
from tests import stubs
from tests.conftest import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.fault("fuzz")]
fuzz = settings(
    max_examples=int(os.environ.get("FUZZ", "25")), deadline=None, derandomize="FUZZ" not in os.environ,
    phases=[Phase.explicit, Phase.generate],  # to make a finding smaller takes minutes here
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def one_line(error: Exception) -> None:
    assert "\n" not in str(error)


keys = st.sampled_from(["model.filters", "optimizer", "data", "seed", "name", "output", "sweep.space", "a.b", "model"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
leaves = scalars | st.sampled_from(["low", "high", "${model}", "[1", "a,b", "{", "'", "\\", "null", "1e999"])
trees: st.SearchStrategy[Any] = st.deferred(
    lambda: leaves | st.lists(trees, max_size=3) | st.dictionaries(keys, trees, max_size=3)
)
words = st.text(string.printable, max_size=20) | keys.flatmap(lambda key: leaves.map(lambda value: f"{key}={value}"))
drawn = st.fixed_dictionaries(
    {},
    optional={
        "low": scalars, "high": scalars, "log": scalars, "step": scalars, "choices": st.lists(scalars, max_size=3),
        "length": trees, "each": trees, "when": trees, "_group_": trees,
    },
)  # fmt: skip


@fuzz
@given(st.lists(words, min_size=1, max_size=3), st.sampled_from(["", "+", "++", "~"]))
@example(["model.filters=[" + "[" * 500], "")
@example(["name=${name}"], "")
@example(["seed=1e999"], "++")
@example(["=\t", "a.b=None"], "+")
def test_overrides(items: list[str], prefix: str) -> None:
    try:
        command = CommandLine.of([prefix + item for item in items])
        event(f"composes: {bool(command.config)}")
    except RequestError as error:
        one_line(error)


@fuzz
@given(
    st.dictionaries(st.sampled_from(["optimizer", "model", "trainer"]), st.dictionaries(keys | st.just("lr"), drawn))
)
@example({"optimizer": {"lr": {"low": "nan", "high": 1}}})
def test_spaces(space: dict[str, Any]) -> None:
    text = yaml.safe_dump(space, default_flow_style=True, width=10**6, allow_unicode=True).strip()
    try:
        event(f"searches: {bool(Space.of(stubs.command(Path('nowhere'), f'++sweep.space={text}')).keys)}")
    except RequestError as error:
        one_line(error)


def spoilt(content: bytes, cut: int, at: int, by: bytes) -> bytes:
    """With some bytes replaced, and cut after so many thousandths."""
    where = at % max(1, len(content))
    return (content[:where] + by + content[where + len(by) :])[: 1 + len(content) * cut // 1000]


damage = st.tuples(st.sampled_from([1000, 1000, 999, 500, 10]), st.integers(0, 2**31), st.binary(max_size=40))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "best.ckpt"
    config = CommandLine.of([*SMALL, "name=it"]).config
    trained_model.save(path, config.model.build(0.1, 0.3, config.data.images), config)
    return path


@fuzz
@given(damage)
def test_checkpoints(checkpoint: Path, tmp_path: Path, damage: tuple[int, int, bytes]) -> None:
    (tmp_path / "it.ckpt").write_bytes(spoilt(checkpoint.read_bytes(), *damage))
    try:
        trained_model.read(tmp_path / "it.ckpt")
    except RequestError as error:
        one_line(error)


@fuzz
@given(trees, st.sampled_from(["config", "network", "members", "hyper_parameters", ""]))
def test_checkpoints_of_other_things(checkpoint: Path, tmp_path: Path, content: Any, key: str) -> None:
    whole = torch.load(checkpoint, weights_only=True)
    torch.save({**whole, key: content} if key else content, tmp_path / "it.ckpt")
    try:
        trained_model.read(tmp_path / "it.ckpt")
    except RequestError as error:
        one_line(error)


def test_a_checkpoint_that_asks_for_terabytes_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    whole = torch.load(checkpoint, weights_only=True)
    whole["config"]["model"]["filters"] = [100_000] * 3
    whole["network"] = {key: torch.zeros(1).expand(10**6, 10**6) for key in whole["network"]}
    whole["network"] |= {"mean": torch.tensor(0.1), "deviation": torch.tensor(0.3)}
    torch.save(whole, tmp_path / "it.ckpt")
    with pytest.raises(RequestError, match="bytes of weights are too few"):
        trained_model.read(tmp_path / "it.ckpt")


def _pictures() -> list[bytes]:
    found = []
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
    for mode, kind in (("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("RGB", "JPEG"), ("L", "JPEG")):
        Image.fromarray(noise).convert(mode).save(buffer := io.BytesIO(), kind)
        found.append(buffer.getvalue())
    return found


@fuzz
@given(st.sampled_from(_pictures()), damage)
def test_pictures(picture: bytes, damage: tuple[int, int, bytes]) -> None:
    try:
        assert normalised(decode(spoilt(picture, *damage))).shape == (28, 28)
    except PictureError as error:
        event(str(error)[:40])
        one_line(error)


strokes = st.lists(st.tuples(*[st.integers(-50, 700)] * 4, st.integers(1, 80), st.integers(0, 255)), max_size=6)


@fuzz
@given(st.tuples(st.integers(1, 600), st.integers(1, 600)), st.integers(0, 255), strokes)
def test_drawings(sides: tuple[int, int], paper: int, strokes: list[tuple[int, ...]]) -> None:
    picture = Image.new("L", sides, paper)
    for *ends, width, ink in strokes:
        ImageDraw.Draw(picture).line(ends, ink, width)
    try:
        assert normalised(np.asarray(picture)).shape == (28, 28)
    except PictureError as error:
        event(str(error)[:40])
        one_line(error)


@fuzz
@given(damage)
def test_image_files(tmp_path: Path, damage: tuple[int, int, bytes]) -> None:
    file = tmp_path / "KMNIST" / "raw" / "t10k-labels-idx1-ubyte"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(spoilt(struct.pack(">2i", 2049, 10_000) + bytes(10_000), *damage))
    try:
        event(f"is one: {bool(datasets.verify(CommandLine.of(['data=kmnist', f'data.root={tmp_path}']).config.data))}")
    except RequestError as error:
        one_line(error)


lines = st.text(max_size=30) | trees.map(json.dumps) | st.sampled_from(["[" * 100_000, '{"epoch": 3}', '{"epoch": -1}'])


@fuzz
@given(st.sampled_from(["result.json", "history.jsonl", "config.yaml", "overrides.yaml", "unsent.jsonl"]), lines, lines)
@example("history.jsonl", '{"epoch": "a", "val/loss": 1}', '{"attempts": null}')
@example("result.json", '{"status": "finished"}', "")
@example("unsent.jsonl", '["run", {"tags": 3}]', "3")
def test_what_a_resume_reads(tmp_path: Path, name: str, first: str, second: str) -> None:
    (tmp_path / name).write_text(f"{first}\n{second}\n", encoding="utf-8", errors="ignore")
    folder = RunFolder(tmp_path)
    found = folder.progress()
    assert all(isinstance(value, float) for epoch in found.history for value in epoch.values())
    assert isinstance(found.attempts, int)
    assert folder.result() is None or folder.result().epochs >= 0  # type: ignore[union-attr]
    assert all(isinstance(item, str) for item in folder.overrides())
    folder.config()
    folder.differences(CommandLine.of([*SMALL, "name=it"]).config)
    Journal(tmp_path).run()
    Journal(tmp_path).send(lambda *_: True)
    (tmp_path / name).unlink(missing_ok=True)
