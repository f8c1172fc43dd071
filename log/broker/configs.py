"""The settings of topics and of the broker: DescribeConfigs, AlterConfigs, IncrementalAlterConfigs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from framework.log.broker.codes import Code, Refusal, code_of
from framework.log.broker.context import Context, Node, is_internal
from framework.log.broker.settings import BrokerSettings
from framework.log.broker.table_configs import (
    AlterConfigsRequest,
    AlterConfigsResource,
    AlterConfigsResponse,
    AlteredResource,
    ConfigSynonym,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResponse,
    DescribedConfig,
    DescribedResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
    IncrementalResource,
)
from framework.log.broker.table_topics import CreatedTopicConfig
from framework.log.errors import Error, InvalidSetting
from framework.log.settings import Setting, TopicSettings, kafka_name, parse_setting

TOPIC, BROKER = 2, 4
OF_TOPIC, OF_START, DEFAULT = 1, 4, 5
"""Sources of a value: the topic, how the broker was started, nobody."""
SET, DELETE, APPEND, SUBTRACT = range(4)
LISTS = {"cleanup.policy"}
FIXED: Mapping[str, str] = {
    "message.timestamp.type": "CreateTime",
    "min.insync.replicas": "1",
    "unclean.leader.election.enable": "false",
}
"""Settings of Kafka's that clients ask for, and that can have no other value here."""
_TYPES = {"bool": 1, "str": 2, "int": 5, "float": 6}
_LIST = 7
_Values = Mapping[str, str | None]


def settings_of(values: _Values, defaults: TopicSettings) -> TopicSettings:
    """The settings of a topic, from values as the protocol has them; null, and what is not named, is as usual.

    Raises:
        InvalidSetting: A name is unknown or a value out of range.
    """
    config: dict[str, Setting] = {}
    for name, text in values.items():
        if name in FIXED:
            if text not in (None, FIXED[name]):
                raise InvalidSetting(f"{name} is {text!r}, and can only be {FIXED[name]!r} here")
        elif text is not None:
            config[name] = parse_setting(name, text)
    return replace(defaults, **TopicSettings.fields_of(config))  # type: ignore[arg-type]  # checked there


def created(settings: TopicSettings, defaults: TopicSettings) -> list[CreatedTopicConfig]:
    """The settings of a topic that was just made."""
    return [
        CreatedTopicConfig(name=each.name, value=each.value, read_only=each.read_only, config_source=each.config_source)
        for each in _of_topic(settings, defaults)
    ]


def describe_configs(context: Context, _: int, body: DescribeConfigsRequest) -> Awaitable[DescribeConfigsResponse]:
    """All settings with their values and where they come from; in a thread, because they are many."""
    node = context.node
    # Each once, however often it is asked for, or a small request would be a huge answer.
    resources = {(each.resource_type, each.resource_name): each for each in body.resources}.values()

    def describe() -> DescribeConfigsResponse:
        return DescribeConfigsResponse(results=[_described(node, resource, body) for resource in resources])

    return node.in_thread(describe)


def _described(node: Node, asked: DescribeConfigsResource, body: DescribeConfigsRequest) -> DescribedResource:
    try:
        if asked.resource_type == TOPIC:
            settings, defaults = node.log.topic(asked.resource_name).settings, node.log.defaults
            found = list(_of_topic(settings, defaults))
        elif asked.resource_type == BROKER:
            _check_broker(node, asked.resource_name)
            found = list(_of_broker(node.settings))
        else:
            raise Refusal(Code.INVALID_REQUEST, f"resource type {asked.resource_type} has no settings here")
    except (Error, OSError) as error:
        return DescribedResource(
            error_code=code_of(error),
            error_message=str(error),
            resource_type=asked.resource_type,
            resource_name=asked.resource_name,
        )
    if asked.configuration_keys is not None:
        found = [config for config in found if config.name in asked.configuration_keys]
    if not body.include_synonyms:
        found = [config._replace(synonyms=()) for config in found]  # type: ignore[attr-defined]  # it is a tuple
    return DescribedResource(resource_type=asked.resource_type, resource_name=asked.resource_name, configs=found)


def _of_topic(settings: TopicSettings, defaults: TopicSettings) -> Iterator[DescribedConfig]:
    usual, kinds = defaults.as_config(), {kafka_name(field.name): str(field.type) for field in fields(TopicSettings)}
    for name, value in settings.as_config().items():
        source = DEFAULT if value == usual[name] else OF_TOPIC
        kind = _LIST if name in LISTS else _TYPES[kinds[name]]
        yield _config(name, value, usual[name], source, kind, OF_TOPIC)
    for name, text in FIXED.items():
        yield _config(name, text, text, DEFAULT, _TYPES["str"], OF_TOPIC, read_only=True)


def _of_broker(settings: BrokerSettings) -> Iterator[DescribedConfig]:
    usual, kinds = BrokerSettings().as_config(), {kafka_name(f.name): str(f.type) for f in fields(BrokerSettings)}
    for name, value in settings.as_config().items():
        source = DEFAULT if value == usual[name] else OF_START
        yield _config(name, value, usual[name], source, _TYPES[kinds[name]], OF_START, read_only=True)


