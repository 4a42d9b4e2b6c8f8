"""What is worked out of a network when it is first needed, and not sent along with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """A place for one value, empty where its owner was copied or sent to another process."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        self._value: tuple[Value] | None = None

    def get(self, make: Callable[[], Value]) -> Value:
        """Return the value, made by `make` the first time (by several threads at once, each may make it)."""
        if self._value is None:
            self._value = (make(),)
        return self._value[0]

    def __reduce__(self) -> tuple[type[Kept[Value]], tuple[()]]:
        return type(self), ()
