"""What the processor can do, and the precision that follows."""

from pathlib import Path

import pytest

from mnist_sweep import hardware as processor


def test_what_is_asked_for_is_taken_and_the_rest_explained() -> None:
    assert processor.precision(32, on_gpu=False) == (32, "")
    assert processor.precision("bf16", on_gpu=False) == ("bf16", "")
    found, why = processor.precision("auto", on_gpu=False)
    assert found == ("bf16" if processor.multiplies_bf16() else 32)
    assert "processor" in why


@pytest.mark.parametrize(
    ("content", "able"),
    [
        ("model name\t: bf16\nflags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", True),
        ("model name\t: bf16 avx512_bf16\nflags\t\t: fpu avx512f\n", False),
        ("", False),
    ],
)
def test_the_flags_of_the_processor(monkeypatch: pytest.MonkeyPatch, content: str, able: bool) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: content)
    processor.multiplies_bf16.cache_clear()
    assert processor.multiplies_bf16() == able
    processor.multiplies_bf16.cache_clear()


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    processor.multiplies_bf16.cache_clear()
    assert not processor.multiplies_bf16()
    processor.multiplies_bf16.cache_clear()
