//! What goes wrong, and how often.

/// Chances in 1,000, for each change sent or each request answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A change is sent twice, the second time some changes later.
    pub twice: u32,
    /// A change comes after the one that follows it.
    pub late: u32,
    /// A change is kept back; some changes later the watch ends with 410, as of a server that has noticed.
    pub lost: u32,
    /// A change is never sent, and nobody notices.
    pub silent: u32,
    /// The connection breaks in the middle of a change.
    pub cut: u32,
    /// The watch ends with 410.
    pub gone: u32,
    /// A request is answered with 500, 503, 429 or by hanging up.
    pub failed: u32,
    /// A line is no JSON.
    pub garbage: u32,
}

/// SplitMix64: the same faults for the same seed and order of events.
#[derive(Debug)]
pub(crate) struct Luck(pub(crate) u64);

impl Luck {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn strikes(&mut self, chance: u32) -> bool {
        chance > 0 && self.next() % 1000 < u64::from(chance)
    }
}
