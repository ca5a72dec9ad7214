#!/usr/bin/env python3
"""Writes manifests.json: manifests of folders, from the text of the specification, without the Rust code."""

import hashlib
import json
import os
import struct

from make_files import content, file_hash, root


def number(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7f | 0x80])
        value >>= 7
    return out + bytes([value])


def entry(before, path, kind, size=None, shared=None):
    """The parts of one entry; `shared` other than it must be makes it one to refuse."""
    path = path if isinstance(path, bytes) else path.encode()
    if shared is None:
        shared = len(os.path.commonprefix([before, path]))
    parts = [("kind", bytes([kind])), ("shared", number(shared)), ("rest", number(len(path) - shared)),
             ("bytes of the path", path[shared:])]
    if size is not None:
        data = content(size)
        parts += [("length", number(size)), ("hash", file_hash(b"p2p/file/1", size, root(data)))]
    return parts


def manifest(entries):
    fields, before = [("version", b"\x01")], b""
    for path, kind, *size in entries:
        fields += entry(before, path, kind, *size)
        before = path if isinstance(path, bytes) else path.encode()
    return fields


def joined(fields):
    return b"".join(part for _, part in fields)


def vector(name, entries):
    fields = manifest(entries)
    data = joined(fields)
    return {
        "name": name,
        "entries": [{"path": path, "kind": ["file", "executable", "empty folder"][kind],
                     **({"length": size[0]} if size else {})} for path, kind, *size in entries],
        "fields": [[label, part.hex()] for label, part in fields],
        "bytes": data.hex(),
        "hash": file_hash(b"p2p/dir/1", len(data), root(data)).hex(),
        "total": sum(size[0] for _, _, *size in entries if size),
    }


vectors = [
    vector("nothing", []),
    vector("one empty file", [("a", 0, 0)]),
    vector("one of each", [("bin/tool", 1, 11), ("empty", 2), ("notes/a.txt", 0, 5), ("notes/b.txt", 0, 16385)]),
    vector("in order name by name", [("a/b", 0, 1), ("a/c/d", 0, 1), ("a b", 0, 1), ("a.txt", 0, 1), ("b", 0, 1)]),
    vector("a character in two parts", [("gr\u00e9", 0, 1), ("gr\u00ea", 0, 1)]),
]

FILE = joined(entry(b"", "x", 0, 1))[4:]
refused = [
    ("no bytes", b""),
    ("version 2", b"\x02"),
    ("kind 3", b"\x01\x03\x00\x01a"),
    ("cut off", joined(manifest([("a", 0, 1)]))[:-1]),
    ("twice", joined(manifest([("a", 0, 1)])) + joined(entry(b"a", "a", 0, 1))),
    ("out of order", joined(manifest([("b", 0, 1)])) + joined(entry(b"b", "a", 0, 1))),
    ("out of order, though not as bytes", joined(manifest([("a b", 0, 1), ("a/b", 0, 1)]))),
    ("below a file", joined(manifest([("a", 0, 1), ("a/b", 0, 1)]))),
    ("below an empty folder", joined(manifest([("a", 2), ("a/b", 0, 1)]))),
    ("less shared than could be", joined(manifest([("aa", 0, 1)])) + joined(entry(b"aa", "ab", 0, 1, shared=0))),
    ("more shared than there is", b"\x01\x00\x01\x01a" + FILE),
    ("a longer number", b"\x01\x00\x00\x81\x00a" + FILE),
    ("an empty file of one byte", b"\x01\x00\x00\x01a\x01" + file_hash(b"p2p/file/1", 0, bytes(32))),
    ("a length above 2^48", b"\x01\x00\x00\x01a" + number(2**48 + 1) + bytes(32)),
]
for path in ["", "/a", "a/", "a//b", "../a", "a/../b", ".", ".hidden", "a/.git", "a\\b", "C:a", "nul.txt", "a ",
             "a.", "a\n", "a\0b", "a\u202eb", "e\u0301", "a" * 256, "/".join(["a"] * 65), b"a\xff"]:
    name = path if isinstance(path, str) else path.decode("latin1")
    refused.append((f"the path {name[:20]!r}", joined(manifest([(path, 0, 1)]))))

out = {
    "about": "Manifests of folders. Byte i of a file of a given length is (7*i + 3) mod 251. refused: whole.",
    "vectors": vectors,
    "refused": [{"name": name, "bytes": data.hex()} for name, data in refused],
}
if __name__ == "__main__":
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "manifests.json"), "w") as f:
        json.dump(out, f, indent=1, ensure_ascii=True)
        f.write("\n")
