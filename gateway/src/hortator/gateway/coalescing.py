"""When tokens go out: how many wait to share a message, and for how long. Pure: time is an argument.

Each message to a client costs the gateway about 50 microseconds, whether it carries one token or ten. So
messages of one request keep a distance, the *window*; tokens that come inside it share the next message:

    window = num_streams / target_messages_per_s,   at most max_window_s (itself at most 50 ms)

- With few streams the window is shorter than any gap between tokens: nothing is ever held.
- A token that comes later than one window after the last message goes out at once.
- With many streams the gateway sends at most about `target_messages_per_s`, until the window reaches its
  maximum; no token is held for longer than that.
- The first token and the last are never held: the caller flushes them without asking.

`DueWheel` remembers what is held. Its slots are `slot_s` wide and are emptied when they begin, so nothing
leaves late by the wheel's doing; the caller needs one timer, however many requests there are.
"""

from __future__ import annotations

from typing import Generic, TypeVar

MAX_WINDOW_S = 0.05

T = TypeVar("T")


class Coalescer:
    """Says when the next message of a request is due."""

    __slots__ = ("_max_window_s", "_s_per_stream", "window_s")

    def __init__(self, *, max_window_s: float, target_messages_per_s: float) -> None:
        """Start with no streams.

        Args:
            max_window_s: longest time that a token is held; 0 turns coalescing off.
            target_messages_per_s: above it windows grow.

        Raises:
            ValueError: the window is not in 0..0.05, or the target is not positive.
        """
        if not 0 <= max_window_s <= MAX_WINDOW_S:
            raise ValueError(f"max_window_s must be in 0..{MAX_WINDOW_S}, got {max_window_s}")
        if target_messages_per_s <= 0:
            raise ValueError(f"target_messages_per_s must be positive, got {target_messages_per_s}")
        self._max_window_s = max_window_s
        self._s_per_stream = 1.0 / target_messages_per_s
        self.window_s = 0.0
        """Least distance between messages of one request now."""

    def streams_changed(self, num_streams: int) -> None:
        """Set the window for `num_streams` requests that are between their first and last token."""
        self.window_s = min(num_streams * self._s_per_stream, self._max_window_s)

    def due_at(self, last_flush_at: float) -> float:
        """When a token that is here now may leave, given when the request's last message left."""
        return last_flush_at + self.window_s


class DueWheel(Generic[T]):
    """Things that are due at some time, in slots."""

    __slots__ = ("_slots", "slot_s")

    def __init__(self, *, slot_s: float = 0.004) -> None:
        """An empty wheel.

        Args:
            slot_s: width of a slot in seconds: how much earlier than due a thing may leave.
        """
        self.slot_s = slot_s
        self._slots: dict[int, list[T]] = {}

    def __len__(self) -> int:
        return sum(len(slot) for slot in self._slots.values())

    def add(self, due_at: float, item: T) -> bool:
        """Remember `item`; True when its slot is new: then look at `next_at` again."""
        index = int(due_at / self.slot_s)
        slot = self._slots.get(index)
        if slot is None:
            self._slots[index] = [item]
            return True
        slot.append(item)
        return False

    def next_at(self) -> float | None:
        """When the first slot begins; None when nothing is held."""
        return min(self._slots) * self.slot_s if self._slots else None

    def take_due(self, now: float) -> list[T]:
        """Remove and return everything whose slot has begun, oldest slot first."""
        reached = int(now / self.slot_s + 1e-6)  # a timer set for the slot's beginning has reached it
        due: list[T] = []
        for index in sorted(index for index in self._slots if index <= reached):
            due.extend(self._slots.pop(index))
        return due
