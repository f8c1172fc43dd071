"""How much memory the clients of a broker take, all together."""

from __future__ import annotations

from collections.abc import Callable

FETCH_SHARE = 8
"""An answer takes at most 1/8 of what is left: however many clients take nothing, there is something for the next."""
MIN_FETCH_BYTES = 16 << 10
"""What an answer may have in any case, and one batch, if that is larger."""


class Memory:
    """Bytes of requests in hand, of those that have arrived in part, and of answers that are read or not taken yet.

    Above the limit everybody waits for the requests in hand to get done. When there are none, and what has arrived in
    part takes all of it, nothing would ever go on: then somebody has to be hung up on.
    """

    def __init__(self, limit_bytes: int, relieve: Callable[[], None] = lambda: None) -> None:
        """Nothing is taken yet; *relieve* is called when it `is_stuck`."""
        self.limit_bytes = limit_bytes
        self.in_hand_bytes = self.partial_bytes = self.unsent_bytes = 0
        self._relieve = relieve
        self._waiting: dict[Callable[[], None], None] = {}

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read from clients for now."""
        return self.in_hand_bytes + self.partial_bytes > self.limit_bytes

    @property
    def is_stuck(self) -> bool:
        """Whether it would stay full."""
        return self.partial_bytes > self.limit_bytes and not self.in_hand_bytes

    def take(self, requests: int, partial: int) -> None:
        """So many bytes more of whole *requests* have come in, and of some in part."""
        self.in_hand_bytes += requests
        self.partial_bytes += partial
        if self.is_stuck:
            self._relieve()

    def give_back(self, requests: int, partial: int = 0) -> None:
        """So many bytes of *requests* are answered, and of some in part there will be no rest."""
        self.in_hand_bytes -= requests
        self.partial_bytes -= partial
        if self.is_stuck:
            self._relieve()
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
