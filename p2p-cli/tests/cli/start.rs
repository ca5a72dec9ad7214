//! Start and end: the first line, what keeps a node from starting, and how it leaves.

use std::fs;
use std::net::TcpListener;
#[cfg(unix)]
use std::net::TcpStream;
#[cfg(unix)]
use std::process::Command;
#[cfg(unix)]
use std::time::Instant;

use serde_json::Value;

#[cfg(unix)]
use crate::util::{DEADLINE, json_event};
use crate::util::{Node, Running, Scratch, bare, code, is_hash, keys, lines, p2p, run, stderr, stdout};

#[test]
fn the_first_line_is_ready_and_the_identity_stays() {
    let scratch = Scratch::new();
    let output = run(p2p(&scratch.path("d")).arg("--json"));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = lines(&output);
    let ready = &said[0];
    keys(ready, &["event", "id", "listen", "files", "api", "ticket", "version"]);
    assert_eq!(ready["event"], "ready");
    assert!(is_hash(&ready["id"]), "{ready}");
    for ports in ["listen", "files"] {
        let addr = ready[ports][0].as_str().unwrap();
        assert!(addr.starts_with("127.0.0.1:") && !addr.ends_with(":0"), "{ready}");
    }
    assert!(ready["ticket"].as_str().unwrap().starts_with("p2p:"), "{ready}");
    assert_eq!(ready["api"], Value::Null);
    assert_eq!(ready["version"], env!("CARGO_PKG_VERSION"));
    let again = run(p2p(&scratch.path("d")).arg("--json"));
    assert_eq!(lines(&again)[0]["id"], ready["id"]);
}

#[test]
fn the_end_of_input_ends_it_as_exit_does() {
    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("d"));
    node.process.close_stdin();
    let bye = node.event("bye", |_| true);
    assert_eq!(bye, serde_json::json!({"event": "bye", "command": "exit"}));
    assert_eq!(node.process.exit_code(), 0);
}

#[cfg(unix)]
#[test]
fn signals_end_it_with_everything_saved() {
    use nix::sys::signal::Signal;
    for (signal, command) in [
        (Signal::SIGTERM, None),
        (Signal::SIGINT, None),
        (Signal::SIGHUP, None),
        (Signal::SIGTERM, Some("daemon")),
        (Signal::SIGHUP, Some("daemon")),
    ] {
        let scratch = Scratch::new();
        let mut node = Node::start(&scratch.path("peer"));
        let mut process = p2p(&scratch.path("d"));
        process.args(["--json", "--connect", &node.addr]).args(command);
        let mut process = Running::spawn(process);
        process.wait("peer_up", |line| line.contains("peer_up").then_some(()));
        process.signal(signal);
        assert_eq!(process.exit_code(), 0, "{signal} {command:?}: {}", process.log());
        let state = fs::read(scratch.path("d").join("state.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        assert!(state.to_string().contains(&node.id), "{state}");
        let goodbye = node.event("peer_down", |_| true);
        assert_eq!(goodbye["reason"], "it leaves", "{signal} {command:?}");
    }
}

/// The shell tells its jobs that the terminal is gone, and the system tells them once more.
#[cfg(unix)]
#[test]
fn a_second_hangup_makes_the_end_no_shorter() {
    use std::io::{Read as _, Write as _};
    use std::process::Stdio;

    use nix::sys::signal::{Signal, kill};

    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("peer"));
    let mut command = p2p(&scratch.path("d"));
    command.args(["--json", "--connect", &node.addr]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    node.event("peer_up", |_| true);
    // Their answers are far more than a pipe and all queues hold, so it ends only once they are read.
    child.stdin.as_mut().unwrap().write_all("help\n".repeat(2_000).as_bytes()).unwrap();
    let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(id, Signal::SIGHUP).unwrap();
    node.event("peer_down", |event| event["reason"] == "it leaves");
    kill(id, Signal::SIGHUP).unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(said.ends_with("{\"event\":\"bye\"}\n"), "{}", &said[said.len().saturating_sub(200)..]);
}

#[cfg(unix)]
#[test]
fn a_hangup_that_is_ignored_at_the_start_stays_ignored() {
    use nix::sys::signal::Signal;
    let scratch = Scratch::new();
    let program = p2p(&scratch.path("d"));
    // As `nohup` does it.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    command.arg(program.get_program()).args(program.get_args()).arg("--json");
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut process = Running::spawn(command);
    process.wait("ready", |line| line.contains("ready").then_some(()));
    process.signal(Signal::SIGHUP);
    // A signal that is handled is handled before what is typed after it is answered, and then nothing is.
    for _ in 0..100 {
        process.type_bytes(b"id");
        process.wait("an answer", |line| line.contains("\"command\":\"id\"").then_some(()));
    }
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit_code(), 0);
}

/// A reader that stopped reading holds up neither the node nor its end.
#[cfg(unix)]
#[test]
fn a_reader_that_does_not_read_cannot_keep_it() {
    use std::io::{Read as _, Write as _};
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, kill};

    let scratch = Scratch::new();
    let mut command = p2p(&scratch.path("d"));
    let mut child = command.arg("--json").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    // Their answers are far more than a pipe and all queues hold.
    child.stdin.as_mut().unwrap().write_all("help\n".repeat(2_000).as_bytes()).unwrap();
    let asked = Instant::now();
    kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
}

