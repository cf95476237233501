//! What a run says at its end: the counts, rates and times, of the whole and of each stream.
//!
//! `schema/report.schema.json` is the same as a JSON Schema, and a test keeps both in step. Within a major version of
//! [`SCHEMA`] fields are added, never renamed or removed, and readers ignore those they don't know.
//!
//! The words are used strictly:
//!
//! | word | who counted it |
//! |---|---|
//! | asked | the schedule: packets that were due while the run lasted |
//! | queued | put into a transmit ring by the generator |
//! | completed | given back by the kernel through the completion ring: sent, or refused by the device |
//! | unsent | asked − queued: the generator's own fault, never called loss |
//! | received | different packets of this run that came in at the receiver |
//! | lost | completed − received − corrupted, of packets that carry a signature |

use serde::{Deserialize, Serialize};

/// The format's name and version.
pub const SCHEMA: &str = "millrace-pktgen/1";

/// The published JSON Schema of [`Report`].
pub const JSON_SCHEMA: &str = include_str!("../schema/report.schema.json");

/// Everything a run has to say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Version of the generator.
    pub version: String,
    /// What was done.
    pub mode: Mode,
    /// Name of the profile; empty without one.
    pub profile: String,
    /// Seed of everything that is random.
    pub seed: u64,
    /// Milliseconds since 1970 when sending (or receiving) began.
    pub started_unix_ms: u64,
    /// Why it ended.
    pub ended: Ended,
    /// Seconds from the first packet's time to the end of sending; for receivers, of receiving.
    pub elapsed_s: f64,
    /// Where packets went out and came in.
    pub setup: Setup,
    /// All streams together; what was received, lost, doubled or reordered of those with a signature.
    pub total: Counts,
    /// Rates over `elapsed_s`.
    pub rates: Rates,
    /// Time from when a packet was due to when it was received; none where nothing with a time was received.
    pub latency: Option<Percentiles>,
    /// Differences between the latencies of consecutive packets of a stream (RFC 3550 §6.4.1, not smoothed).
    pub jitter: Option<Percentiles>,
    /// What the generator itself did, and could not do.
    pub generator: Generator,
    /// The streams in the profile's order.
    pub streams: Vec<Stream>,
    /// One entry for each second, in order.
    pub seconds: Vec<Second>,
    /// What other modes than `run` and `replay` counted.
    pub other: Option<Other>,
    /// What makes the figures doubtful, in words.
    pub warnings: Vec<String>,
}

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Sent streams and received them.
    Run,
    /// Sent a capture.
    Replay,
    /// Received and counted.
    Sink,
    /// Sent back what came in.
    Reflect,
    /// Answered ARP, ND and echo requests.
    Respond,
    /// Opened TCP connections.
    Tcp,
    /// Asked and awaited answers over UDP.
    Udp,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// Its time was over.
    Duration,
    /// It had sent what it was to send.
    Count,
    /// A signal came.
    Interrupted,
    /// An error, which is among the warnings.
    Failed,
}

/// Where packets went out and came in, and how much was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Setup {
    /// The sending interface.
    pub tx: Option<End>,
    /// The receiving interface; the same as `tx` where both are one.
    pub rx: Option<End>,
    /// The rate as it was asked for; `max` for as much as possible.
    pub rate: String,
    /// That rate as packets a second (with the streams' mean size); none for `max` and for a replay.
    pub rate_pps: Option<f64>,
    /// Mean size of the frames in bytes, with the FCS.
    pub mean_size: f64,
}

/// One interface as it was used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct End {
    /// Its name.
    pub interface: String,
    /// The network namespace, where it isn't the generator's own.
    pub netns: Option<String>,
    /// Queues that were used.
    pub queues: u32,
    /// CPUs that the queues' threads were pinned to, in the queues' order; empty where they were not.
    pub cpus: Vec<u32>,
    /// Whether the sockets are in zero-copy mode.
    pub zero_copy: bool,
    /// Its driver: `veth`, `ice`, …
    pub driver: String,
    /// Its MAC address.
    pub mac: String,
    /// Bits a second that it claims (a veth claims 10 Gbit/s); none where it doesn't say.
    pub line_rate: Option<f64>,
}

/// Packets, by what became of them. See the [module](self) for the words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Counts {
    /// Due by the schedule.
    pub asked: u64,
    /// Put into a transmit ring.
    pub queued: u64,
    /// Given back by the kernel.
    pub completed: u64,
    /// asked − queued.
    pub unsent: u64,
    /// Different packets received.
    pub received: u64,
    /// Never received within the drain time: completed − received − corrupted, and never less than zero.
    pub lost: u64,
    /// Received more than once: the further copies.
    pub duplicated: u64,
    /// Received after one with a higher sequence number of its stream (RFC 4737 §3.3, type-P-reordered).
    pub reordered: u64,
    /// Received with a broken signature or a wrong checksum; they are not among `received`.
    pub corrupted: u64,
    /// Bytes of the queued frames, with the FCS of 4 bytes each.
    pub queued_bytes: u64,
    /// Bytes of the received frames, with the FCS of 4 bytes each.
    pub received_bytes: u64,
}

/// Rates over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rates {
    /// What the kernel completed.
    pub tx: Rate,
    /// What was received.
    pub rx: Rate,
    /// lost / completed; 0 where nothing was completed.
    pub loss_ratio: f64,
}

