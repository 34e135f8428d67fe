"""Python values in JSON and back, without loss: how a peer script and a test tell each other what is on the wire.

    null, true, "text", [1, 2]         themselves; so are floats (always with a point or an exponent) and integers of
                                       up to 53 bits
    {"a": 1}                           a dict whose keys are all strings and none of which begins with "$"
    {"$dict": [[key, value], ...]}     any other dict, in order
    {"$tuple": [...]}  {"$set": [...]}  {"$frozenset": [...]}   (sets are sorted by their text)
    {"$bytes": "base64"}  {"$int": "123456789012345678901234567890"}
    {"$float": "nan" | "inf" | "-inf"}
    {"$uuid": "..."}  {"$date": "2024-01-31"}  {"$datetime": "2024-01-31T10:00:00+00:00"}
    {"$str": [0xd83d, ...]}            a string that holds lone surrogates, by code points
    {"$tag": "!x", "value": ...}       what the codec `tags` makes of a tag that it does not know
    {"$repr": "..."}                   anything else; one way only
"""
import base64
import datetime
import math
import uuid


class Tagged:
    """A value under a YAML tag that nothing is constructed from."""

    def __init__(self, tag, value):
        self.tag = tag
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Tagged) and (self.tag, self.value) == (other.tag, other.value)

    def __hash__(self):
        return hash((self.tag, str(self.value)))

    def __repr__(self):
        return f"Tagged({self.tag!r}, {self.value!r})"


def to_json(value):
    if value is None or isinstance(value, bool):
        return value
    kind = type(value)
    if kind is str:
        if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
            return {"$str": [ord(character) for character in value]}
        return value
    if kind is int:
        return value if abs(value) < 2**53 else {"$int": str(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if kind is list:
        return [to_json(item) for item in value]
    if kind is tuple:
        return {"$tuple": [to_json(item) for item in value]}
    if kind in (set, frozenset):
        return {f"${kind.__name__}": [to_json(item) for item in sorted(value, key=repr)]}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is dict:
        if all(type(key) is str and not key.startswith("$") and to_json(key) == key for key in value):
            return {key: to_json(item) for key, item in value.items()}
        return {"$dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
    if kind is uuid.UUID:
        return {"$uuid": str(value)}
    if kind is datetime.datetime:
        return {"$datetime": value.isoformat()}
    if kind is datetime.date:
        return {"$date": value.isoformat()}
    if kind is Tagged:
        return {"$tag": value.tag, "value": to_json(value.value)}
    return {"$repr": repr(value)}


_READERS = {
    "$dict": lambda pairs: {from_json(key): from_json(item) for key, item in pairs},
    "$tuple": lambda items: tuple(from_json(item) for item in items),
    "$set": lambda items: {from_json(item) for item in items},
    "$frozenset": lambda items: frozenset(from_json(item) for item in items),
    "$bytes": base64.b64decode,
    "$int": int,
    "$float": float,
    "$uuid": uuid.UUID,
    "$date": datetime.date.fromisoformat,
    "$datetime": datetime.datetime.fromisoformat,
    "$str": lambda points: "".join(map(chr, points)),
}


def from_json(value):
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tag" in value and set(value) == {"$tag", "value"}:
        return Tagged(value["$tag"], from_json(value["value"]))
    if len(value) == 1:
        (key, inner), = value.items()
        if key in _READERS:
            return _READERS[key](inner)
    if any(key.startswith("$") for key in value):
        raise ValueError(f"unknown form of a value: {sorted(value)}")
    return {key: from_json(item) for key, item in value.items()}
