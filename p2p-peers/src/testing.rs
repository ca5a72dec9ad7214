//! What the unit tests share.

/// Some instant; tests count from here.
#[expect(clippy::disallowed_methods, reason = "there is no other way to make an instant")]
pub(crate) fn start() -> std::time::Instant {
    std::time::Instant::now()
}
