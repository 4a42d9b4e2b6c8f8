import pytest

from milpq.errors import (
    InvalidNetworkError,
    MilpqError,
    MissingDataError,
    RegionError,
    SoundnessError,
    UnsupportedModelError,
    about,
)


@pytest.mark.parametrize("kind", [MilpqError, MissingDataError, SoundnessError, UnsupportedModelError])
def test_a_message_is_one_line_of_text(kind: type[MilpqError]) -> None:
    """Names in it come from files, which may be hostile to terminals."""
    assert str(kind("model.onnx: operator 'a\nb\x1b[2J' ≤ é")) == "model.onnx: operator 'a\\nb\\x1b[2J' ≤ é"


@pytest.mark.parametrize(
    ("origin", "kinds", "error", "said"),
    [
        ("net.onnx", (), InvalidNetworkError("layer 'a': has no terms"), "net.onnx: layer 'a': has no terms"),
        ("net.onnx", (), InvalidNetworkError("net.onnx: has no terms"), "net.onnx: has no terms"),
        ("net.onnx", (), RegionError("region: empty"), "region: empty"),
        ("box.toml", (RegionError,), RegionError("region: empty"), "box.toml: region: empty"),
    ],
)
def test_what_an_error_is_about_is_said_once(
    origin: str, kinds: tuple[type[MilpqError], ...], error: MilpqError, said: str
) -> None:
    with pytest.raises(type(error)) as caught, about(origin, *kinds):
        raise error
    assert str(caught.value) == said
