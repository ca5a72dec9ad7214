//! Folders, between consoles and with `share` and `get`; `hash`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::util::{Node, Running, Scratch, code, is_hash, keys, lines, p2p, pair, run, stderr, stdout};

/// Paths and contents of what is in a folder; folders end in `/`.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut out, mut folders) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string().replace('\\', "/");
            if path.is_dir() {
                out.insert(format!("{name}/"), Vec::new());
                folders.push(path);
            } else {
                out.insert(name, fs::read(path).unwrap());
            }
        }
    }
    out
}

/// A folder with small and large files, equal ones, and an empty folder: 3,000,000 + 2 × 5 bytes in 4 files.
fn folder(scratch: &Scratch) -> PathBuf {
    let root = scratch.path("album");
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::rename(scratch.file("film.bin", 3_000_000), root.join("film.bin")).unwrap();
    fs::write(root.join("a.txt"), "hello").unwrap();
    fs::write(root.join("sub/b.txt"), "hello").unwrap();
    fs::write(root.join("sub/none"), "").unwrap();
    root
}

#[test]
fn consoles_hand_over_a_folder_by_its_hash_and_parts_of_it() {
    let scratch = Scratch::new();
    let (mut a, mut b) = pair(&scratch);
    let root = folder(&scratch);
    let added = a.ask(&format!("add {}", root.display()));
    assert_eq!((&added["kind"], &added["length"]), (&json!("dir"), &json!(3_000_010)), "{added}");
    let hash = added["hash"].as_str().unwrap();

    // Nobody said that the hash is a folder's.
    let done = b.ask(&format!("req {hash}"));
    assert_eq!((&done["event"], &done["length"]), (&json!("file_done"), &json!(3_000_010)), "{done}");
    let got = PathBuf::from(done["path"].as_str().unwrap());
    assert!(got.ends_with("content/album"), "{done}");
    assert_eq!(tree(&got), tree(&root));

    // One line for the folder, none for its files.
    for node in [&mut a, &mut b] {
        let files = node.ask("files");
        let files = files["files"].as_array().unwrap();
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!((&files[0]["kind"], &files[0]["hash"]), (&json!("dir"), &added["hash"]));
        assert_eq!((&files[0]["state"], &files[0]["have"]), (&json!("shared"), &json!(3_000_010)));
    }

    let part = scratch.path("part");
    let ticket = added["ticket"].as_str().unwrap();
    let done = b.ask(&format!("req {ticket} {} --only sub", part.display()));
    assert_eq!((&done["event"], &done["length"]), (&json!("file_done"), &json!(5)), "{done}");
    assert_eq!(tree(&part).into_keys().collect::<Vec<_>>(), ["sub/", "sub/b.txt", "sub/none"]);
    // Listed for what it is: what is here of it, and how much there is.
    let files = b.ask("files");
    let listed = files["files"].as_array().unwrap();
    let said = |state: &str| listed.iter().find(|file| file["state"] == state).cloned().unwrap_or_default();
    let (whole, some) = (said("shared"), said("partial"));
    assert_eq!((&whole["have"], &whole["length"]), (&json!(3_000_010), &json!(3_000_010)), "{files}");
    assert_eq!((&some["have"], &some["length"]), (&json!(5), &json!(3_000_010)), "{files}");
    let failed = b.ask(&format!("req {ticket} {} --only none", scratch.path("none").display()));
    assert_eq!((&failed["event"], &failed["error"]), (&json!("file_failed"), &json!("no_such_path")));
    assert!(!scratch.path("none").exists());

    // Without its manifest nobody can have it.
    fs::write(scratch.path("b").join("dirs").join(hash), "no manifest").unwrap();
    b.ask("refresh");
    let files = b.ask("files");
    let folders = files["files"].as_array().unwrap().iter().filter(|file| file["kind"] == "dir");
    let states: Vec<_> = folders.map(|folder| (&folder["state"], &folder["have"])).collect();
    assert_eq!(states, [(&json!("gone"), &json!(0)); 2], "{files}");

    assert_eq!(a.ask(&format!("unshare {hash}"))["event"], "ok");
    assert_eq!(a.ask("files")["files"], json!([]));
    assert!(root.join("a.txt").exists());
}

#[test]
fn a_folder_of_which_a_part_is_here_grows_to_the_whole() {
    let scratch = Scratch::new();
    let (mut a, mut b) = pair(&scratch);
    let root = folder(&scratch);
    let added = a.ask(&format!("add {}", root.display()));
    let hash = added["hash"].as_str().unwrap();
    let part = b.ask(&format!("req {hash} --only sub"));
    let part = PathBuf::from(part["path"].as_str().unwrap());
    assert!(part.ends_with("content/album"), "{}", part.display());
    assert!(tree(&part).len() < tree(&root).len());
    let whole = b.ask(&format!("req {hash}"));
    let whole = PathBuf::from(whole["path"].as_str().unwrap());
    assert_eq!((&whole, tree(&whole)), (&part, tree(&root)), "it grows where it is");
}

