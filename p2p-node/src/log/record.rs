//! The records of a segment, byte by byte. `docs/store.md` has the same as a table.

use bytes::Bytes;
use p2p_wire::{EnvelopeId, MAX_ENVELOPE};

/// What every segment begins with: what it is, and the version of the format.
pub(super) const MAGIC: &[u8; 8] = b"p2plog2\n";
/// Length of the body (4 bytes) and CRC-32 of it (4 bytes), both big-endian.
pub(super) const HEADER: usize = 8;
/// Before the envelope in its record: kind, n, when it came, its age then, hops, digest.
pub(super) const ENVELOPE_PREFIX: usize = 1 + 8 + 8 + 4 + 2 + 16;
const DELIVERED_LEN: usize = 1 + 8 + 8 + 8 + 8 + 8 + 1;
const MAX_BODY: usize = ENVELOPE_PREFIX + MAX_ENVELOPE;

const ENVELOPE: u8 = 1;
const DELIVERED: u8 = 2;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// A verified envelope. `n` counts the envelopes of this log.
    Envelope { n: u64, at_ms: u64, age_ms: u32, hops: u16, digest: [u8; 16], envelope: Bytes },
    /// Entries of envelope `n` were handed to the application; those of `shown` have positions from `pos` on, the
    /// others are not for this node.
    Delivered { pos: u64, n: u64, at_ms: u64, entries: u64, shown: u64, late: bool },
}

impl Record {
    /// Appends header and body.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; HEADER]);
        match self {
            Self::Envelope { n, at_ms, age_ms, hops, digest, envelope } => {
                out.push(ENVELOPE);
                out.extend(n.to_be_bytes());
                out.extend(at_ms.to_be_bytes());
                out.extend(age_ms.to_be_bytes());
                out.extend(hops.to_be_bytes());
                out.extend(digest);
                out.extend_from_slice(envelope);
            }
            Self::Delivered { pos, n, at_ms, entries, shown, late } => {
                out.push(DELIVERED);
                for number in [pos, n, at_ms, entries, shown] {
                    out.extend(number.to_be_bytes());
                }
                out.push(u8::from(*late));
            }
        }
        let (head, body) = out[start..].split_at_mut(HEADER);
        let len = u32::try_from(body.len()).expect("a body is at most an envelope and its prefix");
        head[..4].copy_from_slice(&len.to_be_bytes());
        head[4..].copy_from_slice(&crc32fast::hash(body).to_be_bytes());
    }

    /// Reads a body whose CRC was right.
    fn decode(body: &Bytes) -> Option<Self> {
        let (&kind, rest) = body.split_first()?;
        match kind {
            ENVELOPE => {
                let (n, rest) = number(rest)?;
                let (at_ms, rest) = number(rest)?;
                let (age, rest) = rest.split_first_chunk()?;
                let (hops, rest) = rest.split_first_chunk()?;
                let (&digest, envelope) = rest.split_first_chunk()?;
                let (age_ms, hops) = (u32::from_be_bytes(*age), u16::from_be_bytes(*hops));
                Some(Self::Envelope { n, at_ms, age_ms, hops, digest, envelope: body.slice_ref(envelope) })
            }
            DELIVERED if body.len() == DELIVERED_LEN => {
                let (pos, rest) = number(rest)?;
                let (n, rest) = number(rest)?;
                let (at_ms, rest) = number(rest)?;
                let (entries, rest) = number(rest)?;
                let (shown, rest) = number(rest)?;
                let late = rest != [0];
                let fits = shown & !entries == 0 && pos.checked_add(64).is_some();
                fits.then_some(Self::Delivered { pos, n, at_ms, entries, shown, late })
            }
            _ => None,
        }
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
}

/// What stands at the beginning of `bytes`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing more.
    End,
    /// A record, and its length with the header.
    Record(Record, usize),
    /// A record of that length that is damaged, or of a kind that is not known; others may follow.
    Damaged(usize),
    /// No record: what follows cannot be read. An append that was cut off looks like this.
    Torn,
}

/// The length of the record that may begin here, with its header, by what can be told without looking through it.
pub(super) fn plausible(bytes: &[u8]) -> Option<usize> {
    let (len, rest) = bytes.split_first_chunk()?;
    let len = u32::from_be_bytes(*len) as usize;
    let kind = *rest.get(4)?;
    let fits = match kind {
        ENVELOPE => (ENVELOPE_PREFIX..=MAX_BODY).contains(&len),
        DELIVERED => len == DELIVERED_LEN,
        _ => false,
    };
    (fits && bytes.len() >= HEADER + len).then_some(HEADER + len)
}

/// An envelope is a part of `bytes`, not a copy.
pub(super) fn next(bytes: &Bytes) -> Next {
    if bytes.is_empty() {
        return Next::End;
    }
    let Some((len, rest)) = bytes.split_first_chunk() else { return Next::Torn };
    let Some((crc, rest)) = rest.split_first_chunk() else { return Next::Torn };
    let len = u32::from_be_bytes(*len) as usize;
    if len == 0 || len > MAX_BODY {
        return Next::Torn;
    }
    let Some(body) = rest.get(..len).map(|body| bytes.slice_ref(body)) else { return Next::Torn };
    if crc32fast::hash(&body) != u32::from_be_bytes(*crc) {
        return Next::Damaged(HEADER + len);
    }
    Record::decode(&body).map_or(Next::Damaged(HEADER + len), |record| Next::Record(record, HEADER + len))
}

/// The id of an envelope, which is bytes 1 to 49 of it.
pub(super) fn id_of(envelope: &[u8]) -> Option<EnvelopeId> {
    EnvelopeId::from_bytes(envelope.get(1..)?.first_chunk()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        prop_oneof![
            (any::<u64>(), any::<u64>(), any::<u32>(), any::<u16>(), any::<[u8; 16]>(), bytes).prop_map(
                |(n, at_ms, age_ms, hops, digest, envelope)| Record::Envelope {
                    n,
                    at_ms,
                    age_ms,
                    hops,
                    digest,
                    envelope
                }
            ),
            (any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>()).prop_map(
                |(pos, n, at_ms, entries, shown, late)| Record::Delivered {
                    pos: pos.into(),
                    n,
                    at_ms,
                    entries,
                    shown: shown & entries,
                    late
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(records in proptest::collection::vec(record(), 0..8)) {
            let mut bytes = Vec::new();
            records.iter().for_each(|r| r.encode(&mut bytes));
            let mut at = 0;
            for record in records {
                let Next::Record(read, len) = next(&Bytes::copy_from_slice(&bytes[at..])) else { panic!("no record") };
                prop_assert_eq!(read, record);
                at += len;
            }
            prop_assert_eq!(next(&Bytes::copy_from_slice(&bytes[at..])), Next::End);
        }

        #[test]
        fn nothing_panics_and_no_damage_goes_unseen(record in record(), at in any::<usize>(), bit in 0_u8..8, cut in any::<usize>()) {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            prop_assert_eq!(next(&Bytes::copy_from_slice(&bytes[..cut % bytes.len()])), if cut % bytes.len() == 0 { Next::End } else { Next::Torn });
            let at = at % bytes.len();
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(matches!(next(&Bytes::from(bytes)), Next::Damaged(_) | Next::Torn));
        }
    }
}
