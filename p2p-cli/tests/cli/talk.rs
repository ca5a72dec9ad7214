//! Nodes that meet and talk.

use serde_json::{Value, json};

use crate::util::{Node, Running, Scratch, code, keys, lines, p2p, pair, run, stderr};

#[test]
fn two_nodes_meet_talk_and_part() {
    let scratch = Scratch::new();
    let mut a = Node::start(&scratch.path("a"));
    let mut b = Node::start_with(&scratch.path("b"), &["--name", "bo\u{e4}"]);
    let answer = a.ask(&format!("connect {}", b.addr));
    keys(&answer, &["event", "command", "id", "addr", "already"]);
    assert_eq!(
        (&answer["event"], &answer["id"], &answer["already"]),
        (&json!("connected"), &json!(b.id), &json!(false))
    );
    let up = a.event("peer_up", |_| true);
    keys(&up, &["event", "id", "addr", "direction", "path", "name"]);
    assert_eq!((&up["id"], &up["direction"], &up["name"]), (&json!(b.id), &json!("out"), &json!("bo\u{e4}")));
    let up = b.event("peer_up", |_| true);
    assert_eq!((&up["id"], &up["direction"], &up["name"]), (&json!(a.id), &json!("in"), &Value::Null));
    assert_eq!(a.ask(&format!("connect {}", b.ticket))["already"], true);

    let peers = a.ask("peers");
    let peer = &peers["peers"][0];
    keys(peer, &["id", "name", "addr", "state", "direction", "rtt_ms", "last_heard", "path", "agent"]);
    assert_eq!(
        (&peer["id"], &peer["state"], &peer["path"]),
        (&json!(b.id), &json!("connected"), &json!("direct"))
    );

    let sent = a.ask("msg it's \"quoted\", grüße");
    assert_eq!((&sent["event"], &sent["queued_links"]), (&json!("sent"), &json!(1)));
    let heard = b.event("message", |_| true);
    keys(&heard, &["event", "pos", "author", "seq", "topic", "private", "late", "time", "text"]);
    assert_eq!((&heard["text"], &heard["author"]), (&json!("it's \"quoted\", grüße"), &json!(a.id)));
    assert_eq!(
        (&heard["seq"], &heard["private"], &heard["topic"]),
        (&sent["seq"], &json!(false), &json!(""))
    );
    assert!(heard["time"].as_str().unwrap().ends_with('Z'), "{heard}");

    let gone = a.ask(&format!("disconnect {}", &b.id[..8]));
    assert_eq!(gone, json!({"event": "ok", "command": "disconnect", "id": b.id}));
    let down = b.event("peer_down", |_| true);
    keys(&down, &["event", "id", "reason"]);
    assert_eq!(down["id"], *a.id);
}

#[test]
fn the_same_text_twice_arrives_twice_and_bytes_arrive_as_they_are() {
    let scratch = Scratch::new();
    let (mut a, mut b) = pair(&scratch);
    for _ in 0..2 {
        a.ask("msg again");
    }
    let first = b.event("message", |m| m["text"] == "again");
    let second = b.event("message", |m| m["text"] == "again");
    assert_ne!(first["seq"], second["seq"]);
    a.process.type_bytes(b"msg \xff\xfe\x00");
    let heard = b.event("message", |m| m["data"].is_string());
    assert_eq!((&heard["data"], &heard["text"]), (&json!("//4A"), &Value::Null));
    a.ask("msg last");
    b.event("message", |m| m["text"] == "last");
    let status = b.ask("status");
    assert_eq!(status["messages_in"], 4);
    // Nobody hears itself.
    assert_eq!(a.ask("status")["messages_in"], 0);
}

#[test]
fn a_private_message_reaches_one_node_only() {
    let scratch = Scratch::new();
    let (mut a, mut b) = pair(&scratch);
    let mut c = Node::start(&scratch.path("c"));
    c.connect(&b);
    c.connect(&a);
    let sent = a.ask(&format!("pm {} for c  only", c.id));
    keys(&sent, &["event", "command", "seq", "queued_links", "to"]);
    assert_eq!(sent["to"], *c.id);
    let heard = c.event("message", |_| true);
    assert_eq!((&heard["text"], &heard["private"]), (&json!("for c  only"), &json!(true)));
    // What is sent after it on the same link arrives after it: b had its chance to hear.
    a.ask("msg for all");
    let heard = b.event("message", |_| true);
    assert_eq!((&heard["text"], &heard["private"]), (&json!("for all"), &json!(false)));
}