/// Nor does one that stopped reading the log.
#[cfg(unix)]
#[test]
fn a_log_that_nobody_reads_cannot_keep_it() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::Stdio;

    use nix::sys::signal::{Signal, kill};

    let scratch = Scratch::new();
    let mut command = p2p(&scratch.path("d"));
    command.args(["--json", "-vvvv"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut input = child.stdin.take().unwrap();
    // Each is logged several times: far more than a pipe holds.
    input.write_all("msg hello\n".repeat(2_000).as_bytes()).unwrap();
    let mut sent = 0;
    while sent < 2_000 {
        let answer = answers.next().expect("it goes on").unwrap();
        sent += usize::from(answer.contains("\"sent\""));
    }
    kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    // The rest of the output, but none of the log.
    answers.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_taken_port_is_exit_2_and_says_which() {
    let scratch = Scratch::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for option in ["--port", "--file-port"] {
        let other = if option == "--port" { "--file-port" } else { "--port" };
        let output = run(bare()
            .args(["--host", "127.0.0.1", "--no-upnp", "--json", option, &port, other, "0", "--data"])
            .arg(scratch.path("d")));
        assert_eq!(code(&output), 2, "{option}");
        assert!(stderr(&output).contains(&port), "{}", stderr(&output));
        assert_eq!(lines(&output)[0]["error"], "port_in_use");
    }
}

#[test]
fn a_second_process_on_the_same_data_is_exit_2() {
    let scratch = Scratch::new();
    let _first = Node::start(&scratch.path("d"));
    let output = run(p2p(&scratch.path("d")).arg("--json"));
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("another node runs on"), "{}", stderr(&output));
    assert_eq!(lines(&output)[0]["error"], "in_use");
}

#[test]
fn a_damaged_state_file_is_moved_aside_with_a_warning() {
    let scratch = Scratch::new();
    let data = scratch.path("d");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("state.json"), b"{\"version\":1,\"peers\":[{\"id\":").unwrap();
    let mut node = Node::start(&data);
    let warning = node.event("warning", |_| true);
    assert!(warning["text"].as_str().unwrap().contains("state.json"), "{warning}");
    let aside = fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.contains(".corrupt-"));
    assert!(aside.is_some_and(|name| name.starts_with("state.json")));
}

#[test]
fn numbers_that_cannot_be_reserved_are_told_to_who_sends_and_logged_once() {
    let scratch = Scratch::new();
    let data = scratch.path("d");
    fs::create_dir_all(data.join("seq")).unwrap();
    let mut node = Node::start(&data);
    for _ in 0..3 {
        assert_eq!(node.ask("msg hello")["error"], "storage");
    }
    node.ask("exit");
    assert_eq!(node.process.exit_code(), 1);
    let log = node.process.log();
    assert_eq!(log.matches("numbers could not be reserved").count(), 1, "{log}");
}

#[test]
fn a_damaged_identity_is_never_replaced() {
    let scratch = Scratch::new();
    let data = scratch.path("d");
    fs::create_dir(&data).unwrap();
    let key = data.join("identity.key");
    fs::write(&key, b"half a ke").unwrap();
    #[cfg(unix)]
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let output = run(p2p(&data).arg("--json"));
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("identity.key"), "{}", stderr(&output));
    assert_eq!(lines(&output)[0]["error"], "identity");
    assert_eq!(fs::read(&key).unwrap(), b"half a ke");
}

