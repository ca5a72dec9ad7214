//! Providers that lie, and answers that lead to them (faults 26, 30, 31, 33 as a node meets them).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_files::protocol::{Reply, Request};
use p2p_files::{Geometry, Info};
use p2p_node::{
    Answer, Event, Fetch, FetchError, FetchOptions, Fetched, FileHash, Node, Packet, Share, Ticket,
};
use p2p_wire::{PeerAddr, PeerRecord, Scope, TicketFile, TicketKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::util::{Hostile, Server, key, local, target, until};

/// How a provider lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vice {
    /// Another length than the hash stands for.
    Length(u64),
    /// Another root.
    Root,
    /// The right proof sizes around wrong data.
    Corrupt,
    /// Frames that make no sense.
    Nonsense,
    /// It said that it has the file, and has it not.
    NotFound,
    /// It says what the file is and nothing more.
    Stall,
}

impl Vice {
    fn answer(self, request: Request, truth: Info) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match (self, request) {
            (Self::Nonsense, _) => out.extend([0xff; 64]),
            (Self::NotFound, _) => Reply::NotFound.encode(0, &mut out),
            (Self::Length(length), Request::Open(_)) => {
                Reply::Info(Info { length, ..truth }).encode(0, &mut out)
            }
            (Self::Root, Request::Open(_)) => {
                Reply::Info(Info { root: [1; 32], ..truth }).encode(0, &mut out)
            }
            (_, Request::Open(_)) => Reply::Info(truth).encode(0, &mut out),
            (Self::Corrupt, Request::Get { first, count }) => {
                let run = Geometry::new(truth.length).unwrap().run(first, count).unwrap();
                let hashes = u8::try_from(run.proof_len()).unwrap();
                let len = u32::try_from(run.len()).unwrap();
                Reply::Run { first, count, hashes }.encode(len, &mut out);
                out.resize(out.len() + run.proof_len() * 32 + run.len(), 0x5a);
            }
            _ => return None,
        }
        Some(out)
    }
}

/// Serves lies about one file to whoever connects.
fn serve(server: Arc<Server>, vice: Vice, truth: Info) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let Ok(mut stream) = server.accept_tls().await else { continue };
            tokio::spawn(async move {
                while let Ok(len) = stream.read_u32().await {
                    let mut frame = vec![0; len as usize];
                    if stream.read_exact(&mut frame).await.is_err() {
                        return;
                    }
                    let request = Request::decode(&frame).unwrap().unwrap();
                    if let Some(answer) = vice.answer(request, truth)
                        && (stream.write_all(&answer).await.is_err() || stream.flush().await.is_err())
                    {
                        return;
                    }
                }
            });
        }
    })
}

/// A liar with a ticket for the file of `share`.
async fn liar(n: u64, vice: Vice, share: &Share) -> (Ticket, JoinHandle<()>) {
    let server = Arc::new(Server::new(key(n)).await);
    let file = TicketFile {
        kind: TicketKind::File,
        hash: *share.hash.as_bytes(),
        length: share.info.length,
        name: "file.bin".into(),
    };
    let ticket = server.ticket(key(n).id(), Some(file));
    (ticket, serve(server, vice, share.info))
}

async fn shared(node: &Node, dir: &Path, len: u32) -> (Share, Vec<u8>) {
    let data: Vec<u8> = (0..len).map(|n| ((n % 251) ^ (n >> 14)).to_le_bytes()[0]).collect();
    let path = dir.join("source.bin");
    std::fs::write(&path, &data).unwrap();
    (node.share(path).await.unwrap(), data)
}

fn options(to: &Path) -> FetchOptions {
    FetchOptions {
        to: Some(to.to_owned()),
        timeout: Some(Duration::from_millis(700)),
        ..FetchOptions::default()
    }
}

async fn end(mut fetch: Fetch) -> Result<Fetched, FetchError> {
    tokio::time::timeout(Duration::from_secs(30), fetch.finish()).await.expect("neither a file nor an error")
}

