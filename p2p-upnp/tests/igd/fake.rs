//! A router on 127.0.0.1: SSDP over UDP, description and SOAP over a hand-written HTTP, and every way to misbehave that
//! was seen or feared.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

const SERVICE: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";

/// What the router does; the default is a good one.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) ssdp: Ssdp,
    pub(crate) description: Page,
    pub(crate) soap: Page,
    /// Only for AddPortMapping, before anything else is looked at.
    pub(crate) add: Page,
    pub(crate) external_ip: String,
    pub(crate) offers_any: bool,
    pub(crate) only_permanent: bool,
    /// Says yes and keeps nothing.
    pub(crate) forgetful: bool,
    /// 718 also for what the asking machine holds itself.
    pub(crate) strict: bool,
    pub(crate) url_base: String,
}

#[derive(Clone)]
pub(crate) enum Ssdp {
    Good,
    Silent,
    Garbage,
    Late(Duration),
    Location(String),
}

#[derive(Clone)]
pub(crate) enum Page {
    Good,
    Stall,
    /// The first fetch stalls, later ones are good.
    StallOnce,
    /// One byte now and then, for ever.
    Drip,
    /// Whole answer.
    Raw(Vec<u8>),
    /// Headers, then bytes for ever.
    Endless,
    Fault(u16),
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            ssdp: Ssdp::Good,
            description: Page::Good,
            soap: Page::Good,
            add: Page::Good,
            external_ip: "11.0.113.1".to_owned(),
            offers_any: true,
            only_permanent: false,
            forgetful: false,
            strict: false,
            url_base: String::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) client: String,
    pub(crate) port: u16,
    pub(crate) description: String,
    pub(crate) lease: u32,
}

#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// SOAP actions with outside port and lease where they have one, oldest first.
    pub(crate) calls: Vec<String>,
    /// Fetches of the description.
    pub(crate) fetches: usize,
    pub(crate) searches: usize,
    pub(crate) held: BTreeMap<u16, Held>,
}

impl Seen {
    pub(crate) fn count(&self, prefix: &str) -> usize {
        self.calls.iter().filter(|call| call.starts_with(prefix)).count()
    }
}

pub(crate) struct Router {
    pub(crate) search_address: SocketAddr,
    seen: Arc<watch::Sender<Seen>>,
    _tasks: JoinSet<()>,
}