#[test]
fn command_line_beats_environment_beats_file() {
    let scratch = Scratch::new();
    let config = scratch.path("p2p.toml");
    fs::write(&config, "name = \"from file\"\njson = true\nno-upnp = true\n").unwrap();
    let name = |env: Option<&str>, typed: Option<&str>| {
        let mut command = p2p(&scratch.path("d"));
        command.arg("--config").arg(&config).arg("id");
        command.envs(env.map(|value| ("P2P_NAME", value)));
        command.args(typed.map(|value| format!("--name={value}")));
        let output = run(&mut command);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let said = lines(&output);
        keys(&said[0], &["event", "command", "id", "name", "addrs", "ticket"]);
        said[0]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(name(None, None), "from file");
    assert_eq!(name(Some("from env"), None), "from env");
    assert_eq!(name(Some("from env"), Some("typed")), "typed");
}

#[test]
fn what_the_config_file_gets_wrong_is_named() {
    let scratch = Scratch::new();
    let config = scratch.path("p2p.toml");
    for (text, named) in
        [("prot = 1", "prot"), ("port = \"x\"", "port"), ("config = \"a\"", "config"), ("a = [", "p2p.toml")]
    {
        fs::write(&config, text).unwrap();
        let output = run(p2p(&scratch.path("d")).arg("--config").arg(&config));
        assert_eq!(code(&output), 2, "{text}");
        assert!(stderr(&output).contains(named), "{text}: {}", stderr(&output));
    }
    let output = run(p2p(&scratch.path("d")).arg("--config").arg(scratch.path("none")));
    assert_eq!(code(&output), 2);
}

#[test]
fn bad_usage_is_exit_2() {
    let scratch = Scratch::new();
    for args in [
        &["--secret-file", "x"][..],
        &["--api", "127.0.0.1:0"],
        &["--connect", "a b"],
        &["--name", "a name that is longer than 32 bytes"],
        &["--port", "65536"],
        &["--frobnicate"],
        &["frobnicate"],
        &["get"],
        &["get", "abc"],
        &["get", "p2p:abc"],
        &["share"],
        &["doctor"],
    ] {
        let output = run(p2p(&scratch.path("d")).args(args));
        assert_eq!(code(&output), 2, "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn papers_need_no_node() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = run(p2p(&scratch.path("d")).args(["completions", shell]));
        assert!(code(&output) == 0 && stdout(&output).contains("p2p"), "{shell}");
    }
    let output = run(p2p(&scratch.path("d")).arg("man"));
    assert!(
        stdout(&output).starts_with(".ie") && stdout(&output).contains("file\\-port"),
        "{}",
        stdout(&output)
    );
    assert!(!scratch.path("d").exists());
}

#[test]
fn a_python_p2p_list_is_imported() {
    let scratch = Scratch::new();
    let list = scratch.path("old.json");
    fs::write(&list, r#"["192.0.2.1", "192.0.2.2"]"#).unwrap();
    let output = run(p2p(&scratch.path("d")).arg("--json").arg("import").arg(&list));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = lines(&output);
    let loaded = said.last().unwrap();
    keys(loaded, &["event", "command", "path", "peers", "skipped"]);
    assert_eq!((&loaded["command"], &loaded["peers"]), (&"import".into(), &2.into()));
    assert_eq!(loaded["skipped"], 0);
    fs::write(&list, r#"["127.0.0.1", "nonsense", 5]"#).unwrap();
    let output = run(p2p(&scratch.path("d")).arg("import").arg(&list));
    let told = format!("1 peer loaded from {}; 2 entries made no sense and were left out\n", list.display());
    assert_eq!((code(&output), stdout(&output)), (0, told));
    let state = fs::read_to_string(scratch.path("d").join("state.json")).unwrap();
    assert!(state.contains("192.0.2.1"), "{state}");
    let output = run(p2p(&scratch.path("d")).arg("--json").arg("import").arg(scratch.path("none")));
    assert_eq!(code(&output), 1);
    assert_eq!(lines(&output).last().unwrap()["error"], "not_loaded");
}

#[test]
fn a_data_directory_that_cannot_be_used_is_told_with_what_to_do() {
    let scratch = Scratch::new();
    let data = scratch.path("d");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("log"), "no directory").unwrap();
    let output = run(p2p(&data).arg("--json"));
    assert_eq!((code(&output), &lines(&output)[0]["error"]), (1, &"data_dir".into()));
    assert!(stderr(&output).contains("choose another directory with --data"), "{}", stderr(&output));
}

// How much a pipe holds is known of Linux.
#[cfg(target_os = "linux")]
#[test]
fn what_nobody_read_is_told_at_the_end() {
    use std::io::Write as _;

    let scratch = Scratch::new();
    let mut node = Node::start(&scratch.path("node"));
    let (reader, mut writer) = std::io::pipe().unwrap();
    // Full before the program starts.
    writer.write_all(&[0; 1 << 16]).unwrap();
    let log = scratch.path("stderr");
    let mut command = p2p(&scratch.path("d"));
    command.args(["--connect", &node.addr, "daemon"]).stdout(writer).stderr(fs::File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    node.event("peer_up", |_| true);
    let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(reader);
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("were not written"), "{said}");
}

/// With 64 descriptors, of which it needs some itself.
#[cfg(unix)]
#[test]
fn a_node_that_has_no_descriptors_left_takes_links_once_some_are_free() {
    let scratch = Scratch::new();
    let plain = p2p(&scratch.path("few"));
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(plain.get_program());
    limited.args(plain.get_args()).args(["--json", "--verbose", "daemon"]);
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let mut node = Running::spawn(limited);
    let ready = node.wait("ready", json_event("ready", |_| true));
    let addr = ready["listen"][0].as_str().unwrap();
    let held: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let until = Instant::now() + DEADLINE;
    while !node.log().contains("cannot accept a connection") {
        assert!(Instant::now() < until, "it never ran out of them:\n{}", node.log());
        std::thread::yield_now();
    }
    drop(held);
    let output = run(p2p(&scratch.path("other")).args(["--connect", addr, "send", "still there?"]));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    node.wait("the message", json_event("message", |message| message["text"] == "still there?"));
}
