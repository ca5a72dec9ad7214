//! The bodies of what catch-up sends: digests, ranges, pulls of ranges, and how far one was answered. `docs/wire.md`
//! specifies each byte.

use std::mem::size_of;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use p2p_gossip::{BUCKETS, Held, MAX_SPANS, Span, Sum};
use p2p_wire::{DecodeError, NodeId};

use crate::ihave::{get_number, put_number};

/// Lines of ranges in one frame; more are refused. As many as 64 KiB hold at 60 bytes each.
pub(crate) const MAX_HELD: usize = 1024;

/// The author is that of the line before.
const SAME_AUTHOR: u8 = 1;
const CUT: DecodeError = DecodeError::Layout("ranges are cut off");

pub(crate) fn encode_sums(sums: &[Sum], out: &mut BytesMut) {
    sums.iter().for_each(|sum| out.put_slice(sum));
}

pub(crate) fn decode_sums(body: &Bytes) -> Result<Vec<Sum>, DecodeError> {
    let (sums, rest) = body.as_chunks::<{ size_of::<Sum>() }>();
    if rest.is_empty() && (sums.len() == 1 || sums.len() == BUCKETS) {
        Ok(sums.to_vec())
    } else {
        Err(DecodeError::Layout("neither 1 nor 256 digests"))
    }
}

pub(crate) fn encode_held(held: &[Held<NodeId>], out: &mut BytesMut) {
    let mut before = None;
    for Held { span, sum } in held {
        put_span(span, before, out);
        out.put_slice(sum);
        before = Some(span.author);
    }
}

pub(crate) fn decode_held(mut body: Bytes) -> Result<Vec<Held<NodeId>>, DecodeError> {
    let mut held: Vec<Held<NodeId>> = Vec::new();
    while body.has_remaining() {
        if held.len() == MAX_HELD {
            return Err(DecodeError::Layout("more than 1024 ranges"));
        }
        let span = get_span(&mut body, held.last().map(|held| held.span.author))?;
        let mut sum = Sum::default();
        body.try_copy_to_slice(&mut sum).map_err(|_| CUT)?;
        held.push(Held { span, sum });
    }
    Ok(held)
}

pub(crate) fn encode_pull(number: u32, spans: &[Span<NodeId>], out: &mut BytesMut) {
    out.put_u32(number);
    let mut before = None;
    for span in spans {
        put_span(span, before, out);
        before = Some(span.author);
    }
}

pub(crate) fn decode_pull(mut body: Bytes) -> Result<(u32, Vec<Span<NodeId>>), DecodeError> {
    let number = body.try_get_u32().map_err(|_| CUT)?;
    let mut spans: Vec<Span<NodeId>> = Vec::new();
    while body.has_remaining() {
        if spans.len() == MAX_SPANS {
            return Err(DecodeError::Layout("more than 256 ranges to pull"));
        }
        spans.push(get_span(&mut body, spans.last().map(|span| span.author))?);
    }
    Ok((number, spans))
}

/// Number, ranges answered whole, and the seq below which the next one is.
pub(crate) fn decode_served(mut body: Bytes) -> Result<(u32, u16, u64), DecodeError> {
    const LEN: usize = size_of::<u32>() + size_of::<u16>() + size_of::<u64>();
    if body.len() != LEN {
        return Err(DecodeError::Layout("served is not 14 bytes"));
    }
    Ok((body.get_u32(), body.get_u16(), body.get_u64()))
}

fn put_span(span: &Span<NodeId>, before: Option<NodeId>, out: &mut BytesMut) {
    let same = before == Some(span.author);
    out.put_u8(if same { SAME_AUTHOR } else { 0 });
    if !same {
        out.put_slice(span.author.as_bytes());
    }
    out.put_u64(span.from);
    put_number(span.to.saturating_sub(span.from), out);
}

fn get_span(body: &mut Bytes, before: Option<NodeId>) -> Result<Span<NodeId>, DecodeError> {
    let flags = body.try_get_u8().map_err(|_| CUT)?;
    if flags & !SAME_AUTHOR != 0 {
        return Err(DecodeError::Layout("a range with unknown flags"));
    }
    let author = if flags & SAME_AUTHOR == 0 {
        let mut author = [0; 32];
        body.try_copy_to_slice(&mut author).map_err(|_| CUT)?;
        NodeId::from_bytes(author)
    } else {
        before.ok_or(DecodeError::Layout("the first range has no author"))?
    };
    let from = body.try_get_u64().map_err(|_| CUT)?;
    let len = get_number(body)?;
    let to = from.checked_add(len).filter(|to| *to > from);
    Ok(Span { author, from, to: to.ok_or(DecodeError::Layout("a range that cannot be"))? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span() -> impl Strategy<Value = Span<NodeId>> {
        (0_u8..3, any::<u64>(), 1_u64..=u64::MAX).prop_map(|(author, from, len)| {
            let from = from.min(u64::MAX - 1);
            Span { author: NodeId::from_bytes([author; 32]), from, to: from.saturating_add(len) }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            number: u32,
            spans in proptest::collection::vec(span(), 0..9),
            sums in proptest::collection::vec(any::<Sum>(), 9),
        ) {
            let mut out = BytesMut::new();
            encode_pull(number, &spans, &mut out);
            prop_assert_eq!(decode_pull(out.freeze()), Ok((number, spans.clone())));
            let held: Vec<_> = spans.into_iter().zip(sums).map(|(span, sum)| Held { span, sum }).collect();
            let mut out = BytesMut::new();
            encode_held(&held, &mut out);
            prop_assert_eq!(decode_held(out.freeze()), Ok(held));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            if let Ok(held) = decode_held(bytes.clone()) {
                prop_assert!(held.iter().all(|held| held.span.from < held.span.to));
            }
            decode_pull(bytes.clone()).ok();
            decode_sums(&bytes).ok();
            decode_served(bytes).ok();
        }
    }
}
