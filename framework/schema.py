"""The types by which topics and tables are stored, remembered as JSON schemas and compared at each start of a worker.

    schema row = {"version": 1, "topic_id", "written", "upgrade", "earlier": [written, ...]}

`written` is the schema of what is stored, `upgrade` says whether there is an upgrade=. What a type accepts is another
schema, made when `written` has changed only: most of what this costs a start is making schemas.
Each app has rows of its own: two apps may see one topic as different types. `earlier` holds what else may still be
stored: a type that reads what the one before it wrote does not yet read what the one before that wrote.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import PydanticUserError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from framework.compatible import Schema, differences
from framework.errors import SchemaChanged
from framework.log.errors import NewerFormat, NotFound
from framework.serdes import Serde
from framework.state import rows
from framework.state.rows import Change
from framework.state.store import Store

if TYPE_CHECKING:
    from framework.app import App

VERSION = 1
MOST_COUNTED, MOST_NAMED = 100_000, 5
_NOTES = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
"""What a schema says to people."""
logger = logging.getLogger("framework.worker")


@dataclass(frozen=True, slots=True)
class Stored:
    """A topic or table with a type."""

    kind: str
    name: str
    serde: Serde[Any]
    topic_id: str
    held: Callable[[], str]
    """What it holds, in words; empty if nothing."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


def schema_changes(app: App, home: Store, stores: Callable[[], list[Store]], accepted: Iterable[str]) -> list[Change]:
    """What to remember of the types of *app*, when all that is stored can be read; *home* has the rows.

    *stores* are all there are, asked for only when it matters what tables hold; *accepted* names topics and tables
    whose older values nobody has to be able to read, or is "all".

    Raises:
        SchemaChanged: Something that is stored cannot be read any more.
        NotFound: *accepted* names what the app does not declare.
    """
    names = set(accepted)
    unknown = names - {"all"} - app.topics.keys() - app.tables.keys()
    if unknown:
        there = ", ".join(sorted([*app.topics, *app.tables]))
        raise NotFound(f"--accept-schema: app {app.name!r} has no topic or table {min(unknown)!r}; there are {there}")
    changes: list[Change] = []
    refused: list[str] = []
    for item in [*_topics(app), *_tables(app, stores)]:
        key = rows.schema_key(app.name, item.kind, item.name)
        known = _load(home.database.get(key), item)
        written = schema_of(item.serde.value_type, "serialization")
        row = {"version": VERSION, "topic_id": item.topic_id, "written": written, "upgrade": item.serde.upgrades}
        if known is not None and row.items() <= known.items():
            continue
        earlier: list[Schema] = []
        if known is not None and known["topic_id"] == item.topic_id:
            earlier, reason = _earlier(item, known, written, is_accepted=bool({"all", item.name} & names))
            if reason:
                refused.append(reason)
        changes.append((key, orjson.dumps({**row, "earlier": earlier})))
    if refused:
        raise SchemaChanged("\n".join(refused))
    return changes


def _earlier(item: Stored, known: dict[str, Any], now: Schema, *, is_accepted: bool) -> tuple[list[Schema], str]:
    """What else than of the present type may be stored, and why the worker must not start, or nothing."""
    held = item.held()
    if not held:
        return [], ""
    written, read = [known["written"], *known["earlier"]], schema_of(item.serde.value_type, "validation")
    earlier = [schema for at, schema in enumerate(written) if schema != now and schema not in written[:at]]
    # Where a type does not even go with itself, it writes otherwise than its schema says.
    apparent = differences(now, read)
    found = [reason for schema in earlier for reason in differences(schema, read) if reason not in apparent]
    reasons = list(dict.fromkeys(found))
    if not reasons:
        if earlier:
            logger.info("%s: %s has changed; what is stored can be read as it is now", item, item.serde.name)
        return earlier, ""
    what = "; ".join(reasons[:MOST_NAMED])
    if len(reasons) > MOST_NAMED:
        what += f"; and {len(reasons) - MOST_NAMED} more"
    if item.serde.upgrades:
        logger.info("%s: upgrade= is given what is stored otherwise than %s is now: %s", item, item.serde.name, what)
        return earlier, ""
    if is_accepted:
        logger.warning("%s: accepted, although what is stored may not be read: %s", item, what)
        return [], ""
    return [], _refusal(item, held, what)


def _refusal(item: Stored, held: str, what: str) -> str:
    lost = (
        "records that cannot be read become dead letters" if item.kind == "topic" else "rows that cannot be read raise"
    )
    return (
        f"{item} holds {held}, and what was stored so far cannot be read as {item.serde.name} is now: {what}. "
        f"Give app.{item.kind}({item.name!r}, ...) an upgrade= that makes the stored JSON into what is read now, or "
        f"take another {item.kind}, or start with --accept-schema {item.name}: {lost} then"
    )


