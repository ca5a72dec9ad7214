//! Holds the manifest of folders against `docs/vectors/manifests.json`, which was written by a second implementation
//! (`docs/vectors/make_manifests.py`); a difference is a change of the format.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod util;

use data_encoding::HEXLOWER;
use p2p_files::{
    Entry, EntryKind, EntryPath, Info, Kind, ManifestError, ManifestReader, ManifestWriter, TreeHasher,
};
use serde_json::Value;

fn vectors() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors/manifests.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn info_of(data: &[u8]) -> Info {
    let mut hasher = TreeHasher::new();
    hasher.push(data, |_, _| Ok(())).unwrap();
    hasher.finish(|_, _| Ok(())).unwrap()
}

fn entry(value: &Value) -> Entry {
    let path = EntryPath::parse(value["path"].as_str().unwrap()).unwrap();
    let kind = match value["kind"].as_str().unwrap() {
        "empty folder" => EntryKind::EmptyFolder,
        kind => {
            let length = value["length"].as_u64().unwrap();
            let data: Vec<u8> = (0..length).map(|i| u8::try_from((7 * i + 3) % 251).unwrap()).collect();
            EntryKind::File { length, hash: info_of(&data).hash(), executable: kind == "executable" }
        }
    };
    Entry { path, kind }
}

fn read(bytes: &[u8]) -> Result<Vec<Entry>, ManifestError> {
    ManifestReader::new(bytes)?.collect()
}

#[test]
fn manifests_are_the_written_ones() {
    for vector in vectors()["vectors"].as_array().unwrap() {
        let name = &vector["name"];
        let entries: Vec<_> = vector["entries"].as_array().unwrap().iter().map(entry).collect();
        let mut writer = ManifestWriter::new(Vec::new()).unwrap();
        entries.iter().for_each(|entry| writer.push(entry).unwrap());
        assert_eq!(writer.total(), vector["total"].as_u64().unwrap(), "{name}");
        let written = writer.finish().unwrap();
        assert_eq!(HEXLOWER.encode(&written), vector["bytes"].as_str().unwrap(), "{name}");
        assert_eq!(read(&written).unwrap(), entries, "{name}");
        let info = Info { kind: Kind::Dir, ..info_of(&written) };
        assert_eq!(info.hash().to_string(), vector["hash"].as_str().unwrap(), "{name}");
        let fields = vector["fields"].as_array().unwrap().iter().map(|field| bytes(&field[1]));
        assert_eq!(fields.collect::<Vec<_>>().concat(), written, "{name}");
    }
}

#[test]
fn what_is_no_manifest_is_refused() {
    for vector in vectors()["refused"].as_array().unwrap() {
        assert!(read(&bytes(&vector["bytes"])).is_err(), "{}", vector["name"]);
    }
}
