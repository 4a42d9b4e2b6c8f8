import pytest

from milpq.errors import MilpqError, MissingDataError, SoundnessError, UnsupportedModelError


@pytest.mark.parametrize("kind", [MilpqError, MissingDataError, SoundnessError, UnsupportedModelError])
def test_a_message_is_one_line_of_text(kind: type[MilpqError]) -> None:
    """Names in it come from files, which may be hostile to terminals."""
    assert str(kind("model.onnx: operator 'a\nb\x1b[2J' ≤ é")) == "model.onnx: operator 'a\\nb\\x1b[2J' ≤ é"
