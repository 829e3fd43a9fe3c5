"""The test set is opened for all networks or for none, wherever they are now."""

from pathlib import Path
from typing import Any

import pytest

from mnist_sweep import evaluation, run
from mnist_sweep.config.command import compose
from mnist_sweep.errors import RequestError
from mnist_sweep.result import BEST, Result
from tests.conftest import SMALL


def perform(output: Path, name: str, **arguments: Any) -> Result:
    given = [*SMALL, f"output={output}", f"name={name}"]
    return run.run(compose(given), given, **arguments)


def test_the_test_set_is_opened_for_all_runs_or_for_none(tmp_path: Path) -> None:
    perform(tmp_path, "finished")
    perform(tmp_path, "pruned", report=lambda *_: False)
    folders = [tmp_path / "runs" / name for name in ("finished", "pruned")]
    with pytest.raises(RequestError, match=r"pruned: the run is pruned; allowed"):
        evaluation.open_test(folders)
    assert not Result.read(folders[0]).test_opened_at
    (folders[0] / BEST).unlink()
    with pytest.raises(RequestError, match=r"best\.ckpt is not there"):
        evaluation.open_test(folders[:1])


def test_a_run_is_measured_where_it_is_now(tmp_path: Path) -> None:
    perform(tmp_path / "before", "it")
    (tmp_path / "before").rename(tmp_path / "after")
    (result,) = evaluation.open_test([tmp_path / "after" / "runs" / "it"])
    assert Result.read(tmp_path / "after" / "runs" / "it") == result
    assert not (tmp_path / "before").exists()


@pytest.mark.parametrize("content", [b"no checkpoint", None])
def test_a_damaged_checkpoint_leaves_the_test_set_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    perform(tmp_path, "whole")
    perform(tmp_path, "damaged")
    folders = [tmp_path / "runs" / name for name in ("whole", "damaged")]
    (folders[1] / BEST).write_bytes((folders[1] / BEST).read_bytes()[:2_000] if content is None else content)
    with pytest.raises(RequestError, match=r"damaged/checkpoints/best\.ckpt: refused: it is no checkpoint; allowed"):
        evaluation.open_test(folders)
    assert "the test set is opened" not in caplog.text
    assert not Result.read(folders[0]).test_opened_at
    (folders[1] / "result.json").write_text('{"status": "fini')
    with pytest.raises(RequestError, match=r"damaged: its result\.json is not there or damaged; allowed"):
        evaluation.open_test(folders)
