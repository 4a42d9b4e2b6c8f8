"""Which values of a network are images, as far as its operators say."""

from __future__ import annotations

from milpq.network.images import Image


class ImageBook:
    """Collects what readers know of values, and spreads it over those that share their order."""

    def __init__(self) -> None:
        self._known: dict[int, Image] = {}
        self._torn: set[int] = set()
        self._links: list[tuple[int, Image | None, int, Image | None]] = []

    def settle(self, value: int, image: Image) -> None:
        """Let a value be this image; one that is said to be two is none."""
        if self._known.setdefault(value, image) != image:
            self._torn.add(value)

    def same(self, first: int, second: int) -> None:
        """Let two values be one image, if either is one."""
        self._links.append((first, None, second, None))

    def alike(self, first: int, first_image: Image, second: int, second_image: Image) -> None:
        """Let two values be these images, if either is one."""
        self._links.append((first, first_image, second, second_image))

    def images(self, values: int) -> tuple[Image | None, ...]:
        """Return what each of so many values is."""
        changed = True
        while changed:
            before = len(self._known)
            for links in (self._links, self._links[::-1]):
                for first, first_image, second, second_image in links:
                    for value, other, image in (
                        (first, second, first_image or self._known.get(second)),
                        (second, first, second_image or self._known.get(first)),
                    ):
                        if value not in self._known and other in self._known and image is not None:
                            self._known[value] = image
            changed = len(self._known) > before
        return tuple(None if value in self._torn else self._known.get(value) for value in range(values))
