"""Topics as Faust asks for them, made in the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from framework.log import Log, TopicSettings
from framework.log.broker.configs import FIXED
from framework.log.broker.configs import settings_of as parsed_settings
from framework.log.catalogue import TopicInfo
from framework.log.errors import TopicExists, UnknownTopic
from framework.log.settings import check_topic_name

logger = logging.getLogger(__name__)


def ensure_topic(log: Log, name: str, partitions: int, settings: TopicSettings | None = None) -> TopicInfo:
    """The topic *name*, which is made with so many *partitions* if it is not there; one that is there stays as it is.

    Raises:
        InvalidName, InvalidSetting: It cannot be.
    """
    with suppress(UnknownTopic):
        return log.topic(name)
    check_topic_name(name)
    with suppress(TopicExists):  # Another process was faster.
        made = log.create_topic(name, partitions, settings)
        logger.info("made topic %r with %d partitions", name, partitions)
        return made
    return log.topic(name)


def settings_of(
    log: Log,
    *,
    retention_s: float | None,
    compacting: bool | None,
    deleting: bool | None,
    config: Mapping[str, Any] | None,
) -> TopicSettings:
    """The settings of a topic that Faust declares; *config* has Kafka's names, and says the last word.

    A setting that the log does not have is left out and named in the process's log: it is about brokers and replicas.

    Raises:
        InvalidSetting: A value is out of its range.
    """
    wanted: dict[str, str | None] = {}
    policies = [policy for policy, is_wanted in (("compact", compacting), ("delete", deleting)) if is_wanted]
    if policies:
        wanted["cleanup.policy"] = ",".join(policies)
    if retention_s:
        wanted["retention.ms"] = str(int(retention_s * 1000))
    known = log.defaults.as_config()
    for name, value in (config or {}).items():
        if name in known:
            wanted[name] = str(value)
        elif name not in FIXED:
            logger.warning("left out of a topic's config: unknown topic setting %r, which is %r", name, value)
    return parsed_settings(wanted, log.defaults)


class Cluster:
    """What Faust's assignor asks of the cluster."""

    def __init__(self, log: Log) -> None:
        """The topics as they are now."""
        self._topics = log.topics()

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """The numbers of its partitions."""
        info = self._topics.get(topic)
        return None if info is None else set(range(info.partitions))

    def topics(self) -> set[str]:
        """The names of all topics."""
        return set(self._topics)
