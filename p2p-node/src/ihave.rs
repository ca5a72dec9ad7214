//! The body of IHAVE: a line per announced envelope, short because most of what is sent in a quiet network is this.
//! `docs/wire.md` specifies each byte.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use p2p_wire::{DecodeError, EnvelopeId, NodeId};

/// IHAVE: ids in one list; a longer one is refused (faults: 1,000 ids each).
pub(crate) const MAX_IHAVE: usize = 1000;

/// It comes through the tree as well.
const WAIT: u8 = 1;
/// The author is that of the line before.
const SAME_AUTHOR: u8 = 2;
/// A count follows; without it, it is 1.
const COUNT: u8 = 4;
/// Longest number in groups of 7 bits.
const MAX_GROUPS: u32 = 10;

/// One announced envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// The envelope.
    pub id: EnvelopeId,
    /// The hops that its push would carry, 0 to 255; more count as 255.
    pub hops: u16,
    /// It comes through the tree as well: the receiver asks only if it does not.
    pub wait: bool,
}

pub(crate) fn encode(announced: &[Announced], out: &mut BytesMut) {
    let mut author = None;
    for Announced { id, hops, wait } in announced {
        let same = author == Some(id.author);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.put_u8(flag(*wait, WAIT) | flag(same, SAME_AUTHOR) | flag(id.count != 1, COUNT));
        if !same {
            out.put_slice(id.author.as_bytes());
        }
        out.put_u64(id.first);
        put_number(id.first - id.run.min(id.first), out);
        if id.count != 1 {
            out.put_u8(id.count);
        }
        out.put_u8(u8::try_from(*hops).unwrap_or(u8::MAX));
        author = Some(id.author);
    }
}

pub(crate) fn decode(mut body: Bytes) -> Result<Vec<Announced>, DecodeError> {
    let mut announced: Vec<Announced> = Vec::new();
    while body.has_remaining() {
        if announced.len() == MAX_IHAVE {
            return Err(DecodeError::Layout("more than 1000 announced ids"));
        }
        let before = announced.last().map(|line| line.id.author);
        announced.push(decode_line(&mut body, before)?);
    }
    Ok(announced)
}

fn decode_line(body: &mut Bytes, before: Option<NodeId>) -> Result<Announced, DecodeError> {
    let cut = |_| DecodeError::Layout("announced ids are cut off");
    let flags = body.try_get_u8().map_err(cut)?;
    if flags & !(WAIT | SAME_AUTHOR | COUNT) != 0 {
        return Err(DecodeError::Layout("an announced id with unknown flags"));
    }
    let author = if flags & SAME_AUTHOR == 0 {
        let mut author = [0; 32];
        body.try_copy_to_slice(&mut author).map_err(cut)?;
        NodeId::from_bytes(author)
    } else {
        before.ok_or(DecodeError::Layout("the first announced id has no author"))?
    };
    let first = body.try_get_u64().map_err(cut)?;
    let run = first.checked_sub(get_number(body)?).ok_or(DecodeError::Layout("an id that cannot be"))?;
    let count = if flags & COUNT == 0 { 1 } else { body.try_get_u8().map_err(cut)? };
    let hops = u16::from(body.try_get_u8().map_err(cut)?);
    let id = EnvelopeId { author, run, first, count };
    // The one rule for what an id can be.
    EnvelopeId::from_bytes(&id.to_bytes()).map_err(|_| DecodeError::Layout("an id that cannot be"))?;
    Ok(Announced { id, hops, wait: flags & WAIT != 0 })
}

/// Groups of 7 bits, lowest first, the top bit set on all but the last (LEB128).
pub(crate) fn put_number(mut number: u64, out: &mut BytesMut) {
    loop {
        let group = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            return out.put_u8(group);
        }
        out.put_u8(group | 0x80);
    }
}

pub(crate) fn get_number(body: &mut Bytes) -> Result<u64, DecodeError> {
    let mut number = 0;
    for at in 0..MAX_GROUPS {
        let group = body.try_get_u8().map_err(|_| DecodeError::Layout("a number is cut off"))?;
        let bits = u64::from(group & 0x7f);
        if bits.leading_zeros() < 7 * at || (at > 0 && group == 0) {
            return Err(DecodeError::Layout("a number that is not in its one form"));
        }
        number |= bits << (7 * at);
        if group & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(DecodeError::Layout("a number that is not in its one form"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_form() {
        for number in [0, 1, 127, 128, 300, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut out = BytesMut::new();
            put_number(number, &mut out);
            let mut body = out.freeze();
            assert_eq!(get_number(&mut body), Ok(number));
            assert!(body.is_empty());
        }
        for bad in
            [&[0x80, 0][..], &[0x80], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            assert!(get_number(&mut Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_cut_is_refused_or_shorter() {
        let id = |seed: u8, run, first, count| EnvelopeId {
            author: NodeId::from_bytes([seed; 32]),
            run,
            first,
            count,
        };
        let lines = [
            Announced { id: id(1, 5, 5, 1), hops: 1, wait: true },
            Announced { id: id(1, 5, 900, 64), hops: 255, wait: false },
            Announced { id: id(2, 0, u64::MAX - 1, 1), hops: 0, wait: true },
        ];
        let mut out = BytesMut::new();
        encode(&lines, &mut out);
        let whole = out.freeze();
        assert_eq!(decode(whole.clone()).unwrap(), lines);
        for len in 0..whole.len() {
            assert!(
                decode(whole.slice(..len)).is_ok_and(|some| lines.starts_with(&some))
                    == [0, 43, 56].contains(&len),
                "{len}"
            );
        }
    }
}
