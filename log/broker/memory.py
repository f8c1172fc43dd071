"""How much memory the clients of a broker take, all together."""

from __future__ import annotations

from collections.abc import Callable

FETCH_SHARE = 8
"""An answer takes at most 1/8 of what is left: however many clients take nothing, there is something for the next."""
MIN_FETCH_BYTES = 16 << 10
"""What an answer may have in any case, and one batch, if that is larger."""


class Memory:
    """Bytes of requests in hand, of requests that have arrived in part, and of answers that their clients do not take.

    Requests in hand get done, so above the limit everybody waits for that. What has arrived in part may never be whole,
    so above the limit the broker hangs up on whoever has most of it.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Nothing is taken yet."""
        self.limit_bytes = limit_bytes
        self.in_hand_bytes = self.partial_bytes = self.unsent_bytes = 0
        self._waiting: dict[Callable[[], None], None] = {}

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read from clients for now."""
        return self.in_hand_bytes + self.partial_bytes > self.limit_bytes

    def take(self, size: int) -> None:
        """A request of *size* bytes has come in."""
        self.in_hand_bytes += size

    def give_back(self, size: int) -> None:
        """It is answered."""
        self.in_hand_bytes -= size
        if self._waiting and not self.is_full:
            waiting, self._waiting = self._waiting, {}
            for go_on in waiting:
                go_on()

    def wait_for_room(self, go_on: Callable[[], None]) -> None:
        """Call *go_on*, once, when there is room again."""
        self._waiting[go_on] = None

    def forget(self, go_on: Callable[[], None]) -> None:
        """Do not call it."""
        self._waiting.pop(go_on, None)

    def fetch_bytes(self) -> int:
        """How much one answer may have now."""
        left = self.limit_bytes - self.in_hand_bytes - self.partial_bytes - self.unsent_bytes
        return max(left // FETCH_SHARE, MIN_FETCH_BYTES)
