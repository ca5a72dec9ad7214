#!/usr/bin/env python3
"""Writes files.json: hashes and frames of p2p-files/1, from the text of the specification, without the Rust code."""

import hashlib
import json
import os
import struct

BLOCK = 16384


def sha(data):
    return hashlib.sha256(data).digest()


def content(size):
    return bytes((7 * i + 3) % 251 for i in range(size))


def levels(data):
    """All levels of the tree, leaves first; none for no data."""
    nodes = [sha(data[i:i + BLOCK]) for i in range(0, len(data), BLOCK)]
    if not nodes:
        return []
    while len(nodes) & (len(nodes) - 1):
        nodes.append(bytes(32))
    out = [nodes]
    while len(nodes) > 1:
        nodes = [sha(nodes[i] + nodes[i + 1]) for i in range(0, len(nodes), 2)]
        out.append(nodes)
    return out


def root(data):
    tree = levels(data)
    return tree[-1][0] if tree else bytes(32)


def file_hash(tag, length, root):
    return sha(tag + struct.pack(">Q", length) + root)


def frame(name, sender, fields, **more):
    body = b"".join(part for _, part in fields)
    fields = [("length of what follows", struct.pack(">I", len(body)))] + fields
    return {
        "name": name, "sender": sender, **more,
        "fields": [[label, part.hex()] for label, part in fields],
        "bytes": b"".join(part for _, part in fields).hex(),
    }


def run_frame(name, size, first, count):
    data = content(size)
    tree = levels(data)
    height = min(count.bit_length() - 1, len(tree) - 1)
    index = first >> height
    proof = []
    for nodes in tree[height:-1]:
        proof.append(nodes[index ^ 1])
        index //= 2
    part = data[first * BLOCK:(first + count) * BLOCK]
    fields = [("kind", b"\x83"), ("first", struct.pack(">Q", first)), ("count", bytes([count])),
              ("hashes", bytes([len(proof)]))]
    fields += [(f"proof {i}", node) for i, node in enumerate(proof)]
    fields += [("data", part)]
    return frame(name, "provider", fields, file_size=size, first=first, count=count)


hashes = []
for size in [0, 1, 64, 16383, 16384, 16385, 32768, 32769, 40000, 1048575, 1048576, 1048577, 3145733]:
    data = content(size)
    hashes.append({"size": size, "root": root(data).hex(),
                   "file_hash": file_hash(b"p2p/file/1", size, root(data)).hex(),
                   "dir_hash": file_hash(b"p2p/dir/1", size, root(data)).hex()})

h = file_hash(b"p2p/file/1", 16385, root(content(16385)))
frames = [
    frame("open", "requester", [("kind", b"\x01"), ("hash", h)], hash=h.hex()),
    frame("get, one block", "requester", [("kind", b"\x02"), ("first", struct.pack(">Q", 1)), ("count", b"\x01")],
          first=1, count=1),
    frame("get, a whole chunk far in", "requester",
          [("kind", b"\x02"), ("first", struct.pack(">Q", 64 << 20)), ("count", b"\x40")], first=64 << 20, count=64),
    frame("have, of the first chunk on, none known", "requester",
          [("kind", b"\x03"), ("first", bytes(8)), ("known", bytes(4))], first=0, known=0),
    frame("have, from chunk 262144 on, 300 known", "requester",
          [("kind", b"\x03"), ("first", struct.pack(">Q", 262144)), ("known", struct.pack(">I", 300))],
          first=262144, known=300),
    frame("part of a file", "provider",
          [("kind", b"\x85"), ("tag", b"\x00"), ("length", struct.pack(">Q", 16385)), ("root", root(content(16385)))],
          part=True, tag=0, length=16385, root=root(content(16385)).hex()),
    frame("held, chunks 8, 9 and 17 of 18", "provider",
          [("kind", b"\x86"), ("first", struct.pack(">Q", 8)), ("bits", b"\xc0\x40")], first=8, bits="c040"),
    frame("info of a file", "provider",
          [("kind", b"\x81"), ("tag", b"\x00"), ("length", struct.pack(">Q", 16385)), ("root", root(content(16385)))],
          tag=0, length=16385, root=root(content(16385)).hex()),
    frame("info of an empty file", "provider",
          [("kind", b"\x81"), ("tag", b"\x00"), ("length", bytes(8)), ("root", bytes(32))],
          tag=0, length=0, root=bytes(32).hex()),
    frame("not found", "provider", [("kind", b"\x82")]),
    run_frame("run, the last block of two", 16385, 1, 1),
    run_frame("run, the last block of three: its sibling is padding", 32769, 2, 1),
    run_frame("run, two blocks of which one is padding", 32769, 2, 2),
    run_frame("run, a whole small file", 64, 0, 64),
    frame("error: changed", "provider", [("kind", b"\x84"), ("code", b"\x01")], code=1),
    frame("error: busy", "provider", [("kind", b"\x84"), ("code", b"\x02")], code=2),
    frame("error: bad request", "provider", [("kind", b"\x84"), ("code", b"\x03")], code=3),
]

refused = [
    frame("empty frame", "either", []),
    frame("open with 31 bytes", "requester", [("kind", b"\x01"), ("hash", h[:31])]),
    frame("open with 33 bytes", "requester", [("kind", b"\x01"), ("hash", h + b"\x00")]),
    frame("get without count", "requester", [("kind", b"\x02"), ("first", bytes(8))]),
    frame("have without known", "requester", [("kind", b"\x03"), ("first", bytes(8))]),
    frame("held from a requester", "requester", [("kind", b"\x86"), ("first", bytes(8)), ("bits", b"\x80")]),
    frame("held without first", "provider", [("kind", b"\x86"), ("body", bytes(7))]),
    frame("part without root", "provider", [("kind", b"\x85"), ("body", bytes(9))]),
    frame("info from a requester", "requester", [("kind", b"\x81"), ("body", bytes(41))]),
    frame("info without root", "provider", [("kind", b"\x81"), ("body", bytes(9))]),
    frame("info with an unknown tag", "provider", [("kind", b"\x81"), ("tag", b"\x02"), ("rest", bytes(40))]),
    frame("not found with a body", "provider", [("kind", b"\x82"), ("body", b"\x00")]),
    frame("run without a head", "provider", [("kind", b"\x83"), ("body", bytes(9))]),
    frame("error without a code", "provider", [("kind", b"\x84")]),
    frame("open from a provider", "provider", [("kind", b"\x01"), ("hash", h)]),
]

skipped = [frame("unknown kind", "either", [("kind", b"\x55"), ("body", b"whatever")])]

out = {
    "about": "p2p-files/1. Numbers big-endian. Byte i of a file of a given size is (7*i + 3) mod 251. file_hash and dir_hash: "
             "SHA-256(tag || length u64 || root), tags p2p/file/1 and p2p/dir/1. refused: ends the connection. skipped: ignored.",
    "hashes": hashes, "frames": frames, "refused": refused, "skipped": skipped,
}
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "files.json")
with open(path, "w") as f:
    json.dump(out, f, indent=1)
    f.write("\n")