/// Lies that are noticed at once.
fn vices(length: u64) -> [Vice; 6] {
    [
        Vice::Length(length + 1),
        Vice::Length(length - 1),
        Vice::Length(1 << 60),
        Vice::Root,
        Vice::Corrupt,
        Vice::Nonsense,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_good_provider_a_liar_is_named_and_the_file_is_right() {
    const LEN: u32 = 24 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (good, node) = (local().start().await.unwrap(), local().start().await.unwrap());
    let (share, data) = shared(&good, dir.path(), LEN).await;
    node.connect(target(&good)).await.unwrap();
    let mut events = node.events();
    for (n, vice) in (1..).zip(vices(LEN.into()).into_iter().chain([Vice::NotFound])) {
        let (ticket, liar) = liar(n, vice, &share).await;
        let to = dir.path().join(format!("got{n}.bin"));
        let fetch = node.fetch(ticket.clone(), options(&to));
        let fetched = end(fetch).await.unwrap_or_else(|e| panic!("{vice:?}: {e}"));
        assert_eq!(fetched.length, u64::from(LEN));
        assert!(std::fs::read(&to).unwrap() == data, "{vice:?}: another file than was asked for");
        let named = until(&mut events, |event| match event {
            Event::SourceFailed { hash, id, fault } => Some((hash, id, fault)),
            _ => None,
        });
        let (hash, id, fault) = named.await;
        assert_eq!((hash, id), (share.hash, ticket.id), "{vice:?}: {fault}");
        liar.abort();
        // It is fetched anew for the next one.
        assert!(node.unshare(share.hash).await.unwrap());
    }
    while let Some(event) = events.try_next() {
        assert!(!matches!(event, Event::SourceFailed { .. }), "an honest provider was blamed: {event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_liar_alone_there_is_an_error_and_no_file() {
    const LEN: u32 = 3_000_000;
    let dir = tempfile::tempdir().unwrap();
    let (good, node) = (local().start().await.unwrap(), local().start().await.unwrap());
    let (share, _) = shared(&good, dir.path(), LEN).await;
    let to = dir.path().join("to");
    std::fs::create_dir(&to).unwrap();
    for (n, vice) in (1..).zip(vices(LEN.into()).into_iter().chain([Vice::NotFound])) {
        let (ticket, liar) = liar(n, vice, &share).await;
        let error = end(node.fetch(ticket.clone(), options(&to))).await.unwrap_err();
        let code = if vice == Vice::NotFound { "providers_failed" } else { "bad_content" };
        assert_eq!(error.code(), code, "{vice:?}: {error}");
        assert!(error.to_string().contains(&ticket.id.short()), "{vice:?}: {error}");
        let left: Vec<_> = std::fs::read_dir(&to).unwrap().collect();
        assert!(left.is_empty(), "{vice:?}: {left:?}");
        liar.abort();
    }
    assert!(node.files().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_stalls_does_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (good, node) = (local().start().await.unwrap(), local().start().await.unwrap());
    let (share, data) = shared(&good, dir.path(), 8 << 20).await;
    node.connect(target(&good)).await.unwrap();
    let (ticket, _liar) = liar(1, Vice::Stall, &share).await;
    let to = dir.path().join("got.bin");
    let began = Instant::now();
    end(node.fetch(ticket, options(&to))).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "after {:?}", began.elapsed());
    assert!(std::fs::read(&to).unwrap() == data);
}

/// The question that a fetch sends to a hostile neighbour.
async fn question(peer: &mut Hostile) -> [u8; 16] {
    loop {
        if let Packet::Query(query) = peer.next().await.expect("the node closed the connection") {
            return query.id;
        }
    }
}

fn pointing_to(key: &p2p_node::SecretKey, at: &Server) -> PeerRecord {
    let addr = PeerAddr { ip: at.addr.ip(), port: at.addr.port(), file_port: at.addr.port() };
    PeerRecord::sign(key, Scope::Local, 1, &[addr]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_with_forged_or_foreign_records_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (good, node) = (local().start().await.unwrap(), local().start().await.unwrap());
    let (share, data) = shared(&good, dir.path(), 500_000).await;
    let mut peer = Hostile::join(node.listen_addrs()[0], &key(1)).await;
    let trap = Server::new(key(2)).await;
    let to = dir.path().join("got.bin");
    let fetch = node.fetch(share.hash, FetchOptions { timeout: None, ..options(&to) });
    let id = question(&mut peer).await;
    let genuine = pointing_to(&key(2), &trap);
    let mut forged = genuine.bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let lies = [
        // The record's signature is broken; the record is another's than the provider's; it is none.
        (key(2).id(), forged.into()),
        (key(3).id(), genuine.bytes().clone()),
        (good.id(), genuine.bytes().clone()),
        (key(2).id(), genuine.bytes().slice(1..)),
    ];
    for (provider, record) in lies {
        peer.say(&Packet::Answer(Answer { id, provider, records: vec![record], name: None })).await;
    }
    peer.ping(1).await;
    // Honest help comes, and the file with it.
    node.connect(target(&good)).await.unwrap();
    end(fetch).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == data);
    assert_eq!(trap.waiting(), 0, "a forged record was followed");
}

/// Faults row 21. That a link over the internet brings no private address needs one, and is tested without sockets.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_in_answers_that_lead_nowhere_are_not_dialled() {
    // Connecting to "any address" leads to this machine. Where this user may not listen at 987 nobody is there to notice.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let privileged = tokio::net::TcpListener::bind("127.0.0.1:987").await.ok();
    let trap = Server::new(key(5)).await;
    let node = local().start().await.unwrap();
    let mut peer = Hostile::join(node.listen_addrs()[0], &key(1)).await;
    let _fetch = node.fetch(FileHash::from_bytes([3; 32]), FetchOptions::default());
    let id = question(&mut peer).await;
    let port = listener.local_addr().unwrap().port();
    let place = |ip: &str, port| PeerAddr { ip: ip.parse().unwrap(), port, file_port: 0 };
    for (provider, told) in [
        (key(4), vec![place("127.0.0.1", 987), place("0.0.0.0", port)]),
        (key(5), vec![place("127.0.0.1", trap.addr.port())]),
    ] {
        let record = PeerRecord::sign(&provider, Scope::Public, 1, &told).unwrap();
        let records = vec![record.bytes().clone()];
        peer.say(&Packet::Answer(Answer { id, provider: provider.id(), records, name: None })).await;
    }
    // Whoever comes in the next second was sent there before, or with, the one who is meant to come.
    trap.accept_tcp().await;
    let came = async |listener: &tokio::net::TcpListener| {
        tokio::time::timeout(Duration::from_secs(1), listener.accept()).await.is_ok()
    };
    assert!(!came(&listener).await, "0.0.0.0 was dialled");
    if let Some(privileged) = privileged {
        assert!(!came(&privileged).await, "a port below 1024 was dialled");
    }
}

/// Three neighbours name who has the file and leave out where it is, a fourth tells it.
#[tokio::test(flavor = "multi_thread")]
async fn answers_without_addresses_keep_nobody_from_a_provider() {
    let dir = tempfile::tempdir().unwrap();
    let (good, node) = (local().start().await.unwrap(), local().discover(false).start().await.unwrap());
    let (share, data) = shared(&good, dir.path(), 20_000).await;
    let mut neighbours = Vec::new();
    for n in 0..4 {
        neighbours.push(Hostile::join(node.listen_addrs()[0], &key(40 + n)).await);
    }
    let genuine = own_answer(&good, &share).await;
    let to = dir.path().join("got.bin");
    let fetch = node.fetch(share.hash, FetchOptions { timeout: None, ..options(&to) });
    for (n, neighbour) in neighbours.iter_mut().enumerate() {
        let id = question(neighbour).await;
        let records = if n < 3 { Vec::new() } else { genuine.records.clone() };
        neighbour.say(&Packet::Answer(Answer { id, records, ..genuine.clone() })).await;
        neighbour.ping(1).await;
    }
    end(fetch).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_answers_stay_in_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let good = local().start().await.unwrap();
    let (share, data) = shared(&good, dir.path(), 20_000).await;
    let names = [
        "../../evil",
        "/etc/evil",
        "a/../../evil",
        "..",
        "evil\\..\\..\\x",
        "CON",
        "e\u{202e}vil",
        "\u{1b}[2J",
        "",
    ];
    for name in names {
        let home = tempfile::tempdir().unwrap();
        let content = home.path().join("deep/content");
        let node = local().discover(false).content_dir(&content).start().await.unwrap();
        let mut peer = Hostile::join(node.listen_addrs()[0], &key(1)).await;
        let fetch = node.fetch(share.hash, FetchOptions::default());
        let id = question(&mut peer).await;
        // The good node's own answer, with a name of the liar's choice.
        let lie = Answer { id, name: Some(name.to_owned()), ..own_answer(&good, &share).await };
        assert!(p2p_wire::encode_frame(&Packet::Answer(lie.clone())).is_ok(), "{name:?}");
        peer.say(&Packet::Answer(lie)).await;
        let fetched = match end(fetch).await {
            Ok(fetched) => fetched,
            Err(error) => panic!("{name:?}: {error}"),
        };
        assert_eq!(fetched.path.parent(), Some(&*content), "{name:?}: {}", fetched.path.display());
        assert!(std::fs::read(&fetched.path).unwrap() == data);
        let shown = fetched.path.file_name().unwrap().to_str().unwrap();
        assert!(!shown.chars().any(|c| c.is_control() || c == '\u{202e}'), "{name:?} became {shown:?}");
        let around: Vec<_> =
            std::fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(around, ["deep"], "{name:?}");
    }
}

/// A question of the hostile peer's own.
/// What a node that shares it says who asks.
async fn own_answer(node: &Node, share: &Share) -> Answer {
    let mut asked = Hostile::join(node.listen_addrs()[0], &key(3)).await;
    asked.say(&question_for(share)).await;
    loop {
        if let Packet::Answer(answer) = asked.next().await.expect("the node closed the connection") {
            return answer;
        }
    }
}

fn question_for(share: &Share) -> Packet {
    let asker = key(3);
    let id: [u8; 16] = rand::random();
    let origin = asker.id();
    let signed: [&[u8]; 3] = [origin.as_bytes(), &id, share.hash.as_bytes()];
    let signature = asker.sign(p2p_wire::domain::QUERY, &signed);
    Packet::Query(p2p_node::Query { ttl: 1, origin, id, hash: share.hash, signature })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_wrong_about_what_it_names_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (good, node) = (local().start().await.unwrap(), local().start().await.unwrap());
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a"), "hello").unwrap();
    let to = dir.path().join("out");
    for (share, length) in
        [(shared(&good, dir.path(), 100_000).await.0, 100_000), (good.share(&folder).await.unwrap(), 5)]
    {
        let truth = good.file_ticket(&share);
        let mut ticket = truth.clone();
        ticket.file.as_mut().unwrap().length += 1;
        let error = end(node.fetch(ticket, options(&to))).await.unwrap_err();
        assert_eq!(error, FetchError::WrongLength { said: length + 1, length });
        assert!(!to.exists());
        assert_eq!(end(node.fetch(truth, options(&to))).await.unwrap().length, length);
        if to.is_dir() { std::fs::remove_dir_all(&to).unwrap() } else { std::fs::remove_file(&to).unwrap() }
    }
    let (share, _) = shared(&good, dir.path(), 100).await;
    let mut ticket = good.file_ticket(&share);
    ticket.file.as_mut().unwrap().kind = TicketKind::Dir;
    let error = end(node.fetch(ticket, options(&to))).await.unwrap_err();
    assert!(matches!(error, FetchError::NoSuchPath { .. }), "{error:?}");
    assert!(!to.exists());
}
