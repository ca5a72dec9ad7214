//! How far messages have come on a link that somebody asks after: whoever leaves has to know what of its own others have handled.

use std::collections::VecDeque;

use p2p_wire::EnvelopeId;

/// Messages that were taken and not handled; of more the oldest is not known to have been. As many as are asked after.
const MAX_FOLLOWED: usize = 1_024;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// Taken from the queue, each with the bytes that have to be handled for it to be.
    taken: VecDeque<(u64, EnvelopeId)>,
}

impl Follow {
    /// A message was taken; `upto`: bytes taken so far, it included.
    pub(super) fn took(&mut self, upto: u64, id: EnvelopeId) {
        if self.taken.len() >= MAX_FOLLOWED {
            self.taken.pop_front();
        }
        self.taken.push_back((upto, id));
    }

    /// So many bytes have been handled: the messages that are among them, each once.
    pub(super) fn handled(&mut self, upto: u64) -> Vec<EnvelopeId> {
        let count = self.taken.partition_point(|(end, _)| *end <= upto);
        self.taken.drain(..count).map(|(_, id)| id).collect()
    }
}
