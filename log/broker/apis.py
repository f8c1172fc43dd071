"""The APIs of the protocol: key, requests and responses, versions that the table has, and those that the broker serves.

A line of `_APIS` is an API: key, structs, versions, the first in the encoding with varints and tagged fields, and the
versions that are served. Those are what clients need:

- Produce from 0, because librdkafka before 2.11.1 compresses nothing when its lowest version is above 0. Batches of
  versions 0 to 2 are of formats that are not read; whoever handles them answers with an error.
- Fetch up to 12, and Metadata up to 12: the next ones are by topic id.
- The table goes further than the broker where it costs nothing; `served` says how far the broker goes, None is not at
  all, and a request beyond it is refused before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from framework.log.broker import table_configs as configs
from framework.log.broker import table_group_admin as group_admin
from framework.log.broker import table_groups as groups
from framework.log.broker import table_later as later
from framework.log.broker import table_records as records
from framework.log.broker import table_topics as topics
from framework.log.broker.schema import NO_VERSIONS, Struct, parse_versions


@dataclass(frozen=True, slots=True, eq=False)
class Api:
    """One API; there is one object of each."""

    key: int
    request: type[Struct]
    response: type[Struct]
    versions: range
    flexible_from: int | None
    served: range

    @property
    def name(self) -> str:
        """What Kafka calls it."""
        return self.request.__name__.removesuffix("Request")

    def flexible(self, version: int) -> bool:
        """Whether *version* has varints and tagged fields."""
        return self.flexible_from is not None and version >= self.flexible_from


def _api(
    key: int,
    request: type[Struct],
    response: type[Struct],
    versions: str,
    flexible_from: int | None,
    served: str | None,
) -> Api:
    return Api(
        key,
        request,
        response,
        parse_versions(versions),
        flexible_from,
        NO_VERSIONS if served is None else parse_versions(served),
    )


# One line each, so that they can be compared.
# fmt: off
_APIS = [
    _api(0, records.ProduceRequest, records.ProduceResponse, "0-13", 9, "0-9"),
    _api(1, records.FetchRequest, records.FetchResponse, "4-16", 12, "4-12"),
    _api(2, records.ListOffsetsRequest, records.ListOffsetsResponse, "1-9", 6, "1-8"),
    _api(3, topics.MetadataRequest, topics.MetadataResponse, "0-12", 9, "0-12"),
    _api(8, groups.OffsetCommitRequest, groups.OffsetCommitResponse, "2-9", 8, "2-8"),
    _api(9, groups.OffsetFetchRequest, groups.OffsetFetchResponse, "1-9", 6, "1-8"),
    _api(10, groups.FindCoordinatorRequest, groups.FindCoordinatorResponse, "0-6", 3, "0-4"),
    _api(11, groups.JoinGroupRequest, groups.JoinGroupResponse, "0-9", 6, "0-9"),
    _api(12, groups.HeartbeatRequest, groups.HeartbeatResponse, "0-4", 4, "0-4"),
    _api(13, groups.LeaveGroupRequest, groups.LeaveGroupResponse, "0-5", 4, "0-5"),
    _api(14, groups.SyncGroupRequest, groups.SyncGroupResponse, "0-5", 4, "0-5"),
    _api(15, group_admin.DescribeGroupsRequest, group_admin.DescribeGroupsResponse, "0-5", 5, "0-5"),
    _api(16, group_admin.ListGroupsRequest, group_admin.ListGroupsResponse, "0-5", 3, "0-5"),
    _api(17, later.SaslHandshakeRequest, later.SaslHandshakeResponse, "0-1", None, None),
    _api(18, configs.ApiVersionsRequest, configs.ApiVersionsResponse, "0-4", 3, "0-4"),
    _api(19, topics.CreateTopicsRequest, topics.CreateTopicsResponse, "0-7", 5, "0-7"),
    _api(20, topics.DeleteTopicsRequest, topics.DeleteTopicsResponse, "0-6", 4, "0-6"),
    _api(21, records.DeleteRecordsRequest, records.DeleteRecordsResponse, "0-2", 2, "0-2"),
    _api(22, records.InitProducerIdRequest, records.InitProducerIdResponse, "0-5", 2, "0-4"),
    _api(23, records.OffsetForLeaderEpochRequest, records.OffsetForLeaderEpochResponse, "0-4", 4, "2-4"),
    _api(24, later.AddPartitionsToTxnRequest, later.AddPartitionsToTxnResponse, "0-3", 3, None),
    _api(25, later.AddOffsetsToTxnRequest, later.AddOffsetsToTxnResponse, "0-4", 3, None),
    _api(26, later.EndTxnRequest, later.EndTxnResponse, "0-4", 3, None),
    _api(28, later.TxnOffsetCommitRequest, later.TxnOffsetCommitResponse, "0-5", 3, None),
    _api(32, configs.DescribeConfigsRequest, configs.DescribeConfigsResponse, "0-4", 4, "1-4"),
    _api(33, configs.AlterConfigsRequest, configs.AlterConfigsResponse, "0-2", 2, "0-2"),
    _api(35, topics.DescribeLogDirsRequest, topics.DescribeLogDirsResponse, "0-4", 2, "1-4"),
    _api(36, later.SaslAuthenticateRequest, later.SaslAuthenticateResponse, "0-2", 2, None),
    _api(37, topics.CreatePartitionsRequest, topics.CreatePartitionsResponse, "0-3", 2, "0-3"),
    _api(42, group_admin.DeleteGroupsRequest, group_admin.DeleteGroupsResponse, "0-2", 2, "0-2"),
    _api(44, configs.IncrementalAlterConfigsRequest, configs.IncrementalAlterConfigsResponse, "0-1", 1, "0-1"),
    _api(47, groups.OffsetDeleteRequest, groups.OffsetDeleteResponse, "0", None, "0"),
    _api(60, topics.DescribeClusterRequest, topics.DescribeClusterResponse, "0-1", 0, "0-1"),
]
# fmt: on

APIS = {api.key: api for api in _APIS}
"""Every API that the table has, by key."""
API_VERSIONS = APIS[18]


def served() -> tuple[configs.ApiVersion, ...]:
    """What the broker serves, as it tells its clients."""
    return tuple(
        configs.ApiVersion(api_key=api.key, min_version=api.served[0], max_version=api.served[-1])
        for api in _APIS
        if api.served
    )
