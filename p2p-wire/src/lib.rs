//! Frames, identities, signed envelopes and sealed bodies for peer-to-peer protocols.
