//! The workers' states over one shared segment in memory.

use millrace_dataplane::interface::Interfaces;
use millrace_dataplane::pipeline::Local;
use millrace_dataplane::state::State;
use millrace_dataplane::state::segment::{Segment, Settings, Sizes};

/// One state for each worker's own part.
pub fn build(interfaces: &Interfaces, locals: Vec<Local>) -> Vec<State> {
    let sizes = Sizes {
        workers: locals.len(),
        interfaces: interfaces.len(),
        conntrack_entries: 1 << 12,
        neighbor_entries: 1 << 8,
    };
    let segment = Segment::create(&sizes, [7, 9]).unwrap();
    let settings = Settings::of(&sizes);
    locals
        .into_iter()
        .enumerate()
        .map(|(worker, local)| State::new(&segment, worker, &settings, local).unwrap())
        .collect()
}
