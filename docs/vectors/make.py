#!/usr/bin/env python3
"""Writes the golden vectors of p2p-wire: a second implementation of its formats, made from their description.

Needs Python 3.9 and the `cryptography` package. Run it in this folder only when a format changes;
`p2p-wire/tests/golden.rs` holds the Rust implementation against the files. The vectors of other crates
(node frames, file transfer) are not made here.
"""
import base64, hashlib, hmac, json
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

P = 2**255 - 19


def u(n, size):
    return n.to_bytes(size, "big")


class Key:
    def __init__(self, seed):
        self.seed = bytes(seed)
        self.key = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.id = self.key.public_key().public_bytes_raw()


ALICE, BOB = Key(range(1, 33)), Key(range(33, 65))


class Fields(list):
    """Annotated bytes: [name, hex] pairs in the order of the wire."""

    def put(self, name, data):
        self.append([name, data.hex()])

    def bytes(self):
        return b"".join(bytes.fromhex(data) for _, data in self)


def signed(fields, tag, key):
    fields.put("signature over the tag and all bytes above", key.key.sign(tag + fields.bytes()))
    return fields


def put_addrs(f, addrs):
    f.put("count of addresses", u(len(addrs), 1))
    for ip, port, file_port in addrs:
        raw = bytes(map(int, ip.split("."))) if "." in ip else ipv6(ip)
        f.put("family", b"\x04" if len(raw) == 4 else b"\x06")
        f.put("ip " + ip, raw)
        f.put(f"port {port}", u(port, 2))
        f.put(f"file port {file_port}", u(file_port, 2))


def ipv6(text):
    import ipaddress
    return ipaddress.IPv6Address(text).packed


# --- envelopes

def envelope(key, run, first, entries):
    f = Fields()
    f.put("version", b"\x02")
    f.put("author", key.id)
    f.put(f"run {run}", u(run, 8))
    f.put(f"first seq {first}", u(first, 8))
    f.put("count of entries", u(len(entries), 1))
    for e in entries:
        topic, payload = e["topic"].encode(), bytes.fromhex(e["payload"])
        f.put(f"time {e['time_ms']} ms", u(e["time_ms"], 8))
        f.put("flags", u(1 if e["recipient"] else 0, 1))
        if e["recipient"]:
            f.put("recipient", bytes.fromhex(e["recipient"]))
        f.put("topic length", u(len(topic), 1))
        f.put("topic", topic)
        f.put("payload length", u(len(payload), 4))
        f.put("payload", payload)
    f.put("signature over the tag and the SHA-256 of all bytes above", sign_envelope(f.bytes(), key))
    return f


def sign_envelope(body, key=ALICE, tag=b"p2p/envelope/2"):
    return key.key.sign(tag + hashlib.sha256(body).digest())


def entry(topic, time_ms, payload, recipient=None):
    return {"topic": topic, "time_ms": time_ms, "recipient": recipient.hex() if recipient else None,
            "payload": payload.hex()}


def envelope_vector(name, key, run, first, entries):
    fields = envelope(key, run, first, entries)
    return {"name": name, "secret_key": key.seed.hex(), "run": run, "first": first, "entries": entries,
            "fields": fields, "bytes": fields.bytes().hex(),
            "digest": hashlib.sha256(fields.bytes()).hexdigest()}


def changed(data, at, value):
    return data[:at] + bytes([value]) + data[at + 1:]


def resigned(body, tag, key=ALICE):
    return body + key.key.sign(tag + body)


