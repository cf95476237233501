//! A forwarder that drops, duplicates, reorders, delays and throttles packets by a seeded plan, and counts what it did: the device
//! under test whose truth is known.
//!
//! ```text
//! in ─► fate by the plan ─► capacity (a queue and a server) ─► delay ─► out
//! ```
//! Decides: nothing by itself; the same seed does the same to the nth packet. Packets that are neither IPv4, IPv6 nor tagged
//! (ARP, LLDP) go through untouched. Cost: one clock read and at most three ring calls a burst; a packet that waits keeps its frame.

mod forward;
mod line;
mod plan;
mod truth;

use clap::Args;
use std::time::Duration;

pub use forward::run;
pub use line::{Leave, Line};
pub use plan::{Capacity, Fate, Plan};
pub use truth::Truth;

/// What to do, between which interfaces.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Interface that packets come in on, all of its queues
    #[arg(long = "in", value_name = "INTERFACE")]
    pub from: String,
    /// Interface that they leave by
    #[arg(long = "out", value_name = "INTERFACE")]
    pub to: String,
    /// Forward what comes in on the other interface back, untouched and uncounted
    #[arg(long)]
    pub both_ways: bool,
    /// Share of packets that are dropped
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// Share that are sent twice
    #[arg(long, default_value_t = 0.0)]
    pub duplicate: f64,
    /// Share that change places with the next packet
    #[arg(long, default_value_t = 0.0)]
    pub reorder: f64,
    /// How long each packet waits (1ms, 250us)
    #[arg(long, default_value = "0s", value_parser = crate::units::duration)]
    pub delay: Duration,
    /// By chance up to this much longer; packets keep their order
    #[arg(long, default_value = "0s", value_parser = crate::units::duration)]
    pub jitter: Duration,
    /// Packets a second that it carries (100kpps); what is above is dropped
    #[arg(long, value_parser = crate::units::rate)]
    pub capacity: Option<f64>,
    /// Packets that may wait for that: in T seconds it carries capacity * T + queue
    #[arg(long, default_value_t = 64)]
    pub queue: u32,
    /// Another seed, other packets
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// CPU to run on
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Frames of memory, and so the most packets that can wait: a power of two
    #[arg(long, default_value_t = 16_384)]
    pub frames: u32,
}

impl Options {
    /// The plan in them, checked.
    pub fn plan(&self) -> Result<Plan, String> {
        let plan = Plan {
            loss: self.loss,
            duplicate: self.duplicate,
            reorder: self.reorder,
            seed: self.seed,
        };
        plan.check()?;
        if self.queue == 0 {
            return Err("--queue 0: nothing would go through".into());
        }
        if !self.frames.is_power_of_two() || !(4096..=1 << 20).contains(&self.frames) {
            return Err(format!("--frames {}: a power of two from 4096 to 1048576", self.frames));
        }
        Ok(plan)
    }

    /// A line that does it.
    pub fn line<P>(&self) -> Result<Line<P>, String> {
        let capacity = self.capacity.map(|rate| Capacity::new(rate, self.queue));
        let nanoseconds = |duration: Duration| duration.as_nanos() as u64;
        Ok(Line::new(self.plan()?, capacity, nanoseconds(self.delay), nanoseconds(self.jitter)))
    }
}
