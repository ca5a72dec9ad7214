//! Two ends of an in-memory pipe exchange hello and a signed envelope.
//!
//! `cargo run -p p2p-wire --example duplex`

use std::error::Error;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use p2p_wire::{
    DecodeError, EncodeError, Envelope, Frame, FrameBody, FrameCodec, Hello, MAX_FRAME_CONTROL,
    MAX_FRAME_PAYLOAD, NewEntry, PROTOCOL_VERSION, SecretKey, msgpack,
};
use tokio::io::DuplexStream;
use tokio_util::codec::Framed;

/// The messages of this little protocol.
#[derive(Debug)]
enum Message {
    Hello(Hello),
    Say(Bytes),
}

impl FrameBody for Message {
    fn limit(kind: u8) -> usize {
        if kind == 2 { MAX_FRAME_PAYLOAD } else { MAX_FRAME_CONTROL }
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Say(_) => 2,
        }
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Hello(hello) => out.extend_from_slice(&msgpack::to_vec(hello)?),
            Self::Say(envelope) => out.extend_from_slice(envelope),
        }
        Ok(())
    }

    fn decode(kind: u8, body: Bytes) -> Result<Option<Self>, DecodeError> {
        match kind {
            1 => Ok(Some(Self::Hello(msgpack::from_slice(&body)?))),
            2 => Ok(Some(Self::Say(body))),
            _ => Ok(None),
        }
    }
}

type Link = Framed<DuplexStream, FrameCodec<Message>>;

async fn next(link: &mut Link) -> Result<Message, Box<dyn Error>> {
    while let Some(frame) = link.next().await {
        if let Frame::Known { message, .. } = frame? {
            return Ok(message);
        }
    }
    Err("the other side left".into())
}

async fn speaker(mut link: Link) -> Result<(), Box<dyn Error>> {
    let key = SecretKey::generate(&mut rand::rng());
    let Message::Hello(hello) = next(&mut link).await? else { return Err("hello comes first".into()) };
    let payload = format!("good day, {}", hello.name.as_deref().unwrap_or("stranger"));
    let entry = NewEntry { topic: "", time_ms: 0, recipient: None, payload: payload.as_bytes() };
    let envelope = Envelope::sign(&key, 1, 1, &[entry])?;
    link.send(Message::Say(envelope.bytes().clone())).await?;
    Ok(())
}

async fn listener(mut link: Link) -> Result<String, Box<dyn Error>> {
    let hello = Hello {
        version: PROTOCOL_VERSION,
        agent: "duplex/1".into(),
        name: Some("kitchen".into()),
        observed: None,
        records: Vec::new(),
    };
    link.send(Message::Hello(hello)).await?;
    let Message::Say(bytes) = next(&mut link).await? else { return Err("an envelope was to come".into()) };
    let envelope = Envelope::decode(bytes)?;
    envelope.verify()?;
    let entry = envelope.entries().next().ok_or("an envelope is never empty")?;
    Ok(format!("{}: {}", envelope.id().author.short(), String::from_utf8_lossy(&entry.payload)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (here, there) = tokio::io::duplex(4096);
    let (here, there) = (Framed::new(here, FrameCodec::new()), Framed::new(there, FrameCodec::new()));
    let ((), heard) = tokio::try_join!(speaker(here), listener(there))?;
    assert!(heard.ends_with("good day, kitchen"), "{heard}");
    #[expect(clippy::print_stdout, reason = "an example shows its result")]
    {
        println!("{heard}");
    }
    Ok(())
}