def envelopes():
    hello = entry("", 1_700_000_000_000, b"hello")
    two = [entry("chat", 1, b"\x00\xff"), entry("größe", 2, b"")]
    private = entry("", 3, seal_bytes(ALICE.id, 9, BOB, b"only for you", EPHEMERAL), BOB.id)
    good = envelope(ALICE, 7, 7, [hello]).bytes()
    body = good[:-64]
    re = lambda data: (data + sign_envelope(data)).hex()
    refused = [
        ("signed by another key", (body + sign_envelope(body, BOB)).hex()),
        ("signed with another domain tag", (body + sign_envelope(body, tag=b"p2p/addr/1")).hex()),
        ("signed over its bytes, not their hash", resigned(body, b"p2p/envelope/2").hex()),
        ("payload changed after signing", changed(good, len(body) - 1, 0x70).hex()),
        ("version 1", re(changed(body, 0, 1))),
        ("count 0", re(changed(body, 49, 0)[:50])),
        ("count 65", re(changed(body, 49, 65) + body[50:] * 64)),
        ("count says 2, one entry there", re(changed(body, 49, 2))),
        ("first seq below run", re(body[:41] + u(6, 8) + body[49:])),
        ("seqs overflow", re(body[:41] + u(2**64 - 1, 8) + body[49:])),
        ("undefined flag", re(changed(body, 58, 2))),
        ("topic is not UTF-8", re(body[:59] + b"\x01\xff" + body[60:])),
        ("payload length beyond the end", re(changed(body, 63, 6))),
        ("a byte between last entry and signature", re(body + b"\x00")),
        ("a byte behind the signature", (good + b"\x00").hex()),
        ("cut off by one byte", good[:-1].hex()),
    ]
    return {"about": "Signed envelopes. Domain tag p2p/envelope/2. Numbers big-endian.",
            "vectors": [
                envelope_vector("one entry", ALICE, 7, 7, [hello]),
                envelope_vector("bundle of two", BOB, 3, 2**40, two),
                envelope_vector("private entry, payload as in sealed.json", ALICE, 7, 9, [private]),
            ],
            "refused": [{"name": name, "bytes": data} for name, data in refused]}


# --- address records

def record(key, scope, seq, addrs):
    f = Fields()
    f.put("version", b"\x01")
    f.put("id", key.id)
    f.put("scope " + scope, u(["public", "local"].index(scope), 1))
    f.put(f"seq {seq}", u(seq, 8))
    put_addrs(f, addrs)
    return signed(f, b"p2p/addr/1", key)


def record_vector(name, key, scope, seq, addrs):
    fields = record(key, scope, seq, addrs)
    return {"name": name, "secret_key": key.seed.hex(), "scope": scope, "seq": seq,
            "addrs": [{"ip": a[0], "port": a[1], "file_port": a[2]} for a in addrs],
            "fields": fields, "bytes": fields.bytes().hex()}


PUBLIC = [("192.0.2.1", 65432, 65433), ("2001:db8::1", 65432, 0)]


def records():
    good = record(ALICE, "public", 1, PUBLIC[:1]).bytes()
    body, addr = good[:-64], good[43:-64]
    re = lambda data: resigned(data, b"p2p/addr/1").hex()
    mapped = b"\x06" + ipv6("::ffff:192.0.2.1") + addr[5:]
    refused = [
        ("signed by another key", (body + BOB.key.sign(b"p2p/addr/1" + body)).hex()),
        ("seq changed after signing", changed(good, 41, 9).hex()),
        ("version 2", re(changed(body, 0, 2))),
        ("scope 2", re(changed(body, 33, 2))),
        ("nine addresses", re(changed(body, 42, 9)[:43] + b"".join(addr[:5] + u(p, 2) + addr[7:] for p in range(1, 10)))),
        ("address twice", re(changed(body, 42, 2) + addr)),
        ("port 0", re(body[:48] + b"\0\0" + body[50:])),
        ("IPv4-mapped address", re(body[:43] + mapped)),
        ("family 5", re(changed(body, 43, 5))),
        ("a byte between last address and signature", re(body + b"\x00")),
        ("cut off by one byte", good[:-1].hex()),
    ]
    return {"about": "Signed address records. Domain tag p2p/addr/1. Numbers big-endian.",
            "vectors": [
                record_vector("two addresses", ALICE, "public", 1, PUBLIC),
                record_vector("local", BOB, "local", 2**33, [("10.0.0.7", 1, 2)]),
                record_vector("none any more", ALICE, "public", 2, []),
            ],
            "refused": [{"name": name, "bytes": data} for name, data in refused]}


# --- sealed bodies: RFC 9180 sections 4.1, 5.1, 6.1

