"""PyYAML as a referee for homing's YAML codec, on standard input and output, one JSON object a line.

    {"dump": [seed, ...]}                          random Python values, dumped in random styles: a list of bodies in base64
    {"check": [[body, form or null, written], ...]}    a list of null, or what is wrong

`check` loads a body with FullLoader and compares the result with what homing has read (its JSON form in a list; null for an error), by
Python's own types, values and key order. `written` is true for a body that homing itself has written, which FullLoader must
construct. Tags that FullLoader does not know are carried, as homing does.
"""
import base64
import datetime
import json
import math
import random
import sys

import yaml

STANDARD = "tag:yaml.org,2002:"


class Tagged:
    """What has a tag that nothing is constructed from."""

    def __init__(self, tag, value):
        self.tag, self.value = tag, value

    def __hash__(self):
        return hash(self.tag)

    def __eq__(self, other):
        return isinstance(other, Tagged) and self.tag == other.tag and difference(self.value, other.value) is None


class Loader(yaml.FullLoader):
    """FullLoader, but for tags of applications and of Python objects, which are carried."""

    pass


def carried(loader, suffix, node):
    if isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_scalar(node)
    tag = node.tag
    if tag.startswith(STANDARD):
        kind, _, name = tag[len(STANDARD):].partition(":")
        wanted = {"python/object": (dict,), "python/object/apply": (dict, list), "python/object/new": (dict, list)}.get(kind)
        if not name or (value != "" if wanted is None else not isinstance(value, wanted)):
            raise yaml.constructor.ConstructorError(None, None, f"{tag} has another shape", node.start_mark)
        tag = "!!" + tag[len(STANDARD):]
    elif not tag.startswith("!") or tag.startswith(("!!", "!<")):
        tag = f"!<{tag}>"
    return Tagged(tag, value)


for prefix in ["python/name:", "python/module:", "python/object:", "python/object/apply:", "python/object/new:"]:
    Loader.add_multi_constructor(STANDARD + prefix, carried)


def unknown(loader, suffix, node):
    if node.tag.startswith(STANDARD):
        return loader.construct_undefined(node)
    return carried(loader, suffix, node)


# For every tag that no constructor is registered for.
Loader.add_multi_constructor("", unknown)
Loader.add_multi_constructor(None, unknown)


def from_form(form):
    """A Python value from homing's JSON form."""
    if isinstance(form, list):
        return [from_form(item) for item in form]
    if not isinstance(form, dict):
        return form
    if "$tag" in form:
        value = from_form(form["value"])
        if form["$tag"] == "!!python/complex":
            return complex(value)
        # A scalar under a tag is its text.
        if value is None or isinstance(value, (bool, int, float)):
            value = yaml.safe_dump(value).split("\n", maxsplit=1)[0] if not isinstance(value, int) or isinstance(value, bool) else str(value)
        return Tagged(form["$tag"], value)
    key = next((key for key in form if key.startswith("$")), None)
    if key is None:
        return {key: from_form(item) for key, item in form.items()}
    content = form[key]
    return {
        "$tuple": lambda: tuple(from_form(item) for item in content),
        "$set": lambda: {from_form(item) for item in content},
        "$bytes": lambda: base64.b64decode(content),
        "$int": lambda: int(content, 16 if "x" in content else 10),
        "$float": lambda: float(content),
        "$timestamp": lambda: yaml.load(f'!!timestamp "{content}"', Loader=yaml.FullLoader),
        "$map": lambda: {from_form(item): from_form(value) for item, value in content},
    }[key]()


