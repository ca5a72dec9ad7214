#!/usr/bin/env python3
"""Writes packets.json: the frames between two nodes, from the text of docs/wire.md, without the Rust code.

Needs Python 3.9 and the `cryptography` package. Run it in this folder, after make.py, only when a format changes;
`p2p-node/tests/vectors.rs` holds the Rust implementation against the file.
"""
import hashlib
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ALICE, BOB = bytes(range(1, 33)), bytes(range(33, 65))


def u(n, size):
    return n.to_bytes(size, "big")


def key(seed):
    return Ed25519PrivateKey.from_private_bytes(seed)


def node_id(seed):
    return key(seed).public_key().public_bytes_raw()


def pack(value):
    """MessagePack in its shortest form. bytes are binary, a list is an array."""
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, dict):
        assert len(value) < 16
        return u(0x80 | len(value), 1) + b"".join(pack(k) + pack(v) for k, v in value.items())
    if isinstance(value, list):
        head = u(0x90 | len(value), 1) if len(value) < 16 else b"\xdc" + u(len(value), 2)
        return head + b"".join(map(pack, value))
    if isinstance(value, str):
        raw = value.encode()
        if len(raw) > 255:
            return b"\xda" + u(len(raw), 2) + raw
        return (u(0xa0 | len(raw), 1) if len(raw) < 32 else b"\xd9" + u(len(raw), 1)) + raw
    if isinstance(value, bytes):
        return (b"\xc4" + u(len(value), 1) if len(value) < 256 else b"\xc5" + u(len(value), 2)) + value
    for size, head in [(0, b""), (1, b"\xcc"), (2, b"\xcd"), (4, b"\xce"), (8, b"\xcf")]:
        if value < (128 if size == 0 else 1 << 8 * size):
            return head + u(value, size or 1)
    raise ValueError(value)


def load(name, which):
    with open(name + ".json", encoding="utf-8") as file:
        return next(v for v in json.load(file)["vectors"] if v["name"] == which)


RECORD, LOCAL = (bytes.fromhex(load("records", name)["bytes"]) for name in ("two addresses", "local"))
ONE, PRIVATE = (bytes.fromhex(load("envelopes", name)["bytes"])
                for name in ("one entry", "private entry, payload as in sealed.json"))
HASH = bytes.fromhex("f9aaad68dd1fafd8fc93a509927cb13c974e152d78e3da7358c882383346fdfc")  # the empty file
QUESTION = bytes(range(0x70, 0x90))[:16]
BIG = 2**64 - 1


def frame(kind, parts):
    """The annotated whole frame: parts are (name, bytes) of the body."""
    body = b"".join(part for _, part in parts)
    fields = [("length of kind and body", u(1 + len(body), 4)), ("kind", u(kind, 1))] + parts
    return {"kind": kind, "fields": [[name, part.hex()] for name, part in fields],
            "bytes": b"".join(part for _, part in fields).hex()}


def vector(name, packet, kind, parts, **values):
    return {"name": name, "packet": packet, "values": values, **frame(kind, parts)}


def mapped(value):
    """A body that is one map, cut into its keys and values."""
    parts = [(f"map of {len(value)}", u(0x80 | len(value), 1))]
    for k, v in value.items():
        parts += [(f'key "{k}"', pack(k)), ("value", pack(v))]
    return parts


def envelope_id(envelope):
    """Author, run, first, count: bytes 1 to 49 of the envelope."""
    return envelope[1:50]


def groups(number):
    """7 bits a byte, lowest first, the top bit set on all but the last."""
    out = b""
    while number > 0x7f:
        out += u(number & 0x7f | 0x80, 1)
        number >>= 7
    return out + u(number, 1)


def ihave_line(line, before):
    envelope, hops, wait = line
    run, first, count = (int.from_bytes(envelope[a:b], "big") for a, b in [(32, 40), (40, 48), (48, 49)])
    same = before[:32] == envelope[:32]
    parts = [("flags: 1 wait, 2 author of the line before, 4 a count follows", u(wait + 2 * same + 4 * (count != 1), 1))]
    parts += [] if same else [("author", envelope[:32])]
    parts += [("first seq", envelope[40:48]), ("first seq less run", groups(first - run))]
    parts += [("count", envelope[48:])] if count != 1 else []
    return parts + [("hops its push would carry", u(hops, 1))]


def span_parts(author, first, end, before):
    same = before == author
    parts = [("flags: 1 author of the line before", u(same, 1))] + ([] if same else [("author", author)])
    return parts + [("first seq", u(first, 8)), ("number of seqs", groups(end - first))]


