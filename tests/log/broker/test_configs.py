"""Settings over the protocol: all of them with value and origin, and changing those of topics."""

from __future__ import annotations

from typing import Any

import pytest

from framework.log import Log, TopicSettings
from framework.log.broker import Code
from framework.log.broker.configs import APPEND, BROKER, DELETE, FIXED, SET, SUBTRACT, TOPIC
from framework.log.broker.connection import Connection
from framework.log.broker.settings import BrokerSettings
from framework.log.broker.table_configs import (
    AlterConfig,
    AlterConfigsRequest,
    AlterConfigsResource,
    DescribeConfigsRequest,
    DescribeConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalConfig,
    IncrementalResource,
)
from framework.log.locks import CATALOGUE_LOCK
from tests.log.broker.client import RawClient
from tests.log.broker.conftest import Connect, Start
from tests.until import until


@pytest.fixture
async def client(log: Log, start: Start, connect: Connect) -> RawClient:
    """Of a log with the topic `flights`, kept for an hour, and an internal one."""
    log.create_topic("flights", 1, TopicSettings(retention_ms=3_600_000))
    log.create_topic("__control", 1)
    return await connect(await start(num_partitions=3))


async def described(
    client: RawClient, kind: int, name: str, *keys: str, version: int = 4, synonyms: bool = True
) -> dict[str, Any]:
    """The settings of one resource, by name."""
    resource = DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=keys or None)
    body = DescribeConfigsRequest(resources=[resource], include_synonyms=synonyms)
    [result] = (await client.ask("DescribeConfigs", version, body)).results
    assert result.error_code == 0
    return {config.name: config for config in result.configs}


@pytest.mark.parametrize("version", range(1, 5))
async def test_all_settings_of_a_topic_are_listed(client: RawClient, version: int) -> None:
    configs = await described(client, TOPIC, "flights", version=version)
    assert set(configs) == {*TopicSettings().as_config(), *FIXED}
    retention, segment = configs["retention.ms"], configs["segment.bytes"]
    assert (retention.value, retention.config_source, retention.read_only) == ("3600000", 1, False)
    assert [(each.value, each.source) for each in retention.synonyms] == [("3600000", 1), ("604800000", 5)]
    assert (segment.value, segment.config_source) == ("134217728", 5)
    assert configs["min.insync.replicas"].read_only
    if version >= 3:
        types = {name: configs[name].config_type for name in ("retention.ms", "cleanup.policy", "durability")}
        assert types == {"retention.ms": 5, "cleanup.policy": 7, "durability": 2}


async def test_only_those_that_are_asked_for_are_listed(client: RawClient) -> None:
    configs = await described(client, TOPIC, "flights", "retention.ms", "unheard.of", synonyms=False)
    assert list(configs) == ["retention.ms"]
    assert configs["retention.ms"].synonyms == ()


async def test_a_resource_is_described_once_however_often_it_is_asked_for(client: RawClient) -> None:
    resource = DescribeConfigsResource(resource_type=TOPIC, resource_name="flights", configuration_keys=None)
    response = await client.ask("DescribeConfigs", 4, DescribeConfigsRequest(resources=[resource] * 20_000))
    assert len(response.results) == 1


@pytest.mark.parametrize("name", ["1", ""])
async def test_all_settings_of_the_broker_are_listed(client: RawClient, name: str) -> None:
    configs = await described(client, BROKER, name)
    assert set(configs) == set(BrokerSettings().as_config())
    assert all(config.read_only for config in configs.values())
    own = {name for name, config in configs.items() if config.config_source == 4}
    assert own == {"port", "num.partitions"}
    assert configs["auto.create.topics.enable"].value == "true"


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (TOPIC, "nowhere", Code.UNKNOWN_TOPIC_OR_PARTITION),
        (BROKER, "2", Code.INVALID_REQUEST),
        (32, "group", Code.INVALID_REQUEST),
    ],
)
async def test_what_has_no_settings_is_refused(client: RawClient, kind: int, name: str, code: Code) -> None:
    resource = DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=None)
    [result] = (await client.ask("DescribeConfigs", 4, DescribeConfigsRequest(resources=[resource]))).results
    assert (result.error_code, result.resource_name) == (code, name)
    assert result.error_message


async def altered(
    client: RawClient,
    values: dict[str, str | None],
    *,
    version: int = 2,
    kind: int = TOPIC,
    name: str = "flights",
    validate_only: bool = False,
) -> str:
    """Set *values*, and nothing else."""
    configs = [AlterConfig(name=key, value=value) for key, value in values.items()]
    resource = AlterConfigsResource(resource_type=kind, resource_name=name, configs=configs)
    body = AlterConfigsRequest(resources=[resource], validate_only=validate_only)
    [result] = (await client.ask("AlterConfigs", version, body)).resources
    return Code(result.error_code).name


