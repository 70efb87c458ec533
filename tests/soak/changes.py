"""Changes of a file's bytes at random, as a bad disk or a hasty hand makes them."""

from __future__ import annotations

import random
import re

_NASTY = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1", "0", "0.5", "1e-320", "9" * 5000, "null"),
    *("true", '""', '"text"', "[]", "{}", "[" * 100_000, '{"a":' * 1000, "\\u0000", '"\\ud800"'),
    *("*a", "&a [*a]", "!!python/object/apply:os.system [ls]", "? [a]\n: b", "<<: *b", "\t", "'"),
)
_VALUE = re.compile(rb"-?\d+(?:\.\d+)?(?:e-?\d+)?|\"[^\"]*\"|true|false|null")


def mutated(content: bytes, rng: random.Random, is_text: bool) -> bytes:
    """Bytes of which some are changed, missing, doubled or added; or a text with another value."""
    held = bytearray(content)
    at = rng.randrange(len(held) + 1)
    kind = rng.choice(("bit", "bytes", "cut", "insert", "end", "double", *["value"] * 4 * is_text))
    values = list(_VALUE.finditer(content)) if kind == "value" else []
    if values:
        found = rng.choice(values)
        held[found.start() : found.end()] = rng.choice(_NASTY).encode()
    elif kind == "bit" and at < len(held):
        held[at] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        held[at : at + 8] = rng.randbytes(min(8, len(held) - at))
    elif kind == "cut":
        del held[at : at + rng.randint(1, 40)]
    elif kind == "double":
        held[at:at] = held[at : at + rng.randint(1, 40)]
    elif kind == "end":
        del held[at:]
    else:
        held[at:at] = rng.randbytes(rng.randint(1, 9))
    return bytes(held)
