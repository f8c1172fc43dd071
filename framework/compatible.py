"""Whether values that were written as one type can be read as another, judged by their JSON schemas.

Judged is what can be judged for sure: where a value might not be read, or a keyword is not known here, the answer is
no. Not seen are validators that are functions: they are in no schema.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Schema = Any
"""A JSON schema as pydantic makes it, without titles and the like; True or {} is any JSON."""
_BOUNDS = {"minLength": 1, "maxLength": -1, "minItems": 1, "maxItems": -1, "minProperties": 1, "maxProperties": -1}
"""Keywords whose new value may only be lower (1), or only higher (-1)."""
_RANGE = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}
_JUDGED = {
    "null": set[str](),
    "boolean": set[str](),
    "integer": _RANGE,
    "number": _RANGE,
    "string": {"minLength", "maxLength", "pattern", "format"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"},
    "object": {"properties", "required", "additionalProperties", "propertyNames", "minProperties", "maxProperties"},
}
_CHOICES = ("anyOf", "oneOf")
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def differences(written: Schema, read: Schema) -> list[str]:
    """Why what is stored as *written* says may not be read as *read* says: field by field; empty if it can be."""
    if "stored" in written or "stored" in read:
        # What is no JSON: text, or bytes, as which anything can be read.
        same = written == read or read == {"stored": "bytes"}
        return [] if same else [_changed("", _name(written), _name(read))]
    return list(dict.fromkeys(_Comparison(written, read).compare(written, read, "")))


class _Comparison:
    """One comparison; knows what references stand for on both sides."""

    def __init__(self, written: Schema, read: Schema) -> None:
        self._definitions = [schema.get("$defs", {}) for schema in (written, read)]
        self._under_way: set[tuple[str, str]] = set()

    def compare(self, old: Schema, new: Schema, path: str, tag: str | None = None) -> list[str]:
        """What keeps values of *old* from being read as *new*; *tag* is a field that all of them have."""
        pair = (
            old.get("$ref", "") if isinstance(old, dict) else "",
            new.get("$ref", "") if isinstance(new, dict) else "",
        )
        if all(pair):
            if pair in self._under_way:  # A type that holds itself: it is being judged further up.
                return []
            self._under_way.add(pair)
        try:
            return self._judge(old, new, path, tag)
        finally:
            if all(pair):
                self._under_way.discard(pair)

    def _resolved(self, side: int, schema: Schema) -> dict[str, Any]:
        """*schema* without what names it."""
        if schema is True:
            return {}
        found = {key: value for key, value in schema.items() if key != "$defs"}
        while "$ref" in found:
            name = found.pop("$ref").rpartition("/")[2]
            found = {**self._definitions[side].get(name, {"$ref-to-nothing": name}), **found}
        return found

    def _judge(self, written: Schema, read: Schema, path: str, tag: str | None) -> list[str]:
        old, new = self._resolved(0, written), self._resolved(1, read)
        if not new:
            return []
        if not old:
            return [_changed(path, "any JSON", _name(new))]
        if _is_choice(old):
            tag = old.get("discriminator", {}).get("propertyName")
            choices = next(old[key] for key in _CHOICES if key in old)
            return [reason for choice in choices for reason in self.compare(choice, read, path, tag)]
        if _is_choice(new):
            return self._judge_choice(written, old, new, path, tag)
        if "enum" in old or "const" in old:
            return self._judge_values(old, new, path)
        if "enum" in new or "const" in new:
            return [_changed(path, _name(old), _name(new))]
        was, now = old.get("type"), new.get("type")
        if was != now and (was, now) != ("integer", "number"):
            return [_changed(path, _name(old), _name(new))]
        reasons = self._judge_unknown(old, new, path)
        judge: Callable[..., list[str]] | None = {"array": self._judge_array, "object": self._judge_object}.get(
            str(now)
        )
        return reasons + _judge_limits(old, new, path) + (judge(old, new, path) if judge else [])

    def _judge_choice(
        self, written: Schema, old: dict[str, Any], new: dict[str, Any], path: str, tag: str | None
    ) -> list[str]:
        """One of several will do; of a union told apart by a field, that field has to be there."""
        chosen_by = new.get("discriminator", {}).get("propertyName")
        choices = next(new[key] for key in _CHOICES if key in new)
        if chosen_by is not None and tag != chosen_by and chosen_by not in old.get("required", ()):
            return [f"{_under(path, chosen_by)} is not in all that is stored, and is required now"]
        tried = [(self._resolved(1, choice), self.compare(written, choice, path)) for choice in choices]
        if not all(reasons for _, reasons in tried):
            return []
        alike = [reasons for choice, reasons in tried if choice.get("type") == old.get("type")]
        return alike[0] if len(alike) == 1 else [_changed(path, _name(old), _name(new))]

    def _judge_values(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[str]:
        """*old* says which values there are."""
        values = _values(old)
        if "enum" in new or "const" in new:
            accepted = [(type(value), value) for value in _values(new)]
            gone = [value for value in values if (type(value), value) not in accepted]
            return [f"{path or 'value'} may be {', '.join(map(repr, gone))} no more"] if gone else []
        kinds = {_TYPES.get(type(value), "") for value in values}
        return [reason for kind in sorted(kinds) for reason in self.compare({"type": kind}, new, path)]

    def _judge_unknown(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[str]:
        """Keywords of which is not known here what they mean have to be the same."""
        reasons = []
        known = _JUDGED.get(str(new.get("type")), set()) | _JUDGED.get(str(old.get("type")), set()) | {"type"}
        for key in sorted((old.keys() | new.keys()) - known):
            same = key in old and key in new and old[key] == new[key]
            if not same or ("$ref" in repr(old[key]) and self._definitions[0] != self._definitions[1]):
                reasons.append(f"{path or 'value'} has another {key!r}")
        return reasons

    def _judge_array(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[str]:
        reasons = []
        was, now = old.get("prefixItems", []), new.get("prefixItems", [])
        most = old.get("maxItems")
        places = max(len(was), len(now))
        for at in range(places if most is None else min(places, most)):
            first = was[at] if at < len(was) else old.get("items", True)
            second = now[at] if at < len(now) else new.get("items", True)
            reasons += self.compare(first, second, f"{path}[{at}]")
        if most is None or most > places:
            reasons += self.compare(old.get("items", True), new.get("items", True), f"{path}[]")
        if new.get("uniqueItems") and not old.get("uniqueItems") and new.get("minItems", 0) > 1:
            reasons.append(f"{path or 'value'} counts equal items once now, and must have {new['minItems']}")
        return reasons

    def _judge_object(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[str]:
        reasons = []
        was, now = old.get("properties", {}), new.get("properties", {})
        # Models write the fields they have and read past those they do not know; mappings hold anything.
        others = old.get("additionalProperties", "properties" not in old)
        rest = new.get("additionalProperties", True)
        for name, field in now.items():
            where, required = _under(path, name), name in new.get("required", ())
            if name in was:
                reasons += self.compare(was[name], field, where)
                if required and name not in old.get("required", ()):
                    reasons.append(f"{where} could be missing, and is required now")
            elif required:
                reasons.append(f"{where} is new, and required")
            elif others is not False:
                reasons += self.compare(others, field, where)
        for name, field in was.items():
            if name not in now and rest is False:
                reasons.append(f"{_under(path, name)} is stored, and not allowed any more")
            elif name not in now:
                reasons += self.compare(field, rest, _under(path, name))
        if others is not False:
            refused = [f"{path or 'value'} may hold other fields, which are not allowed any more"]
            reasons += refused if rest is False else self.compare(others, rest, f"{path}{{}}")
        return reasons + self._judge_names(old, new, path)

    def _judge_names(self, old: dict[str, Any], new: dict[str, Any], path: str) -> list[str]:
        """What the keys of a mapping may be."""
        if "propertyNames" not in new:
            return []
        named = {"enum": list(old["properties"])} if old.get("properties") else {"type": "string"}
        return self.compare(old.get("propertyNames", named), new["propertyNames"], f"{path}{{}}")


def _judge_limits(old: dict[str, Any], new: dict[str, Any], path: str) -> list[str]:
    """Limits may become wider; a pattern or format may go."""
    where = path or "value"
    reasons = []
    for key, sign in _BOUNDS.items():
        if key in new and (key not in old or sign * (new[key] - old[key]) > 0):
            reasons.append(f"{where} has {key} {new[key]} now")
    for kind, exclusive, sign in (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)):
        was, now = _limit(old, kind, exclusive, sign), _limit(new, kind, exclusive, sign)
        if now is not None and (was is None or now > was):
            reasons.append(f"{where} has {kind} {now[0] * sign} now")
    forms = [key for key in ("pattern", "format") if key in new and new[key] != old.get(key)]
    return reasons + [f"{where} has the {key} {new[key]!r} now" for key in forms]


def _limit(schema: dict[str, Any], kind: str, exclusive: str, sign: int) -> tuple[float, bool] | None:
    """The limit of a number, so that a larger one is narrower."""
    found = [(schema[key] * sign, key == exclusive) for key in (kind, exclusive) if key in schema]
    return max(found, default=None)


def _is_choice(schema: dict[str, Any]) -> bool:
    """Whether it is a union that can be judged: of whichever fits, or told apart by a field."""
    keys = set(schema)
    return keys == {"anyOf"} or keys == {"oneOf", "discriminator"}


def _values(schema: dict[str, Any]) -> list[Any]:
    return list(schema["enum"]) if "enum" in schema else [schema["const"]]


def _under(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _changed(path: str, was: str, now: str) -> str:
    return f"{path or 'value'} was {was}, is {now} now"


def _name(schema: dict[str, Any]) -> str:
    """*schema* in a word or two."""
    if "enum" in schema or "const" in schema:
        return f"one of {', '.join(map(repr, _values(schema)))}"
    for key in _CHOICES:
        if key in schema:
            return " or ".join(dict.fromkeys(_name(choice) for choice in schema[key]))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if not schema:
        return "any JSON"
    return str(schema.get("format") or schema.get("stored") or schema.get("type") or "something else")