impl Router {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let search_address = udp.local_addr().unwrap();
        let http = tcp.local_addr().unwrap();
        let seen = Arc::new(watch::Sender::new(Seen::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(answer_searches(udp, http, behaviour.ssdp.clone(), Arc::clone(&seen)));
        tasks.spawn(serve(tcp, Arc::new(behaviour), Arc::clone(&seen)));
        Self { search_address, seen, _tasks: tasks }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    pub(crate) fn hold(&self, external: u16, client: &str, port: u16, description: &str) {
        let held = Held { client: client.to_owned(), port, description: description.to_owned(), lease: 3600 };
        self.seen.send_modify(|seen| drop(seen.held.insert(external, held)));
    }

    pub(crate) fn reboot(&self) {
        self.seen.send_modify(|seen| seen.held.clear());
    }

    pub(crate) async fn until(&self, what: impl FnMut(&Seen) -> bool) {
        let mut seen = self.seen.subscribe();
        let wait = seen.wait_for(what);
        let waited = tokio::time::timeout(Duration::from_secs(10), wait).await;
        assert!(waited.is_ok(), "never happened; calls so far: {:?}", self.seen().calls);
    }
}

async fn answer_searches(udp: UdpSocket, http: SocketAddr, ssdp: Ssdp, seen: Arc<watch::Sender<Seen>>) {
    let udp = Arc::new(udp);
    let mut late = JoinSet::new();
    let mut buf = [0; 1500];
    loop {
        let (len, from) = udp.recv_from(&mut buf).await.unwrap();
        assert!(buf[..len].starts_with(b"M-SEARCH * HTTP/1.1\r\n"));
        seen.send_modify(|seen| seen.searches += 1);
        let location = |url: &str| format!("HTTP/1.1 200 OK\r\nST: x\r\nLOCATION: {url}\r\nEXT:\r\n\r\n");
        let good = location(&format!("http://{http}/rootDesc.xml"));
        let answer = match &ssdp {
            Ssdp::Good => good.into_bytes(),
            Ssdp::Silent => continue,
            Ssdp::Garbage => (0..=255).cycle().take(1400).collect(),
            Ssdp::Late(wait) => {
                let (wait, udp) = (*wait, Arc::clone(&udp));
                late.spawn(async move {
                    tokio::time::sleep(wait).await;
                    let _ = udp.send_to(good.as_bytes(), from).await;
                });
                continue;
            }
            Ssdp::Location(url) => location(url).into_bytes(),
        };
        let _ = udp.send_to(&answer, from).await;
    }
}

async fn serve(tcp: TcpListener, behaviour: Arc<Behaviour>, seen: Arc<watch::Sender<Seen>>) {
    let mut connections = JoinSet::new();
    let stalled = Arc::new(Mutex::new(false));
    loop {
        let (stream, _) = tcp.accept().await.unwrap();
        let (behaviour, seen, stalled) = (Arc::clone(&behaviour), Arc::clone(&seen), Arc::clone(&stalled));
        connections.spawn(async move {
            let _ = answer(stream, &behaviour, &seen, &stalled).await;
        });
    }
}

async fn answer(
    mut stream: TcpStream,
    behaviour: &Behaviour,
    seen: &watch::Sender<Seen>,
    stalled: &Mutex<bool>,
) -> std::io::Result<()> {
    let (head, body) = read_request(&mut stream).await?;
    if head.starts_with("GET /rootDesc.xml ") {
        seen.send_modify(|seen| seen.fetches += 1);
        let first = !std::mem::replace(&mut *stalled.lock().unwrap(), true);
        let page = match &behaviour.description {
            Page::StallOnce if first => &Page::Stall,
            Page::StallOnce => &Page::Good,
            other => other,
        };
        return send(&mut stream, page, || ok(&description(&behaviour.url_base))).await;
    }
    if head.starts_with("GET /scpd.xml ") {
        return send(&mut stream, &Page::Good, || ok(&schema(behaviour.offers_any))).await;
    }
    let action = head.split_once(&format!("{SERVICE}#")).and_then(|(_, rest)| rest.split('"').next());
    let Some(action) = action else { return stream.write_all(&http("404 Not Found", "")).await };
    let external: u16 = field(&body, "NewExternalPort").parse().unwrap_or(0);
    let lease = field(&body, "NewLeaseDuration");
    let call = match action {
        "AddPortMapping" => format!("{action} {external} {lease}"),
        "AddAnyPortMapping" => format!("{action} {lease}"),
        "DeletePortMapping" => format!("{action} {external}"),
        _ => action.to_owned(),
    };
    seen.send_modify(|seen| seen.calls.push(call));
    let page = if action == "AddPortMapping" && !matches!(behaviour.add, Page::Good) {
        &behaviour.add
    } else {
        &behaviour.soap
    };
    send(&mut stream, page, || control(action, &body, external, behaviour, seen)).await
}

fn control(
    action: &str,
    body: &str,
    external: u16,
    behaviour: &Behaviour,
    seen: &watch::Sender<Seen>,
) -> Vec<u8> {
    let done = |fields: &str| ok(&envelope(&format!("<u:{action}Response>{fields}</u:{action}Response>")));
    match action {
        "GetExternalIPAddress" => {
            done(&format!("<NewExternalIPAddress>{}</NewExternalIPAddress>", behaviour.external_ip))
        }
        "AddPortMapping" | "AddAnyPortMapping" => {
            let held = Held {
                client: field(body, "NewInternalClient").to_owned(),
                port: field(body, "NewInternalPort").parse().unwrap(),
                description: field(body, "NewPortMappingDescription").to_owned(),
                lease: field(body, "NewLeaseDuration").parse().unwrap(),
            };
            if behaviour.only_permanent && held.lease != 0 {
                return fault(725);
            }
            let others = |had: &Held| behaviour.strict || had.client != held.client;
            let any = action == "AddAnyPortMapping";
            if !any && seen.borrow().held.get(&external).is_some_and(others) {
                return fault(718);
            }
            if !behaviour.forgetful {
                seen.send_modify(|seen| drop(seen.held.insert(external, held)));
            }
            done(&if any { format!("<NewReservedPort>{external}</NewReservedPort>") } else { String::new() })
        }
        "DeletePortMapping" => {
            let mut gone = None;
            seen.send_modify(|seen| gone = seen.held.remove(&external));
            if gone.is_some() { done("") } else { fault(714) }
        }
        "GetGenericPortMappingEntry" => {
            let index: usize = field(body, "NewPortMappingIndex").parse().unwrap();
            match seen.borrow().held.iter().nth(index) {
                None => fault(713),
                Some((port, held)) => done(&format!(
                    "<NewRemoteHost></NewRemoteHost><NewExternalPort>{port}</NewExternalPort>\
                     <NewProtocol>TCP</NewProtocol><NewInternalPort>{}</NewInternalPort>\
                     <NewInternalClient>{}</NewInternalClient><NewEnabled>1</NewEnabled>\
                     <NewPortMappingDescription>{}</NewPortMappingDescription>\
                     <NewLeaseDuration>{}</NewLeaseDuration>",
                    held.port, held.client, held.description, held.lease
                )),
            }
        }
        _ => fault(401),
    }
}

async fn send(stream: &mut TcpStream, page: &Page, good: impl FnOnce() -> Vec<u8>) -> std::io::Result<()> {
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 99999999\r\n\r\n<root>";
    match page {
        Page::Good => stream.write_all(&good()).await,
        Page::Raw(bytes) => stream.write_all(bytes).await,
        Page::Fault(code) => stream.write_all(&fault(*code)).await,
        Page::Endless => {
            stream.write_all(head).await?;
            loop {
                stream.write_all(&[b'x'; 65536]).await?;
            }
        }
        Page::Drip => {
            stream.write_all(head).await?;
            loop {
                stream.write_all(b" ").await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        // Until the other side hangs up.
        Page::Stall | Page::StallOnce => stream.read_u8().await.map(drop),
    }
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let len = lower.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next());
            if body.len() >= len.map_or(0, |len| len.trim().parse().unwrap()) {
                return Ok((head.to_owned(), body.to_owned()));
            }
        }
    }
}

fn field<'a>(body: &'a str, name: &str) -> &'a str {
    let start = body.split_once(&format!("<{name}>")).map_or("", |(_, rest)| rest);
    start.split_once("</").map_or("", |(value, _)| value)
}