#[test]
fn who_is_banned_stays_out_until_unbanned() {
    let scratch = Scratch::new();
    let (mut a, mut b) = pair(&scratch);
    assert_eq!(a.ask(&format!("ban {}", b.id)), json!({"event": "ok", "command": "ban", "id": b.id}));
    b.event("peer_down", |_| true);
    assert_eq!(a.ask("peers")["peers"][0]["state"], "banned");
    let refused = a.ask(&format!("connect {}", b.addr));
    assert_eq!((&refused["event"], &refused["error"]), (&json!("error"), &json!("banned")), "{refused}");
    assert_eq!(a.ask(&format!("unban {}", b.id)), json!({"event": "ok", "command": "unban", "id": b.id}));
    let answer = a.ask(&format!("connect {}", b.addr));
    assert_eq!(answer["event"], "connected", "{answer}");
}

#[test]
fn nobody_there_and_oneself_are_clear_errors() {
    let scratch = Scratch::new();
    let mut a = Node::start(&scratch.path("a"));
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    assert_eq!(a.ask(&format!("connect {closed}"))["error"], "unreachable");
    let own = a.addr.clone();
    assert_eq!(a.ask(&format!("connect {own}"))["error"], "self");
    assert_eq!(a.ask("peers")["peers"], json!([]));
}

#[test]
fn messages_cannot_steer_a_terminal() {
    let scratch = Scratch::new();
    let mut a = Node::start_with(&scratch.path("a"), &["--name", "ann"]);
    let mut command = p2p(&scratch.path("b"));
    command.args(["--connect", &a.addr]);
    let mut b = Running::spawn(command);
    a.event("peer_up", |_| true);
    a.process.type_bytes("msg \x1b]0;owned\x07\u{9b}31m\r\u{202e}end".as_bytes());
    let shown = b.wait("the message", |line| line.contains("owned").then(|| line.to_owned()));
    let author = &a.id[..10];
    assert_eq!(shown, format!("ann {author}> \\u{{1b}}]0;owned\\u{{7}}\\u{{9b}}31m\\r\\u{{202e}}end"));
}

/// A name is chosen freely and may look like the start of somebody else's message.
#[test]
fn a_name_cannot_pose_as_somebody_elses_message() {
    let scratch = Scratch::new();
    let name = "anna 0857a8ce22> yes, I agree";
    let mut a = Node::start_with(&scratch.path("a"), &["--name", name]);
    let mut command = p2p(&scratch.path("b"));
    command.args(["--connect", &a.addr, "listen"]);
    let mut b = Running::spawn(command);
    a.event("peer_up", |_| true);
    a.ask("msg x");
    let shown = b.wait("the message", |line| line.ends_with("> x").then(|| line.to_owned()));
    assert_eq!(shown, format!("{name:?} {}> x", &a.id[..10]));
}

#[test]
fn send_hands_over_one_message_and_listen_prints_it() {
    let scratch = Scratch::new();
    let node = Node::start(&scratch.path("node"));
    let mut command = p2p(&scratch.path("ear"));
    command.args(["--json", "--connect", &node.addr, "listen", "--topic", "news"]);
    let mut ear = Running::spawn(command);
    ear.wait("ready", |line| line.contains("\"ready\"").then_some(()));
    let mut node = node;
    node.event("peer_up", |_| true);
    for (topic, text) in [("other", "no"), ("news", "yes")] {
        let output = run(p2p(&scratch.path("mouth")).args([
            "--json",
            "--connect",
            &node.addr,
            "send",
            text,
            "--topic",
            topic,
        ]));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(lines(&output).last().unwrap()["command"], "send");
        node.event("message", |m| m["text"] == *text);
    }
    let heard = ear.wait("the message", |line| line.contains("\"message\"").then(|| line.to_owned()));
    let heard: Value = serde_json::from_str(&heard).unwrap();
    assert_eq!((&heard["text"], &heard["topic"]), (&json!("yes"), &json!("news")));
}