def _topics(app: App) -> Iterator[Stored]:
    for topic in list(app.topics.values()):
        info = app.topic_info(topic)

        def held(name: str = info.name, partitions: int = info.partitions) -> str:
            parts = [app.log.partition(app.log.topic(name), number) for number in range(partitions)]
            ranges = [(part.name, part.log_start, part.log_end) for part in parts if part.log_end > part.log_start]
            count = sum(end - start for _, start, end in ranges)
            named = ", ".join(f"{name} offset {start} to {end - 1}" for name, start, end in ranges[:MOST_NAMED])
            more = f", and {len(ranges) - MOST_NAMED} partitions more" if len(ranges) > MOST_NAMED else ""
            return f"{count:,} record{'s' * (count != 1)} ({named}{more})" if count else ""

        yield Stored("topic", topic.name, topic.value_serde, info.id, held)


def _tables(app: App, stores: Callable[[], list[Store]]) -> Iterator[Stored]:
    for table in app.tables.values():

        def held(prefix: bytes = rows.all_table_prefix(table.name)) -> str:
            found = (row for store in stores() for row in store.database.scan(prefix))
            count = sum(1 for _ in islice(found, MOST_COUNTED + 1))
            if count > MOST_COUNTED:
                return f"over {MOST_COUNTED:,} rows"
            return f"{count:,} row{'s' * (count != 1)}" if count else ""

        yield Stored("table", table.name, table.serde, "", held)


def _load(data: bytes | None, item: Stored) -> dict[str, Any] | None:
    """The row that was stored, if there is one.

    Raises:
        NewerFormat: It was stored by a newer version.
    """
    if data is None:
        return None
    row: dict[str, Any] = orjson.loads(data)
    if row["version"] > VERSION:
        raise NewerFormat(f"the schema of {item} has format {row['version']}: upgrade framework-streams")
    return row


# From types to schemas.


def schema_of(value_type: Any, mode: JsonSchemaMode) -> Schema:
    """The JSON schema of what is stored or read as *value_type*."""
    if value_type in (Any, object):
        return {}
    if value_type in (bytes, str):
        return {"stored": "bytes" if value_type is bytes else "text"}
    config = getattr(value_type, "model_config", {})
    # As it is stored, so that both schemas have the same names.
    by_alias = bool(config.get("serialize_by_alias"))
    adapter: TypeAdapter[Any] = TypeAdapter(value_type)
    try:
        return _plain(adapter.json_schema(mode=mode, by_alias=by_alias, schema_generator=_Generator))
    except (PydanticInvalidForJsonSchema, PydanticUserError):
        return {"type": f"{getattr(value_type, '__module__', '')}.{getattr(value_type, '__qualname__', value_type)}"}


class _Generator(GenerateJsonSchema):
    """Pydantic's, and what it is silent about: the types of a mapping's keys, and texts that are numbers."""

    def dict_schema(self, schema: Any) -> dict[str, Any]:
        """With what is read from the keys, which in JSON are text."""
        found = super().dict_schema(schema)
        keys = self.generate_inner(schema["keys_schema"]) if "keys_schema" in schema else {}
        return found if keys.get("type", "string") == "string" else {**found, "keys": keys}

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        """Not any text is a decimal."""
        return _formatted(super().decimal_schema(schema), "decimal")

    def complex_schema(self, schema: Any) -> dict[str, Any]:
        """Not any text is a complex number."""
        return _formatted(super().complex_schema(schema), "complex")

    def emit_warning(self, kind: Any, detail: str) -> None:
        """What cannot be said in a schema is not said: nobody asked for one."""


def _formatted(schema: dict[str, Any], name: str) -> dict[str, Any]:
    if "anyOf" in schema:
        return {**schema, "anyOf": [_formatted(choice, name) for choice in schema["anyOf"]]}
    return {**schema, "format": name} if schema.get("type") == "string" else schema


def _plain(schema: Any) -> Any:
    """*schema* without what is meant for people, as it comes back from where it is stored."""
    if not isinstance(schema, dict):
        return schema
    plain: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs", "patternProperties"):
            plain[key] = {name: _plain(inner) for name, inner in value.items()}
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            plain[key] = [_plain(inner) for inner in value]
        elif key == "discriminator":
            plain[key] = {name: inner for name, inner in value.items() if name != "mapping"}
        elif key not in _NOTES and not key.startswith("x-"):
            plain[key] = _plain(value)
    return plain
