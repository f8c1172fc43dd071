"""A feed against a model: what is handed out comes in order, and the frontier is where a restart may go on."""

from __future__ import annotations

import random
from pathlib import Path

from framework.faust.feeds import Feed
from framework.log import Log, StoredRecord, TopicSettings

ROUNDS, STEPS = 30, 120


class Model:
    """A feed that is told what to do, and what it should do."""

    def __init__(self, log: Log, draw: random.Random, *, gaps: bool) -> None:
        """A topic with some records; with *gaps* most of them have been compacted away."""
        self._draw, self._producer = draw, log.producer()
        name = f"numbers-{draw.random()}"
        settings = TopicSettings(cleanup_policy="compact", segment_bytes=4096) if gaps else None
        self._partition = log.partition(log.create_topic(name, 1, settings), 0)
        self.append(draw.randrange(400))
        if gaps:
            log.compact(name)
        self.offsets = [record.offset for _, record in log.read(name)]
        self.feed = Feed(log, self._partition, self._reset)
        self.seek()

    def _reset(self, start: int, end: int) -> int:
        raise AssertionError(f"it was never sent elsewhere than to {start} to {end}")

    def append(self, count: int) -> None:
        """So many records more, each a batch with others."""
        topic = self._partition.topic.name
        for _ in range(count):
            ack = self._producer.send(topic, b"%f" % self._draw.random(), key=b"%d" % self._draw.randrange(40))
            if self._draw.random() < 0.1:
                self._producer.flush()
        if count:
            end = ack.result().offset
            assert end is not None
            if hasattr(self, "offsets"):
                self.offsets += range(end + 1 - count, end + 1)

    def seek(self) -> None:
        """Go on anywhere."""
        self.begin = self._draw.randrange(self.offsets[-1] + 2) if self.offsets else 0
        self.feed.seek(self.begin)
        self.handed, self.unfinished = list[int](), set[int]()

    @property
    def position(self) -> int:
        """Behind what was handed out."""
        return self.handed[-1] + 1 if self.handed else self.begin

    def hand(self) -> None:
        """Take what there is, and hand out some of it."""
        left = [offset for offset in self.offsets if offset >= self.position]
        assert self.feed.is_ready or not left
        taken: list[StoredRecord] = self.feed.take(self._draw.choice([1, 300, 1 << 20]))
        offsets = [record.offset for record in taken]
        assert offsets == left[: len(offsets)]
        assert bool(offsets) == bool(left)
        for offset in offsets[: self._draw.randrange(len(offsets) + 1)]:
            self.feed.handed.append(offset)
            self.handed.append(offset)
            self.unfinished.add(offset)

    def finish(self) -> None:
        """Some are finished, in any order."""
        finished = {offset for offset in self.unfinished if self._draw.random() < 0.7}
        self.unfinished -= finished
        frontier = self.feed.advance(set(finished))
        assert frontier == min(self.unfinished, default=self.position) or self._only_gaps(frontier)

    def _only_gaps(self, frontier: int) -> bool:
        """Whether no record lies between *frontier* and the first that is not finished."""
        first = min(self.unfinished, default=self.position)
        return frontier < first and not any(frontier <= offset < first for offset in self.offsets)


def test_the_frontier_is_where_a_restart_misses_nothing_and_repeats_only_what_is_unfinished(
    tmp_path: Path, seed: int
) -> None:
    with Log(tmp_path, create=True) as log:
        for number in range(ROUNDS):
            draw, gaps = random.Random(f"{seed} {number}"), number % 3 == 0
            model = Model(log, draw, gaps=gaps)
            for _ in range(STEPS):
                step = draw.choices([model.hand, model.finish, model.seek], [10, 10, 1])[0]
                step()
                if not gaps and draw.random() < 0.1:  # Appending would have more compacted meanwhile.
                    model.append(draw.randrange(1, 30))
                assert model.feed.position == model.position
            model.feed.close()