def joined(text):
    """A string with the halves of its characters put together."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def difference(a, b, at="", above=()):
    """Where two values differ, in kind, value or the order of keys."""
    if type(a) is not type(b):
        return f"{at}: {type(a).__name__} and {type(b).__name__}"
    if id(a) in above:
        return f"{at}: contains itself"
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return f"{at}: {len(a)} and {len(b)} items"
        return next(filter(None, (difference(x, y, f"{at}/{n}", (*above, id(a))) for n, (x, y) in enumerate(zip(a, b)))), None)
    if isinstance(a, dict):
        return (difference(list(a), list(b), at + "/keys", (*above, id(a)))
                or difference(list(a.values()), list(b.values()), at, (*above, id(a))))
    if isinstance(a, (set, frozenset)):
        return difference(sorted(a, key=repr), sorted(b, key=repr), at + "/set")
    if isinstance(a, Tagged):
        return difference(a.tag, b.tag, at) or difference(a.value, b.value, at, above)
    if isinstance(a, float):
        same = (a != a and b != b) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    elif isinstance(a, complex):
        same = repr(a) == repr(b)
    elif isinstance(a, datetime.datetime):
        same = a.isoformat() == b.isoformat()
    elif isinstance(a, str):
        same = joined(a) == joined(b)
    else:
        same = a == b
    return None if same else f"{at}: {a!r:.80} and {b!r:.80}"


def cannot_be_held(value, above=()):
    """True for what homing has no value for: lone surrogates, and what contains itself."""
    if isinstance(value, str):
        return any(0xD800 <= ord(character) <= 0xDFFF for character in joined(value))
    if id(value) in above:
        return True
    above = (*above, id(value))
    if isinstance(value, dict):
        return any(cannot_be_held(part, above) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple, set)):
        return any(cannot_be_held(part, above) for part in value)
    return isinstance(value, Tagged) and cannot_be_held(value.value, above)


def check(body, form, written):
    body = base64.b64decode(body)
    try:
        theirs = yaml.load(body, Loader=Loader)
    except Exception as error:  # pylint: disable=broad-except
        return None if form is None and not written else f"PyYAML: {error!r:.300}"
    if form is None:
        if written:
            return "homing does not read what it has written"
        # A value that one cannot hold is an error; so is an odd spelling under a tag, which Python's constructors take.
        lenient = any(tag in body for tag in (b"!!int", b"!!float", b"!!binary", b"!!bool", b"!!python/", b"!!null", b"!!str",
                                              b"!!timestamp", b"!!set"))
        odd = b"<<" in body or b"=" in body
        return None if lenient or odd or cannot_be_held(theirs) else "homing does not read it"
    if written:
        try:
            yaml.load(body, Loader=yaml.FullLoader)
        except yaml.constructor.ConstructorError as error:
            if not any(text in str(error) for text in ["could not determine", "is not imported", "cannot find"]):
                return f"FullLoader: {error!r:.200}"
    return difference(theirs, from_form(form[0]))


TEXTS = ["", " ", "~", "null", "yes", "No", "on", "1e5", "1e-7", "1e+20", "1.0e+20", "0o17", "017", "0x1f", "1_000", "1:30",
         "12:30:45.5", "2020-01-01", "2001-12-14 21:59:43", "a: b", "- x", "#c", "a #c", "'", '"', "\\", "\n", "a\nb\n", "\t",
         "é", "\U0001F600", "\x07", "\x85", "\u2028", "\ufeff", "<<", "=", "!x", "&a", "*a", "%", "@", "`", "{", "[", "]",
         ",", "?", ":", "---", "...", ".inf", ".nan", "-.inf", "0b1", "+1", "-", ".", "x" * 1100, "trailing ", " leading",
         "2024-02-30", "--- x", "\n--- x\n", "\n\n  a\n\n b\n", "a\n", "a\n\n", " \n", "word " * 40, "\u2029x", "\0", "\x7f",
         "k\u2028l", "a\tb", "\ta", "a:", ":a", "?x", "-x", "| x", "> y", "%YAML", "a\r\nb", "x\ny: z", "\ufeffx", "é " * 50]


def any_text(rng):
    if rng.random() < 0.6:
        return rng.choice(TEXTS)
    return "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(160, 0xD7FF), rng.randrange(0x1F300, 0x1F600),
                                   rng.randrange(0, 160)])) for _ in range(rng.randrange(12)))


def any_time(rng):
    day = datetime.date(rng.randrange(1, 10000), rng.randrange(1, 13), rng.randrange(1, 29))
    if rng.random() < 0.4:
        return day
    zone = rng.choice([None, datetime.timezone.utc, datetime.timezone(datetime.timedelta(minutes=rng.randrange(-1439, 1440)))])
    if not 2 < day.year < 9998:
        zone = None
    micros = rng.choice([0, 500000, rng.randrange(10**6)])
    time = datetime.time(rng.randrange(24), rng.randrange(60), rng.randrange(60), micros, zone)
    return datetime.datetime.combine(day, time)


def any_scalar(rng):
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, 1, -1, 2**31, 2**63 - 1, -(2**63), 2**63, 10**30, -(10**30), rng.randrange(-10**6, 10**6),
                           rng.randrange(-10**40, 10**40)])
    if kind == 2:
        return rng.choice([0.0, -0.0, -0.5, 1e20, 1e-7, 1.5e300, 5e-324, math.inf, -math.inf, math.nan, 1.0, rng.random(),
                           rng.random() * 10.0**rng.randrange(-300, 300)])
    if kind == 3:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(80)))
    if kind == 4:
        return any_time(rng)
    if kind == 5 and rng.random() < 0.3:
        return complex(rng.choice([0.0, 1.0, rng.random()]), rng.choice([1.0, -2.5, rng.random() * 1e20]))
    return any_text(rng)


def any_key(rng, depth):
    kind = rng.randrange(12)
    if kind > 2 or depth > 4:
        return any_text(rng)
    return any_scalar(rng) if kind else tuple(any_key(rng, depth + 1) for _ in range(rng.randrange(3)))


def any_value(rng, shared, depth=0):
    kind = rng.randrange(12)
    if depth > 4 or kind < 5:
        return any_scalar(rng)
    if kind < 7:
        return [any_value(rng, shared, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return tuple(any_value(rng, shared, depth + 1) for _ in range(rng.randrange(4)))
    if kind == 8 and rng.random() < 0.4:
        return {any_key(rng, depth) for _ in range(3)}
    if kind == 9 and shared and rng.random() < 0.5:
        # One object in several places, also as a key: an anchor and aliases.
        return rng.choice(shared)
    result = {}
    for _ in range(rng.randrange(5)):
        key = any_key(rng, depth)
        if shared and rng.random() < 0.1:
            key = rng.choice([part for part in shared if isinstance(part, tuple)])
        result[key] = any_value(rng, shared, depth + 1)
    return result


def dump(seed):
    rng = random.Random(seed)
    shared = [(1, "x"), ("key", 2.5), [1, "shared"], {"shared": True}] if rng.random() < 0.4 else []
    encoding = rng.choice(["utf-8"] * 6 + ["utf-16-le", "utf-16-be"])
    style = {
        "default_flow_style": rng.choice([None, True, False]),
        "default_style": rng.choice([None, None, None, None, '"', "'", "|", ">"]),
        "width": rng.choice([None, 10, 30, 10**6]),
        "indent": rng.choice([None, 2, 7]),
        "allow_unicode": rng.choice([None, True]),
        "canonical": rng.choice([None] * 8 + [True]),
        "explicit_start": rng.choice([None] * 3 + [True]),
        "explicit_end": rng.choice([None] * 3 + [True]),
        "version": rng.choice([None] * 4 + [(1, 1), (1, 2)]),
        "line_break": rng.choice([None] * 4 + ["\r\n", "\r"]),
    }
    body = yaml.dump(any_value(rng, shared), sort_keys=False, encoding=encoding, **style)
    return base64.b64encode(body).decode()


def main():
    for line in sys.stdin:
        question = json.loads(line)
        if "dump" in question:
            answer = [dump(seed) for seed in question["dump"]]
        else:
            answer = [check(*one) for one in question["check"]]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