@pytest.mark.parametrize("version", range(3))
async def test_settings_are_replaced(log: Log, client: RawClient, version: int) -> None:
    values = {"segment.bytes": "8192", "retention.bytes": None}
    assert await altered(client, values, version=version, validate_only=True) == "NONE"
    assert log.topic("flights").settings == TopicSettings(retention_ms=3_600_000)
    assert await altered(client, values, version=version) == "NONE"
    assert log.topic("flights").settings == TopicSettings(segment_bytes=8192)


async def changed(client: RawClient, *operations: tuple[str, int, str | None], version: int = 1) -> str:
    """Change some settings of the topic."""
    configs = [IncrementalConfig(name=name, config_operation=what, value=value) for name, what, value in operations]
    resource = IncrementalResource(resource_type=TOPIC, resource_name="flights", configs=configs)
    body = IncrementalAlterConfigsRequest(resources=[resource])
    [result] = (await client.ask("IncrementalAlterConfigs", version, body)).resources
    return Code(result.error_code).name


@pytest.mark.parametrize("version", range(2))
async def test_settings_are_changed_one_by_one(log: Log, client: RawClient, version: int) -> None:
    def now() -> TopicSettings:
        return log.topic("flights").settings

    assert await changed(client, ("segment.bytes", SET, "8192"), version=version) == "NONE"
    assert now() == TopicSettings(retention_ms=3_600_000, segment_bytes=8192)
    assert await changed(client, ("retention.ms", DELETE, None), ("cleanup.policy", APPEND, "compact")) == "NONE"
    assert now() == TopicSettings(segment_bytes=8192, cleanup_policy="delete,compact")
    assert await changed(client, ("cleanup.policy", SUBTRACT, "delete")) == "NONE"
    assert now() == TopicSettings(segment_bytes=8192, cleanup_policy="compact")


@pytest.mark.parametrize(
    ("name", "operation", "value", "code"),
    [
        ("retention.ms", SET, "soon", "INVALID_CONFIG"),
        ("retention.ms", APPEND, "1", "INVALID_CONFIG"),
        ("retention.ms", 7, "1", "INVALID_REQUEST"),
        ("cleanup.policy", SUBTRACT, "delete", "INVALID_CONFIG"),
        ("unheard.of", SET, "1", "INVALID_CONFIG"),
        ("min.insync.replicas", SET, "2", "INVALID_CONFIG"),
    ],
)
async def test_a_change_that_cannot_be_is_refused(
    log: Log, client: RawClient, name: str, operation: int, value: str, code: str
) -> None:
    assert await changed(client, ("segment.bytes", SET, "8192"), (name, operation, value)) == code
    assert log.topic("flights").settings == TopicSettings(retention_ms=3_600_000)


async def test_the_broker_and_internal_topics_are_not_changed(client: RawClient) -> None:
    assert await altered(client, {"num.partitions": "5"}, kind=BROKER, name="1") == "INVALID_REQUEST"
    assert await altered(client, {"retention.ms": "5"}, name="__control") == "INVALID_TOPIC_EXCEPTION"
    assert await altered(client, {"retention.ms": "5"}, name="nowhere") == "UNKNOWN_TOPIC_OR_PARTITION"


async def test_changes_of_two_clients_at_the_same_time_are_both_kept(log: Log, start: Start, connect: Connect) -> None:
    """Each changes what is there when it is its turn, and not what was there when it was asked for."""
    log.create_topic("flights", 1)
    broker = await start()
    clients = [await connect(broker), await connect(broker)]
    changed = {"segment.bytes": 1 << 20, "retention.ms": 7_200_000}
    with log.shared.locked(CATALOGUE_LOCK, "the catalogue"):
        for client, (name, value) in zip(clients, changed.items(), strict=True):
            config = IncrementalConfig(name=name, config_operation=SET, value=str(value))
            resource = IncrementalResource(resource_type=TOPIC, resource_name="flights", configs=[config])
            client.send("IncrementalAlterConfigs", 1, IncrementalAlterConfigsRequest(resources=[resource]))
        held = [connection for connection in broker._connections if await _is_held(connection)]
    assert len(held) == 2
    for client in clients:
        [result] = (await client.receive())[1].resources
        assert result.error_code == 0
    config_now = log.topic("flights").settings.as_config()
    assert {name: config_now[name] for name in changed} == changed


async def _is_held(connection: Connection) -> bool:
    await until(lambda: connection._held)
    return True
