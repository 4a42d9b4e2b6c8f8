"""One ONNX node with its inputs looked up, whatever an input can stand for."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

from milpq.errors import ModelFileError, UnsupportedModelError

Source = TypeVar("Source")


class Node(Generic[Source]):
    """A node: what it is called in messages, its attributes, and its inputs, None where one is left out.

    Parameters
    ----------
    name : str
        Of the layer it becomes.
    where : str
        The file, the node and its operator, as messages begin.
    """

    def __init__(self, name: str, where: str, sources: list[Source | None], options: dict[str, Any]) -> None:
        self.name = name
        self.where = where
        self.options = options
        self._sources = sources

    def unsupported(self, what: str) -> UnsupportedModelError:
        """Return the error that this node `what`."""
        return UnsupportedModelError(f"{self.where}: {what}")

    def damaged(self, what: str) -> ModelFileError:
        """Return the error that this node is malformed."""
        return ModelFileError(f"{self.where}: {what}")

    @property
    def inputs(self) -> int:
        """Number of inputs, left-out ones among them."""
        return len(self._sources)

    def has(self, position: int) -> bool:
        """Tell whether an optional input is given."""
        return position < len(self._sources) and self._sources[position] is not None

    def value(self, position: int) -> Source:
        """Return an input that must be given."""
        source = self._sources[position] if position < len(self._sources) else None
        if source is None:
            raise self.damaged(f"its input {position} is missing")
        return source

    def integer_list(self, name: str) -> list[int] | None:
        """Return an attribute that is a list of integers, or None where it is not given."""
        given: object = self.options.get(name)
        if given is None:
            return None
        if not isinstance(given, list):
            raise self.damaged(f"its {name} is no list")
        return [int(number) for number in cast("list[int]", given)]
