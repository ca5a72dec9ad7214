//! Manifests of folders, as anybody may write them; and which of their paths are asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_files::{Entry, ManifestReader, ManifestWriter, Selection};

fuzz_target!(|data: &[u8]| {
    let Ok(reader) = ManifestReader::new(data) else { return };
    let entries: Result<Vec<Entry>, _> = reader.collect();
    let Ok(entries) = entries else { return };
    let mut writer = ManifestWriter::new(Vec::new()).expect("a vector takes everything");
    for entry in &entries {
        let path = std::path::Path::new(entry.path.as_str());
        assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
        writer.push(entry).expect("it was read in this order");
    }
    // There is one way to write it.
    assert_eq!(writer.finish().expect("a vector takes everything"), data);
    if let Some(first) = entries.first() {
        let selection = Selection::of([first.path.as_str()]).expect("one path of a manifest");
        assert!(selection.takes(&first.path));
    }
});