/// One rate in its three forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rate {
    /// Packets a second.
    pub pps: f64,
    /// Bits a second of frames with their FCS.
    pub l2_bps: f64,
    /// The same with preamble and gap: 20 bytes more for each frame.
    pub l1_bps: f64,
}

/// A distribution of times in nanoseconds, from an HDR histogram of three significant digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Percentiles {
    /// Values in it.
    pub count: u64,
    /// Smallest.
    pub min_ns: u64,
    /// Mean.
    pub mean_ns: f64,
    /// Median.
    pub p50_ns: u64,
    /// 90 of 100 are not above it.
    pub p90_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1,000.
    pub p99_9_ns: u64,
    /// 9,999 of 10,000.
    pub p99_99_ns: u64,
    /// Greatest.
    pub max_ns: u64,
}

/// What the generator did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Generator {
    /// asked − queued, all streams together: due, and given up because sending lagged too far behind.
    pub unsent: u64,
    /// queued − completed at the end: the kernel never said what became of them. Not counted as loss.
    pub uncompleted: u64,
    /// How far sending was behind the schedule, packet by packet; none at rate `max`.
    pub lag: Option<Percentiles>,
    /// Times that a burst found the transmit ring or the frames used up.
    pub tx_full: u64,
    /// System calls that asked the kernel to send.
    pub kicks: u64,
    /// Descriptors that the kernel refused to send (XDP_STATISTICS).
    pub tx_invalid: u64,
    /// Packets dropped at the receiver because its sockets had no room (XDP_STATISTICS: rx_dropped and rx_ring_full):
    /// they are among `lost`, and the receiver's fault, not the DUT's.
    pub rx_dropped: u64,
    /// Times that the kernel found the fill ring empty (XDP_STATISTICS).
    pub rx_fill_empty: u64,
    /// Received frames that are not of this run, nor answered: neighbors' talk, other traffic.
    pub rx_foreign: u64,
    /// ARP, ND and echo requests that were answered meanwhile.
    pub answered: u64,
}

/// One stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stream {
    /// Its name in the profile.
    pub name: String,
    /// Whether its packets carry a signature; without one nothing of it is received, lost, duplicated or reordered.
    pub signature: bool,
    /// Its packets.
    pub counts: Counts,
    /// Their latency.
    pub latency: Option<Percentiles>,
    /// Their jitter.
    pub jitter: Option<Percentiles>,
}

/// What happened in one second. `--json-lines` prints it as it happens, with `{"second": …}` around it.
///
/// In `tcp` and `udp` conversations are counted: begun as asked, established as queued and completed, finished as received; the times are
/// those to establish one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Second {
    /// Its end, in seconds since the start.
    pub at_s: f64,
    /// How long it was: less than one at the end.
    pub length_s: f64,
    /// Due in it.
    pub asked: u64,
    /// Queued in it.
    pub queued: u64,
    /// Completed in it.
    pub completed: u64,
    /// Received in it.
    pub received: u64,
    /// Received in it more than once.
    pub duplicated: u64,
    /// Received in it out of order.
    pub reordered: u64,
    /// Received in it with a wrong signature or checksum.
    pub corrupted: u64,
    /// Bytes queued, with FCS.
    pub queued_bytes: u64,
    /// Bytes received, with FCS.
    pub received_bytes: u64,
    /// Median latency of those received in it; 0 where there are none.
    pub p50_ns: u64,
    /// Their 99th percentile.
    pub p99_ns: u64,
    /// Their greatest.
    pub max_ns: u64,
}

/// Counts of the other modes; those that don't belong to the mode are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Other {
    /// Frames that came in.
    pub frames: u64,
    /// Their bytes, with FCS.
    pub bytes: u64,
    /// Sent back (`reflect`).
    pub reflected: u64,
    /// ARP requests answered.
    pub arp: u64,
    /// Neighbor solicitations answered.
    pub nd: u64,
    /// Echo requests answered.
    pub echo: u64,
    /// TCP connections or UDP requests begun.
    pub opened: u64,
    /// TCP connections that were established.
    pub established: u64,
    /// Connections or requests that came to their proper end.
    pub finished: u64,
    /// Connections that the other side reset.
    pub reset: u64,
    /// Connections or requests given up after their timeout.
    pub timed_out: u64,
    /// Most connections open at once.
    pub concurrent_max: u64,
    /// Application bytes sent.
    pub sent_bytes: u64,
    /// Application bytes received.
    pub received_bytes: u64,
    /// Finished connections (or requests) a second.
    pub per_second: f64,
    /// Time from SYN to established, or from request to answer.
    pub setup_time: Option<Percentiles>,
    /// Time from SYN to closed.
    pub life_time: Option<Percentiles>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_schema_is_that_of_the_types() {
        let ours = schemars::schema_for!(Report);
        let ours = serde_json::to_string_pretty(&ours).unwrap() + "\n";
        if std::env::var_os("MILLRACE_WRITE_SCHEMA").is_some() {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/report.schema.json");
            std::fs::write(file, &ours).unwrap();
        }
        assert!(ours == JSON_SCHEMA, "run the test again with MILLRACE_WRITE_SCHEMA=1");
    }
}