def spans_parts(spans, sums=None):
    """Lines of (author, first, one above the last), each with its sum if there are some."""
    parts = []
    for n, (author, first, end) in enumerate(spans):
        parts += span_parts(author, first, end, spans[n - 1][0] if n else None)
        parts += [("sum", sums[n])] if sums else []
    return parts


def span_values(spans):
    return [{"author": a.hex(), "from": f, "to": t} for a, f, t in spans]


def query(ttl, seed=ALICE, signed_hash=HASH, hash_=HASH):
    origin = node_id(seed)
    signature = key(seed).sign(b"p2p/query/1" + origin + QUESTION + signed_hash)
    parts = [("time to live", u(ttl, 1)), ("origin", origin), ("id", QUESTION), ("hash", hash_),
             ("signature over p2p/query/1, origin, id and hash", signature)]
    values = {"ttl": ttl, "secret_key": seed.hex(), "origin": origin.hex(), "id": QUESTION.hex(),
              "hash": hash_.hex(), "signature": signature.hex()}
    return parts, values


def vectors():
    hello = load("hello", "all")
    body = bytes.fromhex(hello["bytes"])
    values = {k: hello[k] for k in ("version", "agent", "node_name", "observed", "records")}
    yield vector("hello", "hello", 1, [("body, as in hello.json", body)], **values)
    for code, reason in enumerate(["other", "leaving", "duplicate", "full", "banned", "disconnected", "misbehaved"]):
        yield vector(f"bye: {reason}", "bye", 2, mapped({"r": code}), reason=reason)
    for name, n in [("small", 1), ("largest", BIG)]:
        yield vector(f"ping, {name} number", "ping", 3, mapped({"n": n}), n=n)
    yield vector("pong", "pong", 4, mapped({"n": 300}), n=300)
    both = {"records": [RECORD.hex(), LOCAL.hex()]}
    yield vector("join", "join", 6, mapped({}))
    yield vector("forward-join", "forward_join", 7, mapped({"t": 6, "r": [RECORD, LOCAL]}), ttl=6, **both)
    for name, high in [("high", True), ("low", False)]:
        yield vector(f"neighbor, {name} priority", "neighbor", 8, mapped({"h": high}), high=high)
    yield vector("view answer, no and nobody", "view_answer", 9, mapped({"y": False, "r": []}), accepted=False, records=[])
    yield vector("view answer, yes", "view_answer", 9, mapped({"y": True, "r": [RECORD, LOCAL]}), accepted=True, **both)
    yield vector("shuffle", "shuffle", 10, mapped({"i": BIG, "t": 4, "r": [RECORD, LOCAL]}), id=BIG, ttl=4, **both)
    yield vector("reply", "reply", 11, mapped({"i": 300, "r": []}), id=300, records=[])
    for name, hops, course, age, envelope in [("from its author", 1, "tree", 0, ONE),
                                              ("private, far away, a day old", 258, "tree", 86_400_000, PRIVATE),
                                              ("makes the tree anew", 3, "anew", 7, ONE),
                                              ("from an author with two", 1, "doubled", 0, ONE)]:
        bits = {"tree": 0, "anew": 2, "doubled": 1}[course] << 14
        parts = [("course (two bits) and hops", u(hops | bits, 2)),
                 ("age in milliseconds", u(age, 4)), ("envelope, as in envelopes.json", envelope)]
        yield vector(f"push, {name}", "push", 16, parts,
                     hops=hops, age_ms=age, course=course, id=envelope_id(envelope).hex(), envelope=envelope.hex())
    far = envelope_id(ONE)[:32] + u(1000, 8) + u(301000, 8) + u(64, 1)
    for name, ids in [("two", [(envelope_id(ONE), 1, True), (envelope_id(PRIVATE), 255, False)]),
                      ("two of one author", [(envelope_id(ONE), 1, False), (far, 2, True)])]:
        parts = [part for n in range(len(ids)) for part in ihave_line(ids[n], ids[n - 1][0] if n else b"")]
        yield vector(f"ihave, {name}", "ihave", 17, parts,
                     ids=[{"id": i.hex(), "hops": h, "wait": w} for i, h, w in ids])
    yield vector("ihave, none", "ihave", 17, [], ids=[])
    yield vector("graft with an id", "graft", 18, [("id", envelope_id(ONE))], id=envelope_id(ONE).hex())
    yield vector("graft without an id", "graft", 18, [], id=None)
    yield vector("prune", "prune", 19, [])
    wanted = [envelope_id(ONE), envelope_id(PRIVATE)]
    yield vector("iwant, two", "iwant", 26, [("id", i) for i in wanted], ids=[i.hex() for i in wanted])
    # The log of the examples holds the two envelopes of push: one author, one chunk.
    logged = sorted([ONE, PRIVATE], key=lambda e: e[1:33])
    digest = [hashlib.sha256(e).digest()[:16] for e in logged]
    def over(sums):
        return hashlib.sha256(b"".join(sums)).digest()[:16] if sums else bytes(16)
    buckets = []
    for bucket in range(256):
        authors = sorted({e[1:33] for e in logged if e[1] == bucket})
        of = [[d for e, d in zip(logged, digest) if e[1:33] == a] for a in authors]
        buckets.append(over([over([over(digests)]) for digests in of]))
    yield vector("digest of an empty log", "digest", 20, [("sum of the 256 sums", over([bytes(16)] * 256))],
                 sums=[over([bytes(16)] * 256).hex()])
    yield vector("digest of all", "digest", 20, [("sum of the 256 sums", over(buckets))], sums=[over(buckets).hex()])
    yield vector("digest of the buckets", "digest", 20, [("256 sums", b"".join(buckets))],
                 sums=[s.hex() for s in buckets])
    spans = [(node_id(ALICE), 7, 8), (node_id(ALICE), 301000, 301200), (node_id(BOB), 0, BIG)]
    sums = [over([digest[0]]), bytes(range(16)), bytes(range(16, 32))]
    yield vector("ranges, three", "ranges", 21, spans_parts(spans, sums),
                 held=[{**v, "sum": s.hex()} for v, s in zip(span_values(spans), sums)])
    yield vector("ranges, none", "ranges", 21, [], held=[])
    yield vector("pull, three", "pull", 22, [("number", u(77, 4))] + spans_parts(spans),
                 number=77, spans=span_values(spans))
    yield vector("served", "served", 23, [("number", u(77, 4)), ("ranges answered whole", u(1, 2)),
                                         ("the next one below", u(301100, 8))], number=77, done=1, upto=301100)
    for ttl in (1, 16):
        parts, values = query(ttl)
        yield vector(f"query, time to live {ttl}", "query", 32, parts, **values)
    for name, records, called in [("no address", [], None), ("both records", [RECORD, LOCAL], "notes.txt")]:
        body = {"q": QUESTION, "p": node_id(BOB), "r": records}
        if called is not None:
            body["n"] = called
        yield vector(f"answer, {name}", "answer", 33, mapped(body), id=QUESTION.hex(),
                     provider=node_id(BOB).hex(), records=[r.hex() for r in records], name_hint=called)