pub(crate) fn http(status: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

pub(crate) fn ok(body: &str) -> Vec<u8> {
    http("200 OK", body)
}

fn envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:u=\"{SERVICE}\"><s:Body>{body}</s:Body></s:Envelope>"
    )
}

fn fault(code: u16) -> Vec<u8> {
    let detail = format!(
        "<s:Fault><detail><UPnPError><errorCode>{code}</errorCode><errorDescription>no\u{202e} \u{85}way\
         </errorDescription></UPnPError></detail></s:Fault>"
    );
    http("500 Internal Server Error", &envelope(&detail))
}

fn description(url_base: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\">{url_base}<device><deviceList>\
         <device><serviceList><service><serviceType>{SERVICE}</serviceType><controlURL>/control</controlURL>\
         <SCPDURL>/scpd.xml</SCPDURL></service></serviceList></device></deviceList></device></root>"
    )
}

fn schema(offers_any: bool) -> String {
    let action = |name: &str, arguments: &[&str]| {
        let arguments: String = arguments
            .iter()
            .map(|name| format!("<argument><name>New{name}</name><direction>in</direction></argument>"))
            .collect();
        format!("<action><name>{name}</name><argumentList>{arguments}</argumentList></action>")
    };
    let mapping = [
        "RemoteHost",
        "ExternalPort",
        "Protocol",
        "InternalPort",
        "InternalClient",
        "Enabled",
        "PortMappingDescription",
        "LeaseDuration",
    ];
    let any = if offers_any { action("AddAnyPortMapping", &mapping) } else { String::new() };
    format!(
        "<scpd><actionList>{}{}{any}</actionList></scpd>",
        action("AddPortMapping", &mapping),
        action("DeletePortMapping", &mapping[..3])
    )
}