EPHEMERAL = bytes(range(65, 97))
KEM = b"KEM" + u(0x20, 2)
SUITE = b"HPKE" + u(0x20, 2) + u(1, 2) + u(3, 2)


def extract(salt, label, ikm, suite):
    return hmac.new(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256").digest()


def expand(prk, label, info, size, suite):
    labeled = u(size, 2) + b"HPKE-v1" + suite + label + info
    return hmac.new(prk, labeled + b"\x01", "sha256").digest()[:size]


def montgomery(ed):
    y = int.from_bytes(ed, "little") & (2**255 - 1)
    return ((1 + y) * pow(1 - y, -1, P) % P).to_bytes(32, "little")


def seal_parts(author, seq, recipient, plain, ikm):
    """`ikm` is the sender's 32 random bytes; DeriveKeyPair makes the ephemeral key of them."""
    secret = X25519PrivateKey.from_private_bytes(
        expand(extract(b"", b"dkp_prk", ikm, KEM), b"sk", b"", 32, KEM))
    enc, their = secret.public_key().public_bytes_raw(), montgomery(recipient.id)
    own = X25519PrivateKey.from_private_bytes(hashlib.sha512(recipient.seed).digest()[:32])
    assert own.public_key().public_bytes_raw() == their, "both halves of the map agree"
    dh = secret.exchange(X25519PublicKey.from_public_bytes(their))
    shared = expand(extract(b"", b"eae_prk", dh, KEM), b"shared_secret", enc + their, 32, KEM)
    context = b"\0" + extract(b"", b"psk_id_hash", b"", SUITE) + extract(b"", b"info_hash", b"p2p/sealed/1", SUITE)
    prk = extract(shared, b"secret", b"", SUITE)
    key, nonce = expand(prk, b"key", context, 32, SUITE), expand(prk, b"base_nonce", context, 12, SUITE)
    return their, enc, ChaCha20Poly1305(key).encrypt(nonce, plain, author + u(seq, 8) + recipient.id)


def seal_bytes(*args):
    _, enc, ciphertext = seal_parts(*args)
    return enc + ciphertext


def sealed():
    def vector(name, author, seq, recipient, plain):
        their, enc, ciphertext = seal_parts(author.id, seq, recipient, plain, EPHEMERAL)
        f = Fields()
        f.put("encapsulated key", enc)
        f.put("ciphertext", ciphertext[:-16])
        f.put("tag", ciphertext[-16:])
        return {"name": name, "author": author.id.hex(), "seq": seq, "recipient_secret_key": recipient.seed.hex(),
                "recipient": recipient.id.hex(), "recipient_x25519": their.hex(),
                "aad": (author.id + u(seq, 8) + recipient.id).hex(), "ephemeral_ikm": EPHEMERAL.hex(),
                "plain": plain.hex(), "fields": f, "bytes": f.bytes().hex()}
    return {"about": "Sealed bodies: HPKE base mode (RFC 9180), DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, "
                     "ChaCha20-Poly1305, info p2p/sealed/1. The ephemeral key is DeriveKeyPair(ephemeral_ikm).",
            "vectors": [vector("text", ALICE, 9, BOB, b"only for you"), vector("empty", BOB, 2**63, ALICE, b"")]}


def receipts():
    def vector(name, author, seq, by, payload):
        digest = hashlib.sha256(payload).digest()
        f = Fields()
        f.put("kind: receipt", b"\x02")
        f.put("seq", u(seq, 8))
        f.put("signature of the recipient over tag, author, seq, digest",
              by.key.sign(b"p2p/receipt/1" + author.id + u(seq, 8) + digest))
        return {"name": name, "author": author.id.hex(), "seq": seq, "recipient_secret_key": by.seed.hex(),
                "payload": payload.hex(), "digest": digest.hex(),
                "asked": (b"\x01" + payload).hex(), "not_asked": (b"\x00" + payload).hex(),
                "fields": f, "bytes": f.bytes().hex()}
    return {"about": "Plain texts of private bodies. asked, not_asked: the message; bytes: the receipt for it.",
            "vectors": [vector("text", ALICE, 9, BOB, b"only for you"), vector("empty", BOB, 2**63, ALICE, b"")]}


# --- hello and frames: MessagePack

def pack(value):
    if isinstance(value, dict):
        return u(0x80 | len(value), 1) + b"".join(pack(k) + pack(v) for k, v in value.items())
    if isinstance(value, list):
        return u(0x90 | len(value), 1) + b"".join(map(pack, value))
    if isinstance(value, str):
        data = value.encode()
        return (u(0xA0 | len(data), 1) if len(data) < 32 else b"\xd9" + u(len(data), 1)) + data
    if isinstance(value, bytes):
        return b"\xc4" + u(len(value), 1) + value
    assert 0 <= value < 128
    return u(value, 1)


def hellos():
    addr = record(ALICE, "public", 1, PUBLIC).bytes()

    def vector(name, agent, nick, observed, recs, also=None):
        wire = {"v": 1, "a": agent}
        if nick:
            wire["n"] = nick
        if observed:
            host, port = observed.rsplit(":", 1)
            raw = bytes(map(int, host.split("."))) if "." in host else ipv6(host.strip("[]"))
            wire["o"] = raw + u(int(port), 2)
        if recs:
            wire["r"] = recs
        wire.update(also or {})
        f = Fields()
        f.put(f"map of {len(wire)}", u(0x80 | len(wire), 1))
        for key, value in wire.items():
            f.put(f'key "{key}"', pack(key))
            f.put("value", pack(value))
        return {"name": name, "version": 1, "agent": agent, "node_name": nick, "observed": observed,
                "records": [r.hex() for r in recs], "exact": also is None, "fields": f, "bytes": f.bytes().hex()}
    full = {"v": 1, "a": "p2p/0.1.0"}
    bad = lambda **more: pack({**full, **more}).hex()
    refused = [
        ("version missing", pack({"a": "p2p"}).hex()),
        ("agent empty", bad(a="")),
        ("agent of 65 bytes", bad(a="a" * 65)),
        ("name of 33 bytes", bad(n="n" * 33)),
        ("name with a line feed", bad(n="a\nb")),
        ("name with a bidirectional override", bad(n="a\u202eb")),
        ("name with a space at its end", bad(n="a ")),
        ("observed address of 5 bytes", bad(o=b"\x01\x02\x03\x04\x05")),
        ("three records", bad(r=[b"", b"", b""])),
        ("key twice", (b"\x83" + pack(full)[1:] + pack("v") + pack(1)).hex()),
        ("unknown key twice", (b"\x84" + pack(full)[1:] + (pack("z") + pack(1)) * 2).hex()),
        ("key that is no string", (b"\x83" + pack(full)[1:] + pack(1) + pack(1)).hex()),
        ("a byte behind the map", bad() + "c0"),
        ("an array, not a map", pack([1, "p2p/0.1.0"]).hex()),
        ("extension type", (b"\x83" + pack(full)[1:] + pack("z") + b"\xd4\x00\x00").hex()),
        ("array that claims 4294967295 elements", (b"\x83" + pack(full)[1:] + pack("z") + b"\xdd" + b"\xff" * 4).hex()),
        ("nested 17 deep, the map counted", (b"\x83" + pack(full)[1:] + pack("z") + b"\x91" * 16 + b"\xc0").hex()),
        ("string that is not UTF-8", (b"\x83" + pack(full)[1:] + pack("z") + b"\xa1\xff").hex()),
        ("cut off", bad()[:-2]),
    ]
    return {"about": "Bodies of hello. exact: whether encoding the values gives these very bytes.",
            "vectors": [
                vector("least", "p2p/0.1.0", None, None, []),
                vector("all", "p2p/0.1.0", "Küche", "192.0.2.9:40000", [addr]),
                vector("observed over IPv6", "p2p/0.1.0", None, "[2001:db8::9]:1", []),
                vector("unknown field ignored", "p2p/0.1.0", None, None, [], {"zz": [1, {"q": b"x"}]}),
            ],
            "refused": [{"name": name, "bytes": data} for name, data in refused]}


def frames():
    """Framing alone; kinds and bodies of node links are specified with those."""
    def vector(name, kind, body):
        f = Fields()
        f.put("length of kind and body", u(1 + len(body), 4))
        f.put("kind", u(kind, 1))
        f.put("body", body)
        return {"name": name, "kind": kind, "body": body.hex(), "fields": f, "bytes": f.bytes().hex()}
    refused = [
        ("length 0", "00000000", 65536),
        ("length 65537 where the limit is 65536", "0001000103", 65536),
        ("length 4294967295", "ffffffff", 65536),
    ]
    return {"about": "Frames. refused: the bytes are enough for the receiver to close the link.",
            "vectors": [vector("hello", 1, pack({"v": 1, "a": "p2p/0.1.0"})), vector("empty map", 3, b"\x80"),
                        vector("no body", 255, b""), vector("300 bytes", 200, bytes(i % 256 for i in range(300)))],
            "refused": [{"name": n, "bytes": b, "limit": limit} for n, b, limit in refused]}


# --- tickets

def ticket(key, addrs, file, version=1, what=None):
    f = Fields()
    f.put("version", u(version, 1))
    f.put("id", key.id)
    f.put("what", u(what if what is not None else 0 if not file else ["file", "dir"].index(file["kind"]) + 1, 1))
    put_addrs(f, addrs)
    if file:
        name = file["name"].encode()
        f.put("hash", bytes.fromhex(file["hash"]))
        f.put(f"length {file['length']}", u(file["length"], 8))
        f.put("name length", u(len(name), 1))
        f.put("name", name)
    f.put("checksum", hashlib.sha256(b"p2p/ticket/1" + f.bytes()).digest()[:4])
    return f


def ticket_text(data):
    return "p2p:" + base64.b32encode(data).decode().rstrip("=").lower()


def tickets():
    def vector(name, key, addrs, file):
        fields = ticket(key, addrs, file)
        return {"name": name, "id": key.id.hex(),
                "addrs": [{"ip": a[0], "port": a[1], "file_port": a[2]} for a in addrs], "file": file,
                "fields": fields, "bytes": fields.bytes().hex(), "text": ticket_text(fields.bytes())}
    file = {"kind": "file", "hash": hashlib.sha256(b"x").hexdigest(), "length": 1 << 30, "name": "größe.bin"}
    good = vector("node", ALICE, PUBLIC, None)
    text = good["text"]
    refused = [
        ("not a ticket", "hello", "not a ticket"),
        ("a hash", "ab" * 32, "not a ticket"),
        ("one character changed", text[:10] + ("a" if text[10] != "a" else "b") + text[11:], "mistyped"),
        ("two characters swapped", text[:4] + text[5] + text[4] + text[6:], "mistyped"),
        ("last character lost", text[:-1], "mistyped"),
        ("character outside the alphabet", text[:-1] + "1", "mistyped"),
        ("nothing behind the prefix", "p2p:", "mistyped"),
        ("version 2", ticket_text(ticket(ALICE, PUBLIC, None, version=2).bytes()), "version"),
        ("unknown kind", ticket_text(ticket(ALICE, PUBLIC, None, what=3).bytes()), "content"),
        ("port 0", ticket_text(ticket(ALICE, [("192.0.2.1", 0, 0)], None).bytes()), "addresses"),
    ]
    return {"about": "Tickets. Reading ignores case. text_contains: part of our error text, for people.",
            "vectors": [good, vector("file", BOB, PUBLIC[:1], file),
                        vector("directory, nothing else known", ALICE, [], {**file, "kind": "dir", "name": ""})],
            "refused": [{"name": n, "text": t, "text_contains": part} for n, t, part in refused]}


for name, make in [("envelopes", envelopes), ("records", records), ("sealed", sealed), ("receipts", receipts),
                   ("hello", hellos),
                   ("frames", frames), ("tickets", tickets)]:
    with open(name + ".json", "w", encoding="utf-8") as out:
        json.dump(make(), out, indent=1, ensure_ascii=False)
        out.write("\n")