def read_only():
    yield vector("bye with a reason of a newer version", "bye", 2, mapped({"r": 99}), reason="other")
    yield vector("ping with an unknown field", "ping", 3, mapped({"zz": [1], "n": 7}), n=7)
    yield vector("ping whose number is longer than need be", "ping", 3,
                 [("map of 1", b"\x81"), ('key "n"', pack("n")), ("value", b"\xcf" + u(7, 8))], n=7)


def refused():
    def body(name, kind, data):
        return {"name": name, "bytes": (u(1 + len(data), 4) + u(kind, 1) + data).hex()}
    good_query = b"".join(part for _, part in query(4)[0])
    answer = {"q": QUESTION, "p": node_id(BOB), "r": []}
    yield {"name": "length 0", "bytes": "00000000"}
    yield {"name": "ping of 65537 bytes", "bytes": (u(65537, 4) + b"\x03").hex()}
    yield {"name": "push of 1 MiB + 64 KiB + 1", "bytes": (u((1 << 20) + (64 << 10) + 1, 4) + b"\x10").hex()}
    yield {"name": "unknown kind of 65537 bytes", "bytes": (u(65537, 4) + b"\xff").hex()}
    yield body("hello without a body", 1, b"")
    yield body("bye without a reason", 2, b"\x80")
    yield body("bye whose reason is no byte", 2, pack({"r": 256}))
    yield body("ping without a number", 3, b"\x80")
    yield body("ping with its number twice", 3, b"\x82" + (pack("n") + b"\x07") * 2)
    yield body("ping with a byte behind it", 3, pack({"n": 7}) + b"\x00")
    yield body("pong with a text for its number", 4, pack({"n": "7"}))
    yield body("join without a body", 6, b"")
    yield body("forward-join of nobody said", 7, pack({"t": 1}))
    yield body("neighbor that does not say how much", 8, b"\x80")
    yield body("view answer, neither yes nor no", 9, pack({"r": []}))
    yield body("shuffle that does not say how far", 10, pack({"i": 1, "r": []}))
    yield body("shuffle with a time to live of 256", 10, pack({"i": 1, "t": 256, "r": []}))
    yield body("shuffle of 33 records", 10, pack({"i": 1, "t": 1, "r": [b""] * 33}))
    yield body("reply to nothing", 11, pack({"r": []}))
    yield body("push of one byte", 16, b"\x00")
    yield body("push without an age", 16, u(1, 2))
    yield body("push without an envelope", 16, u(1, 2) + u(0, 4))
    yield body("push of an envelope that is cut off", 16, u(1, 2) + u(0, 4) + ONE[:-1])
    yield body("push with a byte behind the envelope", 16, u(1, 2) + u(0, 4) + ONE + b"\x00")
    line = b"".join(part for _, part in ihave_line((envelope_id(ONE), 1, True), b""))
    yield body("ihave, cut off", 17, line[:-1])
    yield body("ihave with flags of a newer version", 17, u(line[0] | 8, 1) + line[1:])
    yield body("ihave whose first line names no author", 17, u(line[0] | 2, 1) + line[33:])
    yield body("ihave of an id without entries", 17, u(5, 1) + line[1:33] + u(9, 8) + b"\x00\x00\x01")
    yield body("ihave from before its run", 17, u(1, 1) + line[1:33] + u(9, 8) + b"\x0a\x01")
    yield body("ihave with a number longer than need be", 17, u(1, 1) + line[1:33] + u(9, 8) + b"\x81\x00\x01")
    yield body("iwant of 48 bytes", 26, envelope_id(ONE)[:48])
    yield body("graft of 48 bytes", 18, envelope_id(ONE)[:48])
    yield body("graft of 50 bytes", 18, envelope_id(ONE) + b"\x00")
    yield body("prune with a body", 19, b"\x00")
    yield body("digest without a sum", 20, b"")
    yield body("digest of two sums", 20, bytes(32))
    yield body("digest of 15 bytes", 20, bytes(15))
    yield body("digest of 257 sums", 20, bytes(16 * 257))
    span = b"".join(part for _, part in spans_parts([(node_id(ALICE), 7, 9)]))
    yield body("ranges, cut off", 21, span + bytes(15))
    yield body("ranges whose first line names no author", 21, b"\x01" + span[33:] + bytes(16))
    yield body("ranges with flags of a newer version", 21, b"\x02" + span[1:] + bytes(16))
    yield body("ranges, one without seqs", 21, span[:-1] + b"\x00" + bytes(16))
    yield body("ranges, one beyond the last seq", 21, span[:33] + u(BIG, 8) + b"\x01" + bytes(16))
    yield body("pull without a number", 22, bytes(3))
    yield body("pull, cut off", 22, u(1, 4) + span[:-1])
    yield body("served of 13 bytes", 23, bytes(13))
    yield body("served of 15 bytes", 23, bytes(15))
    yield body("query, time to live 0", 32, b"\x00" + good_query[1:])
    yield body("query, time to live 17", 32, b"\x11" + good_query[1:])
    yield body("query of 144 bytes", 32, good_query[:-1])
    yield body("query of 146 bytes", 32, good_query + b"\x00")
    yield body("answer without a provider", 33, pack({"q": QUESTION, "r": []}))
    yield body("answer whose question has 15 bytes", 33, pack({**answer, "q": QUESTION[:15]}))
    yield body("answer whose provider has 31 bytes", 33, pack({**answer, "p": node_id(BOB)[:31]}))
    yield body("answer with three records", 33, pack({**answer, "r": [RECORD] * 3}))
    yield body("answer with a name of 256 bytes", 33, pack({**answer, "n": "n" * 256}))


def main():
    parts, values = query(4, signed_hash=hashlib.sha256(b"another file").digest())
    skipped = [(5, b""), (34, b"\x80"), (255, bytes(range(32)))]
    out = {
        "about": "Frames between two nodes, whole. vectors: written and read so. read_only: read so, written otherwise. "
                 "skipped: kinds that are not known, no reason to close the link. refused: closes the link. "
                 "forged: sound, and closes the link because of its signature.",
        "vectors": list(vectors()),
        "read_only": list(read_only()),
        "skipped": [{"name": f"kind {kind}", **frame(kind, [("body", data)])} for kind, data in skipped],
        "refused": list(refused()),
        "forged": [vector("query whose hash was changed", "query", 32, parts, **values)],
    }
    with open("packets.json", "w", encoding="utf-8") as file:
        json.dump(out, file, indent=1, ensure_ascii=False)
        file.write("\n")


main()
