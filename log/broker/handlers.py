"""Who answers which request.

A handler is called with the context, the version and the struct of a request. What it returns is

    a struct        the response
    a future        the response is still to come, or None for none; the next request of the connection may begin
    a coroutine     the next request begins when it has ended; what it returns is one of the other two

and it may raise `HangUp`. Requests of one connection begin in the order in which they came, and are answered in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from framework.log.broker import configs, records, topics
from framework.log.broker.codes import Code
from framework.log.broker.context import Context
from framework.log.broker.requests import api_versions
from framework.log.broker.table_configs import ApiVersionsRequest, ApiVersionsResponse
from framework.log.broker.table_groups import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse

Handler = Callable[[Context, int, Any], Any]


def tell_versions(context: Context, _: int, body: ApiVersionsRequest) -> ApiVersionsResponse:
    """What is served; and remember who asks."""
    if body.client_software_name:
        context.client.software = f"{body.client_software_name} {body.client_software_version}"
    return api_versions()


def no_coordinator(_: Context, __: int, body: FindCoordinatorRequest) -> FindCoordinatorResponse:
    """There is none; clients ask again."""
    none = [
        Coordinator(key=key, node_id=-1, host="", port=-1, error_code=Code.COORDINATOR_NOT_AVAILABLE)
        for key in body.coordinator_keys
    ]
    return FindCoordinatorResponse(error_code=Code.COORDINATOR_NOT_AVAILABLE, coordinators=none)


HANDLERS: Mapping[str, Handler] = {
    "ApiVersions": tell_versions,
    "FindCoordinator": no_coordinator,
    **records.HANDLERS,
    **topics.HANDLERS,
    **configs.HANDLERS,
}
"""By the name of the API."""
