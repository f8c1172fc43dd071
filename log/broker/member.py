"""A member of a consumer group, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from framework.log.broker.codes import Code
from framework.log.broker.table_groups import JoinGroupResponse, JoinProtocol, SyncGroupResponse

MEMBER_BYTES, PROTOCOL_BYTES = 1_000, 200
"""What a member and each of its protocols take beside their bytes, about."""
JoinReply = Callable[[JoinGroupResponse], None]
SyncReply = Callable[[SyncGroupResponse], None]


class Deadline(NamedTuple):
    """What is due: the session of a member, the joining of a pending one, or the end of a phase of the group."""

    group_id: str
    kind: str
    member_id: str = ""


class Memory:
    """What the members of all groups take."""

    held_bytes = 0


@dataclass(slots=True, eq=False)
class Member:
    """A member of a group; `client_id` and `client_host` are for people."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int = 0
    rebalance_timeout_ms: int = 0
    protocols: tuple[JoinProtocol, ...] = ()
    assignment: bytes = b""
    joining: JoinReply | None = None
    syncing: SyncReply | None = None
    is_new: bool = True
    """It has not been in a generation yet."""
    held_bytes: int = 0

    def metadata(self, protocol: str) -> bytes:
        """What it said of itself in *protocol*."""
        return next((each.metadata for each in self.protocols if each.name == protocol), b"")

    def answer_join(self, response: JoinGroupResponse) -> None:
        """Answer its JoinGroup, if it waits for that."""
        reply, self.joining = self.joining, None
        if reply is not None:
            reply(response)

    def answer_sync(self, response: SyncGroupResponse) -> None:
        """Answer its SyncGroup, if it waits for that."""
        reply, self.syncing = self.syncing, None
        if reply is not None:
            reply(response)

    def refuse(self, code: Code) -> None:
        """Answer whatever it waits for with *code*."""
        self.answer_join(JoinGroupResponse(error_code=code, member_id=self.member_id))
        self.answer_sync(SyncGroupResponse(error_code=code))


def size_of(protocols: Iterable[JoinProtocol]) -> int:
    """What a member with these *protocols* takes, about."""
    return MEMBER_BYTES + sum(PROTOCOL_BYTES + len(each.name) + len(each.metadata) for each in protocols)
