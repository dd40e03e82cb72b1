"""The randomness of mini-GLUE."""

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Dice:
    """Choices from a stream that a string names, the same on every machine and Python version.

    Python promises the values of `random()` for a seed, but not the algorithms of `choice`,
    `shuffle` and `sample`, so every choice here is made from `random()` alone.
    """

    def __init__(self, name: str):
        self._random = random.Random(name).random

    def below(self, n: int) -> int:
        return int(self._random() * n)

    def between(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, share: float) -> bool:
        return self._random() < share

    def pick(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def early(self, items: Sequence[Item]) -> Item:
        """An item, the first ones more often: some words of a text are common and some rare."""
        return items[int(self._random() ** 2 * len(items))]

    def other(self, items: Sequence[Item], than: Item) -> Item:
        """An item that differs from the given one."""
        return self.pick([item for item in items if item != than])

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        order = list(items)
        for last in range(len(order) - 1, 0, -1):  # Fisher-Yates
            place = self.below(last + 1)
            order[last], order[place] = order[place], order[last]
        return order

    def several(self, items: Sequence[Item], n: int) -> list[Item]:
        """n items from different positions."""
        return self.shuffled(items)[:n]