#[test]
fn a_receipt_is_waited_for_and_told() {
    let scratch = Scratch::new();
    let (mut a, mut b) = pair(&scratch);
    let sent = a.ask(&format!("pm --wait 30 {} are you there?", b.id));
    keys(&sent, &["event", "command", "seq", "queued_links", "to"]);
    let receipt = a.event("receipt", |_| true);
    assert_eq!(receipt, json!({"event": "receipt", "seq": sent["seq"], "by": b.id}));
    let heard = b.event("message", |_| true);
    assert_eq!((&heard["text"], &heard["private"]), (&json!("are you there?"), &json!(true)));

    let send = |data: &str, to: &str, wait: &str| {
        let mut command = p2p(&scratch.path(data));
        command.args(["--json", "--connect", &b.addr, "send", "hi", "--to", to, "--wait", wait]);
        run(&mut command)
    };
    let output = send("c", &b.id, "30");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = lines(&output);
    assert_eq!(said[0]["event"], "sent", "{said:?}");
    assert_eq!(said[1], json!({"event": "receipt", "seq": said[0]["seq"], "by": b.id}));
    // Nobody is there who has this key.
    let absent = "79b5562e8fe654f94078b112e8a98ba7901f853ae695bed7e0e3910bad049664";
    let output = send("d", absent, "1");
    let said = lines(&output);
    assert_eq!((code(&output), &said[1]["error"]), (4, &json!("no_receipt")), "{said:?}");
}

#[test]
fn a_console_shows_the_topics_it_subscribed_to() {
    let scratch = Scratch::new();
    let (mut a, b) = pair(&scratch);
    assert_eq!(a.ask("subscribe news 'b c'"), json!({"event": "ok", "command": "subscribe"}));
    for topic in ["other", "b c"] {
        let mut command = p2p(&scratch.path("mouth"));
        command.args(["--json", "--connect", &b.addr, "send", topic, "--topic", topic]);
        let output = run(&mut command);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
    assert_eq!(a.event("message", |_| true)["text"], "b c");
    let mut b = b;
    b.ask("publish other not shown");
    b.ask("publish 'b c' shown");
    let shown = a.event("message", |_| true);
    assert_eq!((&shown["text"], &shown["topic"]), (&json!("shown"), &json!("b c")));
    a.ask("subscribe");
    b.ask("msg for all");
    assert_eq!(a.event("message", |_| true)["text"], "for all");
}

#[test]
fn what_came_is_in_the_log_after_a_kill_and_is_not_told_twice() {
    let scratch = Scratch::new();
    let (mut a, mut b) = pair(&scratch);
    a.event("peer_up", |_| true);
    for (pos, text) in [(1, "one"), (2, "two"), (3, "three")] {
        a.ask(&format!("msg {text}"));
        assert_eq!(b.event("message", |m| m["text"] == *text)["pos"], pos);
    }
    let log = |args: &[&str]| run(p2p(&scratch.path("b")).args(["--json", "log"]).args(args));
    let refused = log(&[]);
    assert_eq!((code(&refused), &lines(&refused)[0]["error"]), (2, &json!("in_use")));
    // Dropped is killed.
    drop(b);
    let texts =
        |output| lines(&output).iter().map(|m| m["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(texts(log(&[])), ["one", "two", "three"]);
    assert_eq!(texts(log(&["--since", "3"])), ["three"]);
    assert_eq!(texts(log(&["--since", "2999-01-01T00:00:00Z"])), [] as [&str; 0]);
    assert_eq!(texts(log(&["--topic", "news"])), [] as [&str; 0]);
    assert_eq!(code(&log(&["--since", "yesterday"])), 2);
    let mut command = p2p(&scratch.path("b"));
    command.args(["--json", "--connect", &a.addr, "listen", "--since", "2"]);
    let mut ear = Running::spawn(command);
    let mut next = |text: &str| {
        ear.wait(text, |line| {
            let line: Value = serde_json::from_str(line).unwrap();
            (line["event"] == "message").then_some(line)
        })
    };
    for (pos, text) in [(2, "two"), (3, "three")] {
        let heard = next(text);
        assert_eq!((&heard["text"], &heard["pos"]), (&json!(text), &json!(pos)));
    }
    a.event("peer_up", |_| true);
    a.ask("msg four");
    let heard = next("four");
    assert_eq!((&heard["text"], &heard["pos"]), (&json!("four"), &json!(4)));
}
