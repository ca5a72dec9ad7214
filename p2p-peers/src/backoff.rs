//! How long to wait before a failed dial is tried again.

use std::time::Duration;

use rand::{Rng, RngExt};

/// The wait before the next dial after `failures` failures in a row: `base`, doubled per further failure, at most
/// `max`, of which a random part of up to a half is taken off.
///
/// The random part keeps nodes that lost each other at the same moment from dialling each other at the same moment for
/// ever. No failure counts as one: there is always some wait.
pub(crate) fn delay<R: Rng>(failures: u32, base: Duration, max: Duration, rng: &mut R) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let full = base.saturating_mul(1 << doublings).min(max);
    full.mul_f64(rng.random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    const BASE: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(600);

    #[test]
    fn doubles_from_one_second_to_ten_minutes() {
        let mut rng = StdRng::seed_from_u64(1);
        for (failures, full) in
            [(0, 1), (1, 1), (2, 2), (3, 4), (10, 512), (11, 600), (12, 600), (u32::MAX, 600)]
        {
            for _ in 0..50 {
                let wait = delay(failures, BASE, MAX, &mut rng);
                let full = Duration::from_secs(full);
                assert!(wait <= full && wait >= full / 2, "{failures} failures: {wait:?}");
            }
        }
    }

    #[test]
    fn two_nodes_do_not_stay_in_step() {
        let (mut a, mut b) = (StdRng::seed_from_u64(1), StdRng::seed_from_u64(2));
        assert_ne!(delay(5, BASE, MAX, &mut a), delay(5, BASE, MAX, &mut b));
    }
}
