//! What is known of one provider: where it is said to be, how often it was tried, what it did wrong.

use p2p_wire::{MAX_RECORD_ADDRS, PeerAddr};

/// A provider whose connection failed is tried this often; one that lied is not tried again.
const TRIES: u32 = 3;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Out of the answers or the ticket, the newest first. The peer table may know others.
    addrs: Vec<PeerAddr>,
    tries: u32,
    /// At work, being dialled, or waiting.
    busy: bool,
    lied: bool,
    fault: Option<String>,
}

impl Record {
    /// Somebody says that it has what is looked for and is there. Whether to dial it.
    ///
    /// Anybody may name a provider and leave out where it is. What was tried for such answers, with addresses that the peer
    /// table knew, does not count once somebody says where it is.
    pub(super) fn on_offer(&mut self, addrs: Vec<PeerAddr>) -> bool {
        if self.addrs.is_empty() && !addrs.is_empty() && !self.lied {
            self.tries = 0;
        }
        for known in std::mem::replace(&mut self.addrs, addrs) {
            if !self.addrs.contains(&known) {
                self.addrs.push(known);
            }
        }
        self.addrs.truncate(MAX_RECORD_ADDRS);
        self.begin()
    }

    /// Nobody knew an address when it was to be dialled, so that was no try. Whether to dial it now.
    pub(super) fn on_no_address(&mut self, fault: String) -> bool {
        self.on_failure(fault, false, true);
        self.give_back();
        !self.addrs.is_empty() && self.begin()
    }

    /// `again`: this may be otherwise next time.
    pub(super) fn on_failure(&mut self, fault: String, lied: bool, again: bool) {
        self.busy = false;
        self.lied |= lied;
        self.fault = Some(fault);
        if !again {
            self.tries = TRIES;
        }
    }

    /// The last try does not count.
    pub(super) const fn give_back(&mut self) {
        self.tries = self.tries.saturating_sub(1);
    }

    /// No try so far counts, unless it lied.
    pub(super) const fn forgive(&mut self) {
        if !self.lied {
            self.tries = 0;
        }
    }

    pub(super) fn addrs(&self) -> &[PeerAddr] {
        &self.addrs
    }

    pub(super) fn into_addrs(self) -> Vec<PeerAddr> {
        self.addrs
    }

    pub(super) const fn has_lied(&self) -> bool {
        self.lied
    }

    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    const fn begin(&mut self) -> bool {
        let begins = !self.busy && self.tries < TRIES;
        if begins {
            self.busy = true;
            self.tries += 1;
        }
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> PeerAddr {
        PeerAddr { ip: [9, 9, 9, 9].into(), port, file_port: 0 }
    }

    /// How often it is dialled, if each dial fails.
    fn dialled(record: &mut Record, offers: usize, addrs: &[PeerAddr]) -> u32 {
        let mut dials = 0;
        for _ in 0..offers {
            if record.on_offer(addrs.to_vec()) {
                dials += 1;
                record.on_failure("nobody there".into(), false, true);
            }
        }
        dials
    }

    #[test]
    fn answers_without_addresses_use_up_no_tries_of_those_with() {
        let mut record = Record::default();
        // The peer table knows an address where it is no more.
        assert_eq!(dialled(&mut record, 10, &[]), TRIES);
        assert_eq!(dialled(&mut record, 10, &[addr(4000)]), TRIES);
        // Once: others, and none again, are no news of it.
        assert_eq!(dialled(&mut record, 10, &[addr(5000)]), 0);
        assert_eq!(dialled(&mut record, 10, &[]), 0);
    }

    #[test]
    fn a_provider_of_no_known_address_is_no_try() {
        let mut record = Record::default();
        for _ in 0..10 {
            assert!(record.on_offer(Vec::new()));
            assert!(!record.on_no_address("no address".into()));
        }
        // The table has learned of it meanwhile.
        assert_eq!(dialled(&mut record, 10, &[]), TRIES);
    }

    #[test]
    fn an_address_that_comes_while_none_is_known_is_dialled() {
        let mut record = Record::default();
        assert!(record.on_offer(Vec::new()));
        assert!(!record.on_offer(vec![addr(4000)]), "it waits already");
        assert!(!record.on_offer(Vec::new()));
        assert_eq!(record.addrs(), [addr(4000)]);
        assert!(record.on_no_address("no address".into()));
    }

    #[test]
    fn the_newest_eight_addresses_are_kept() {
        let mut record = Record::default();
        for port in 1..=20 {
            record.on_offer(vec![addr(port)]);
        }
        record.on_offer(vec![addr(19)]);
        assert_eq!(record.addrs(), [19, 20, 18, 17, 16, 15, 14, 13].map(addr));
    }

    #[test]
    fn one_that_lied_is_not_tried_again_wherever_it_is_said_to_be() {
        let mut record = Record::default();
        assert!(record.on_offer(Vec::new()));
        record.on_failure("a wrong hash".into(), true, false);
        record.forgive();
        assert!(!record.on_offer(vec![addr(4000)]));
    }
}
