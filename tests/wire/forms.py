"""PyYAML's values in homing's JSON form, and random values for both sides to disagree on.

Run by itself it writes the expectations for the captured messages, `expected.ndjson`: one value a line, as PyYAML reads the
body of the same line of `kiwipy-plumpy.ndjson`. homing's encoder has no part in it.

With `peer` it answers on standard input and output, one JSON object a line: {"yaml": base64} with {"value": form} or
{"error": text}; {"random": seed} with {"yaml": base64, "value": form}.
"""
import base64
import datetime
import json
import math
import os
import random
import sys

import yaml


class Tagged:
    def __init__(self, tag, value):
        self.tag, self.value = tag, value

    def __hash__(self):
        return hash(self.tag)

    def __eq__(self, other):
        return (self.tag, self.value) == (other.tag, other.value)


class Loader(yaml.FullLoader):
    """FullLoader that carries what it does not know, and keeps dates as they are written."""


def _tagged(loader, _suffix, node):
    if isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_scalar(node)
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    return Tagged(tag, value)


Loader.add_multi_constructor("!", _tagged)
Loader.add_multi_constructor("tag:yaml.org,2002:python/object", _tagged)
Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: Tagged("$timestamp", node.value))


def form(value):
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else {"$int": str(value)}
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return {"$float": "nan" if value != value else "inf" if value > 0 else "-inf"}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [form(item) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [form(item) for item in value]}
    if isinstance(value, set):
        return {"$set": [form(item) for item in value]}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: form(item) for key, item in value.items()}
        return {"$map": [[form(key), form(item)] for key, item in value.items()]}
    if isinstance(value, Tagged):
        if value.tag == "$timestamp":
            return {"$timestamp": value.value}
        return {"$tag": value.tag, "value": form(value.value)}
    raise TypeError(type(value))


TEXTS = ["", " ", "~", "null", "yes", "No", "on", "1e5", "1e-7", "1e+20", "1.0e+20", "0o17", "017", "0x1f", "1_000", "1:30",
         "12:30:45.5", "2020-01-01", "2001-12-14 21:59:43", "a: b", "- x", "#c", "a #c", "'", '"', "\\", "\n", "a\nb\n", "\t",
         "é", "\U0001F600", "\x07", "\x85", "\u2028", "\ufeff", "<<", "=", "!x", "&a", "*a", "%", "@", "`", "{", "[", "]",
         ",", "?", ":", "---", "...", ".inf", ".nan", "-.inf", "0b1", "+1", "-", ".", "x" * 1100, "trailing ", " leading"]


def any_text(rng):
    if rng.random() < 0.6:
        return rng.choice(TEXTS)
    return "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(160, 0xD7FF), rng.randrange(0x1F300, 0x1F600)]))
                   for _ in range(rng.randrange(12)))


def any_scalar(rng):
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, 1, -1, 2**31, 2**63 - 1, -(2**63), 2**63, 10**30, -(10**30), rng.randrange(-10**6, 10**6)])
    if kind == 2:
        return rng.choice([0.0, -0.5, 1e20, 1e-7, 1.5e300, 5e-324, math.inf, -math.inf, math.nan, rng.random(), rng.random() * 1e18])
    if kind == 3:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
    return any_text(rng)


def any_value(rng, depth=0):
    kind = rng.randrange(10)
    if depth > 4 or kind < 5:
        return any_scalar(rng)
    if kind < 7:
        return [any_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return tuple(any_value(rng, depth + 1) for _ in range(rng.randrange(4)))
    if kind == 8 and rng.random() < 0.3:
        return {scalar for scalar in (any_scalar(rng) for _ in range(3)) if scalar == scalar}
    result = {}
    for _ in range(rng.randrange(5)):
        key = any_text(rng) if rng.random() < 0.8 else rng.choice([None, 1, 2.5, tuple([1, "x"]), True, b"k"])
        result[key] = any_value(rng, depth + 1)
    if result and rng.random() < 0.2:
        # The same object twice: an anchor and an alias.
        shared = [1, "shared"]
        result["one"], result["two"] = shared, shared
    return result


def peer():
    for line in sys.stdin:
        ask = json.loads(line)
        if "yaml" in ask:
            try:
                answer = {"value": form(yaml.load(base64.b64decode(ask["yaml"]), Loader=Loader))}
            except Exception as exception:  # pylint: disable=broad-except
                answer = {"error": str(exception)}
        else:
            value = any_value(random.Random(ask["random"]))
            flow = random.Random(ask["random"] + 1).choice([None, True, False])
            answer = {"yaml": base64.b64encode(yaml.dump(value, encoding="utf-8", default_flow_style=flow)).decode(), "value": form(value)}
        print(json.dumps(answer), flush=True)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "kiwipy-plumpy.ndjson"), encoding="utf-8") as captured, \
            open(os.path.join(here, "expected.ndjson"), "w", encoding="utf-8") as expected:
        for line in captured:
            body = base64.b64decode(json.loads(line)["body_base64"])
            expected.write(json.dumps(form(yaml.load(body, Loader=Loader)), sort_keys=True) + "\n")


if __name__ == "__main__":
    peer() if sys.argv[1:] == ["peer"] else main()