def _config(
    name: str,
    value: Setting | bool,
    usual: Setting | bool,
    source: int,
    kind: int,
    own_source: int,
    *,
    read_only: bool = False,
) -> DescribedConfig:
    default = ConfigSynonym(name=name, value=_text(usual), source=DEFAULT)
    own = [] if source == DEFAULT else [ConfigSynonym(name=name, value=_text(value), source=own_source)]
    return DescribedConfig(
        name=name,
        value=_text(value),
        read_only=read_only,
        config_source=source,
        is_default=source == DEFAULT,
        synonyms=[*own, default],
        config_type=kind,
    )


def _text(value: Setting | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def alter_configs(context: Context, _: int, body: AlterConfigsRequest) -> Awaitable[AlterConfigsResponse]:
    """Set what is named, and all else back to the default."""
    node = context.node

    def wanted(asked: AlterConfigsResource, _: TopicSettings) -> _Values:
        return {each.name: each.value for each in asked.configs}

    def alter() -> AlterConfigsResponse:
        return AlterConfigsResponse(resources=_altered(node, body.resources, wanted, validate_only=body.validate_only))

    return node.in_thread(alter)


def incremental_alter_configs(
    context: Context, _: int, body: IncrementalAlterConfigsRequest
) -> Awaitable[IncrementalAlterConfigsResponse]:
    """Change what is named."""
    node = context.node

    def wanted(asked: IncrementalResource, settings: TopicSettings) -> _Values:
        usual = node.log.defaults.as_config()
        now: dict[str, str | None] = {
            name: str(value) for name, value in settings.as_config().items() if value != usual[name]
        }
        for each in asked.configs:
            now[each.name] = _changed(each.name, now.get(each.name), each.config_operation, each.value, usual)
        return now

    def alter() -> IncrementalAlterConfigsResponse:
        altered = _altered(node, body.resources, wanted, validate_only=body.validate_only)
        return IncrementalAlterConfigsResponse(resources=altered)

    return node.in_thread(alter)


def _changed(name: str, now: str | None, operation: int, value: str | None, usual: Mapping[str, Setting]) -> str | None:
    """The value of a setting after one operation."""
    if operation == DELETE:
        return None
    if operation == SET:
        return value
    if operation not in (APPEND, SUBTRACT):
        raise Refusal(Code.INVALID_REQUEST, f"{name}: operation {operation} is none")
    if name not in LISTS:
        raise Refusal(Code.INVALID_CONFIG, f"{name} is no list, that could be appended to or taken from")
    words = (str(usual[name]) if now is None else now).split(",")
    named = [word.strip() for word in (value or "").split(",") if word.strip()]
    if operation == APPEND:
        return ",".join([*words, *(word for word in named if word not in words)])
    return ",".join(word for word in words if word not in named)


def _altered(
    node: Node, resources: Sequence[Any], wanted: Callable[[Any, TopicSettings], _Values], *, validate_only: bool
) -> list[AlteredResource]:
    """Set each of *resources* as *wanted* says, which is told what is asked and how it is set now."""
    altered = []
    counts = Counter((each.resource_type, each.resource_name) for each in resources)
    for asked in {(each.resource_type, each.resource_name): each for each in resources}.values():
        code, text, count = Code.NONE, None, counts[asked.resource_type, asked.resource_name]
        try:
            if count > 1:
                raise Refusal(Code.INVALID_REQUEST, f"{asked.resource_name!r} is named {count} times")
            if asked.resource_type != TOPIC:
                raise Refusal(Code.INVALID_REQUEST, "only the settings of topics can be altered; a broker's are fixed")
            info = node.log.topic(asked.resource_name)
            if is_internal(info.name):
                raise Refusal(Code.INVALID_TOPIC_EXCEPTION, f"{info.name!r} is an internal topic")

            def change(now: TopicSettings, asked: Any = asked) -> TopicSettings:
                return settings_of(wanted(asked, now), node.log.defaults)

            if validate_only:
                change(info.settings)
            else:
                # Of what there is then: another client may be altering something else.
                node.log.alter_topic(info.name, change)
        except (Error, OSError) as error:
            code, text = code_of(error), str(error)
        altered.append(
            AlteredResource(
                error_code=code,
                error_message=text,
                resource_type=asked.resource_type,
                resource_name=asked.resource_name,
            )
        )
    return altered


def _check_broker(node: Node, name: str) -> None:
    if name not in ("", str(node.settings.broker_id)):
        raise Refusal(Code.INVALID_REQUEST, f"there is no broker {name!r}, only {node.settings.broker_id}")


HANDLERS: Mapping[str, Callable[[Context, int, Any], Any]] = {
    "DescribeConfigs": describe_configs,
    "AlterConfigs": alter_configs,
    "IncrementalAlterConfigs": incremental_alter_configs,
}
