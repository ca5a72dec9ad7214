#![doc = include_str!("../README.md")]

mod envelope;
mod frame;
mod hello;
mod identity;
mod limits;
mod private;
mod reader;
mod record;
mod sealed;
mod ticket;

pub mod domain;
pub mod msgpack;

#[cfg(feature = "codec")]
mod codec;

#[cfg(feature = "codec")]
pub use codec::FrameCodec;
pub use envelope::{Entries, Entry, Envelope, EnvelopeError, EnvelopeId, NewEntry};
pub use frame::{Frame, FrameBody, FrameError, encode_frame};
pub use hello::{ALPN, FILES_ALPN, Hello, HelloError, LabelError, PROTOCOL_VERSION, check_agent, check_name};
pub use identity::{BadSignature, NodeId, ParseIdError, PublicKey, SecretKey};
pub use limits::{
    MAX_AGENT, MAX_BUNDLE_BYTES, MAX_BUNDLE_ENTRIES, MAX_DEPTH, MAX_ENVELOPE, MAX_FILE_NAME,
    MAX_FRAME_CONTROL, MAX_FRAME_PAYLOAD, MAX_HELLO_RECORDS, MAX_KEY, MAX_MAP_ENTRIES, MAX_NAME, MAX_PAYLOAD,
    MAX_PRIVATE_BODY, MAX_RECORD, MAX_RECORD_ADDRS, MAX_SEALED_PAYLOAD, MAX_TICKET, MAX_TOPIC, READ_STEP,
};
pub use msgpack::{DecodeError, EncodeError};
pub use private::{PrivateBody, PrivateBodyError, Receipt};
pub use record::{PeerAddr, PeerRecord, RecordError, Scope};
pub use sealed::{OpenError, SEAL_OVERHEAD, SealError, open, seal};
pub use ticket::{ParseTicketError, Ticket, TicketFile, TicketKind};
