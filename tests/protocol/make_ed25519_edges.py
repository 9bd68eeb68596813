"""Makes vectors/ed25519_edges.json: signatures at the edges where ed25519 verifiers are known to disagree.

    PYTHONPATH=python:. python -m tests.protocol.make_ed25519_edges

The classes are those of "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko, 2020) and of "It's
255:19AM" (de Valence, 2020), whose published vectors cover the same ground: keys and R of small or mixed
order, encodings that are not canonical, S that is not reduced, and signatures that hold only when multiplied
by the cofactor. The vectors are made here by plain arithmetic on the curve, so `accept` says what the rule
demands, whatever any library does. The rule (libsodium's crypto_sign_open): S < L, the key canonical and not
of small order, R not of small order, and R = S·B - k·A exactly, as encoded bytes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from hashlib import sha512
from pathlib import Path
from typing import TypeAlias

PATH = Path(__file__).parent / "vectors" / "ed25519_edges.json"

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)

Point: TypeAlias = tuple[int, int]
NEUTRAL: Point = (0, 1)


def add(a: Point, b: Point) -> Point:
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P
    return x, y


def times(n: int, point: Point) -> Point:
    result = NEUTRAL
    while n:
        if n & 1:
            result = add(result, point)
        point = add(point, point)
        n >>= 1
    return result


def negative(point: Point) -> Point:
    return -point[0] % P, point[1]


def with_y(y: int, sign: int = 0) -> Point | None:
    """The point of this y and the parity of x, if there is one."""
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == -u % P:
        x = x * SQRT_M1 % P
    if v * x * x % P != u:
        return None
    return (x if x & 1 == sign else -x % P), y


def encode(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def found(point: Point | None) -> Point:
    assert point is not None
    return point


BASE = found(with_y(4 * pow(5, -1, P) % P))


def of_order_8() -> Point:
    """L times a point outside the prime-order group; the first y that gives the full small order."""
    for y in range(2, 100):
        point = with_y(y)
        if point is not None:
            small = times(L, point)
            if times(4, small) != NEUTRAL:
                return small
    raise AssertionError("one of the first points has order 8L")


T8 = of_order_8()
SMALL = [times(i, T8) for i in range(8)]


@dataclass(frozen=True)
class Part:
    """A key or an R: scalar·B + torsion, under an encoding that may not be the canonical one."""

    name: str
    scalar: int
    torsion: int  # how many times T8
    encoding: bytes

    @property
    def small(self) -> bool:
        return self.scalar == 0

    @property
    def canonical(self) -> bool:
        point = add(times(self.scalar, BASE), SMALL[self.torsion])
        return encode(point) == self.encoding


def scalar_of(label: str) -> int:
    return int.from_bytes(sha512(b"llama-gossip edge " + label.encode()).digest(), "little") % L


def part(name: str, scalar: int, torsion: int) -> Part:
    return Part(name, scalar, torsion, encode(add(times(scalar, BASE), SMALL[torsion])))


def non_canonical() -> list[Part]:
    """The six further encodings of small-order points: y not reduced, or a sign for x = 0."""
    torsion_of = {point: i for i, point in enumerate(SMALL)}
    parts = []
    for name, y, sign in (
        ("y=1, x=-0", 1, 1),
        ("y=-1, x=-0", P - 1, 1),
        ("y=p", P, 0),
        ("y=p, odd x", P, 1),
        ("y=p+1", P + 1, 0),
        ("y=p+1, x=-0", P + 1, 1),
    ):
        x, y_reduced = found(with_y(y % P))
        point = (x if x & 1 == sign else -x % P), y_reduced
        parts.append(Part(name, 0, torsion_of[point], (y | sign << 255).to_bytes(32, "little")))
    return parts


def keys() -> list[Part]:
    plain = [part("prime order", scalar_of("key"), 0), part("mixed order", scalar_of("key"), 1)]
    small = [part(f"order {order}, {i}·T8", 0, i) for i, order in enumerate((1, 8, 4, 8, 2, 8, 4, 8))]
    return plain + small + non_canonical()


def nonces() -> list[Part]:
    plain = [part("prime order", scalar_of("R"), 0), part("mixed order", scalar_of("R"), 1)]
    small = [part("neutral", 0, 0), part("order 8", 0, 1)]
    return plain + small + [p for p in non_canonical() if p.name in ("y=p", "y=p+1")]


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(sha512(r + key + message).digest(), "little") % L


def vector(key: Part, nonce: Part, message: bytes, s: int, what: str) -> dict[str, object]:
    k = challenge(nonce.encoding, key.encoding, message)
    key_point = add(times(key.scalar, BASE), SMALL[key.torsion])
    expected_r = add(times(s % L, BASE), negative(times(k, key_point)))
    exact = encode(expected_r) == nonce.encoding
    accept = s < L and key.canonical and not key.small and not nonce.small and exact
    signature = nonce.encoding + s.to_bytes(32, "little")
    return {
        "what": f"key {key.name}; R {nonce.name}; {what}",
        "key": key.encoding.hex(),
        "msg": message.hex(),
        "sig": signature.hex(),
        "exact": exact,
        "accept": accept,
    }


def with_residue(key: Part, nonce: Part, cancels: bool) -> dict[str, object] | None:
    """A signature that holds up to small order; `cancels`: exactly, too. None where that cannot be."""
    for i in range(64):
        message = b"edge %d" % i
        k = challenge(nonce.encoding, key.encoding, message)
        if ((nonce.torsion + k * key.torsion) % 8 == 0) is cancels:
            s = (nonce.scalar + k * key.scalar) % L
            return vector(key, nonce, message, s, "exact" if cancels else "only with the cofactor")
    return None


def unreduced() -> list[dict[str, object]]:
    """S and the same S plus multiples of L: as a number equal modulo L, as a signature a second one."""
    key, nonce, message = keys()[0], nonces()[0], b"malleable"
    s = (nonce.scalar + challenge(nonce.encoding, key.encoding, message) * key.scalar) % L
    values = {"S": s, "S + L": s + L, "S + 8L": s + 8 * L, "S + 15L": s + 15 * L, "S = 0": 0, "S = L": L}
    top = {f"S with bit {bit}": s | 1 << bit for bit in (253, 254, 255)}
    return [vector(key, nonce, message, value, what) for what, value in {**values, **top}.items()]


def vectors() -> list[dict[str, object]]:
    made = [
        with_residue(key, nonce, cancels) for key in keys() for nonce in nonces() for cancels in (True, False)
    ]
    return unreduced() + [v for v in made if v is not None]


if __name__ == "__main__":
    all_vectors = vectors()
    PATH.write_text("[\n" + ",\n".join(json.dumps(v) for v in all_vectors) + "\n]\n")
    sys.stdout.write(f"{len(all_vectors)} vectors, {sum(bool(v['accept']) for v in all_vectors)} to accept\n")
