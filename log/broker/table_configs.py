"""The table, part five: settings, and what the broker speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from framework.log.broker.schema import Struct, i8, i16, i32, i64, prose

# Settings. Resource types: 2 is a topic, 4 a broker.


class DescribeConfigsResource(Struct):
    """Whose settings are asked for; keys of null are all."""

    resource_type: i8
    resource_name: str
    configuration_keys: Sequence[str] | None


class DescribeConfigsRequest(Struct):
    """How is it set?"""

    resources: Sequence[DescribeConfigsResource]
    include_synonyms: Annotated[bool, "1+"] = False
    include_documentation: Annotated[bool, "3+"] = False


class ConfigSynonym(Struct):
    """A setting from which another takes its value."""

    name: str
    value: str | None
    source: i8


class DescribedConfig(Struct):
    """One setting.

    Sources: 1 its topic, 4 the broker's start, 5 the default. Types: 1 bool, 2 string, 3 int, 5 long, 6 double, 7 list.
    """

    name: str
    value: str | None
    read_only: bool = False
    config_source: Annotated[i8, "1+"] = -1
    is_default: Annotated[bool, "0"] = False
    is_sensitive: bool = False
    synonyms: Annotated[Sequence[ConfigSynonym], "1+"] = ()
    config_type: Annotated[i8, "3+"] = 0
    documentation: Annotated[str | None, "3+"] = None


class DescribedResource(Struct):
    """The settings of one resource."""

    error_code: i16 = 0
    error_message: prose | None = None
    resource_type: i8
    resource_name: str
    configs: Sequence[DescribedConfig] = ()


class DescribeConfigsResponse(Struct):
    """The settings."""

    throttle_time_ms: i32 = 0
    results: Sequence[DescribedResource]


class AlterConfig(Struct):
    """What a setting shall be; null is its default."""

    name: str
    value: str | None


class AlterConfigsResource(Struct):
    """All that is to be set of one resource; what is not named gets its default."""

    resource_type: i8
    resource_name: str
    configs: Sequence[AlterConfig]


class AlterConfigsRequest(Struct):
    """Set these, and nothing else."""

    resources: Sequence[AlterConfigsResource]
    validate_only: bool = False


class AlteredResource(Struct):
    """Whether one resource is set so."""

    error_code: i16 = 0
    error_message: prose | None = None
    resource_type: i8
    resource_name: str


class AlterConfigsResponse(Struct):
    """Whether they are set so."""

    throttle_time_ms: i32 = 0
    resources: Sequence[AlteredResource]


class IncrementalConfig(Struct):
    """What to do with a setting: 0 set, 1 back to the default, 2 append to a list, 3 take from a list."""

    name: str
    config_operation: i8
    value: str | None


class IncrementalResource(Struct):
    """What to do with settings of one resource."""

    resource_type: i8
    resource_name: str
    configs: Sequence[IncrementalConfig]


class IncrementalAlterConfigsRequest(Struct):
    """Change these, and leave the others."""

    resources: Sequence[IncrementalResource]
    validate_only: bool = False


class IncrementalAlterConfigsResponse(Struct):
    """Whether they are changed."""

    throttle_time_ms: i32 = 0
    resources: Sequence[AlteredResource]


# What the broker speaks.


class ApiVersionsRequest(Struct):
    """Which APIs do you have? And this is who I am."""

    client_software_name: Annotated[str, "3+"] = ""
    client_software_version: Annotated[str, "3+"] = ""


class ApiVersion(Struct):
    """The versions of one API."""

    api_key: i16
    min_version: i16
    max_version: i16


class SupportedFeature(Struct):
    """A feature of the cluster that this broker knows."""

    name: str
    min_version: i16
    max_version: i16


class FinalizedFeature(Struct):
    """A feature that the cluster has settled on."""

    name: str
    max_version_level: i16
    min_version_level: i16


class ApiVersionsResponse(Struct):
    """The APIs. With finalized features clients would begin transactions in another manner: send none."""

    error_code: i16 = 0
    api_keys: Sequence[ApiVersion]
    throttle_time_ms: Annotated[i32, "1+"] = 0
    supported_features: Annotated[Sequence[SupportedFeature], "3+ tag 0"] = ()
    finalized_features_epoch: Annotated[i64, "3+ tag 1"] = -1
    finalized_features: Annotated[Sequence[FinalizedFeature], "3+ tag 2"] = ()
    zk_migration_ready: Annotated[bool, "3+ tag 3"] = False