#[test]
fn share_get_and_list_a_folder() {
    let scratch = Scratch::new();
    let root = folder(&scratch);
    let mut command = p2p(&scratch.path("giver"));
    command.args(["--json", "share"]).arg(&root);
    let mut giver = Running::spawn(command);
    let added = giver.wait("file_added", |line| line.contains("file_added").then(|| line.to_owned()));
    let added: serde_json::Value = serde_json::from_str(&added).unwrap();
    let ticket = added["ticket"].as_str().unwrap();
    let get = |args: &[&str]| {
        let mut command = p2p(&scratch.path("taker"));
        command.args(["--json", "get", ticket]).args(args).current_dir(scratch.path(""));
        run(&mut command)
    };

    let output = get(&["--list"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let mut said = lines(&output);
    let last = said.pop().unwrap();
    keys(&last, &["event", "command", "hash", "files", "length"]);
    assert_eq!(
        (&last["event"], &last["files"], &last["length"]),
        (&json!("folder"), &json!(4), &json!(3_000_010))
    );
    let listed: Vec<_> = said.iter().filter(|line| line["event"] == "folder_entry").collect();
    let paths: Vec<_> = listed.iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["a.txt", "empty", "film.bin", "sub/b.txt", "sub/none"]);
    keys(listed[0], &["event", "path", "kind", "length", "hash", "executable"]);
    assert!(is_hash(&listed[0]["hash"]));

    let output = get(&["-o", "out"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let done = lines(&output).pop().unwrap();
    keys(&done, &["event", "command", "hash", "path", "length", "ms", "sources"]);
    assert_eq!(tree(&scratch.path("out")), tree(&root));
    let output = run(p2p(&scratch.path("other")).args(["get", ticket]).current_dir(scratch.path("giver")));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("album (2.8 MiB) is here"), "{}", stdout(&output));
    assert_eq!(tree(&scratch.path("giver/album")), tree(&root));

    let output = get(&["--only", "../x"]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
}

/// Kills at most; fewer when the folder is complete before.
const KILLS: u64 = 6;

#[test]
fn a_folder_killed_at_random_moments_ends_as_it_is() {
    let scratch = Scratch::new();
    let root = scratch.path("album");
    for number in 0..400 {
        let file = root.join(format!("{}/{number}", number % 20));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, vec![u8::try_from(number % 251).unwrap(); number * 40]).unwrap();
    }
    fs::rename(scratch.file("film.bin", 24 << 20), root.join("film.bin")).unwrap();
    let mut giver = Node::start(&scratch.path("giver"));
    let added = giver.ask(&format!("add {}", root.display()));
    let ticket = added["ticket"].as_str().unwrap();
    let begin = || {
        let mut command = p2p(&scratch.path("taker"));
        command.args(["--json", "get", ticket, "-o", "out"]).current_dir(scratch.path(""));
        Running::spawn(command)
    };
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = seed;
    let (mut ended, mut before) = (false, 0);
    for kill in 0..KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut process = begin();
        // Its own progress says how far the earlier ones came; small files that were complete are so still.
        let told = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let event = line["event"].as_str()?.to_owned();
            let wanted = event == "file_done" || event == "file_progress" && line["files"].is_u64();
            wanted.then(|| (event, line["files_done"].as_u64().unwrap_or(0)))
        };
        let (event, files) = process.wait("progress", told);
        ended = event == "file_done";
        if ended {
            break;
        }
        println!("kill {kill}: {files} files were complete, {before} before");
        before = before.max(files);
        // Not to wait for something: this is the random moment.
        std::thread::sleep(std::time::Duration::from_millis((random >> 33) % 120));
    }
    if !ended {
        let mut last = begin();
        last.wait("the end", |line| line.contains("file_done").then_some(()));
    }
    assert_eq!(tree(&scratch.path("out")), tree(&root));
    assert!(!scratch.path("out (1)").exists());
}

#[cfg(unix)]
#[test]
fn people_hear_what_of_a_folder_is_not_shared() {
    let scratch = Scratch::new();
    let root = folder(&scratch);
    std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
    fs::write(root.join(".hidden"), "x").unwrap();
    let mut command = p2p(&scratch.path("giver"));
    command.arg("share").arg(&root);
    let mut giver = Running::spawn(command);
    let told = giver.wait("a warning", |line| line.starts_with('!').then(|| line.to_owned()));
    assert!(told.contains("2 not shared") && told.contains("link: a symlink"), "{told}");
}

#[test]
fn hash_says_what_others_say() {
    let scratch = Scratch::new();
    let (mut a, _b) = pair(&scratch);
    let root = folder(&scratch);
    let hash = |path: &Path| {
        let output = run(p2p(&scratch.path("none")).args(["--json", "hash"]).arg(path));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        lines(&output).pop().unwrap()
    };
    for path in [root.join("film.bin"), root.join("sub/none"), root] {
        let said = hash(&path);
        let added = a.ask(&format!("add {}", path.display()));
        for key in ["hash", "length", "kind"] {
            assert_eq!(said[key], added[key], "{said}");
        }
        assert!(is_hash(&said["root"]) && is_hash(&said["sha256"]), "{said}");
    }
    // FIPS 180-2, and the root of one block is its SHA-256.
    fs::write(scratch.path("abc"), "abc").unwrap();
    let said = hash(&scratch.path("abc"));
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((&said["sha256"], &said["root"]), (&json!(sha256), &json!(sha256)));
    // The torrent has the same root, and is never written over anything.
    let export = || {
        let output = scratch.path("abc.torrent");
        run(p2p(&scratch.path("none"))
            .args(["--json", "torrent"])
            .arg(scratch.path("abc"))
            .arg("-o")
            .arg(output))
    };
    let exported = export();
    assert_eq!(code(&exported), 0, "{}", stderr(&exported));
    let exported = lines(&exported).pop().unwrap();
    assert_eq!((&exported["hash"], &exported["root"]), (&said["hash"], &said["root"]), "{exported}");
    assert!(fs::read(scratch.path("abc.torrent")).unwrap().starts_with(b"d4:infod9:file treed3:abc"));
    assert_eq!(code(&export()), 1);
    assert!(!scratch.path("none/identity.key").exists());
    assert_eq!(code(&run(p2p(&scratch.path("none")).arg("hash").arg(scratch.path("gone")))), 1);
}
