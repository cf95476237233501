//! From what the workers counted to the report.

use crate::counts::{Outcome, Sent};
use crate::latency::Times;
use crate::profile::{Length, Plan};
use crate::receive::{Delays, Tally};
use crate::report::{
    Counts, End, Ended, Generator, Mode, Rate, Rates, Report, SCHEMA, Setup, Stream,
};
use crate::session::Finished;
use crate::units::{self, PREAMBLE_AND_GAP};

/// Lag above which the generator is said to have been late.
const LATE: u64 = 1_000_000;

/// What is known before a run.
pub struct Facts<'a> {
    /// What was done.
    pub mode: Mode,
    /// The plan.
    pub plan: &'a Plan,
    /// The run's token.
    pub token: u16,
    /// When it started.
    pub started_unix_ms: u64,
    /// The sending end.
    pub tx: End,
    /// The receiving end.
    pub rx: Option<End>,
    /// The line rate in bit/s.
    pub line: Option<f64>,
}

/// The report of a run.
pub fn report(facts: &Facts<'_>, finished: &Finished) -> Report {
    let plan = facts.plan;
    let outcomes = &finished.outcomes;
    let receives = facts.rx.is_some();
    let broken: u64 = outcomes.iter().filter_map(|o| o.detector.as_ref()).map(|d| d.broken).sum();
    let mut streams = Vec::with_capacity(plan.streams.len());
    let mut total = Counts::default();
    let mut too_old = 0;
    for (index, of) in plan.streams.iter().enumerate() {
        let (counts, old) = stream_counts(outcomes, index, of.signature && receives);
        too_old += old;
        add(&mut total, &counts);
        let delays = merged(outcomes.iter().filter_map(|o| o.detector.as_ref()?.delays(index)));
        streams.push(Stream {
            name: of.name.clone(),
            signature: of.signature,
            counts,
            latency: delays.as_ref().and_then(|d| d.latency.percentiles()),
            jitter: delays.as_ref().and_then(|d| d.jitter.percentiles()),
        });
    }
    total.corrupted += broken;
    total.lost = total.lost.saturating_sub(broken);
    let delays = merged(outcomes.iter().filter_map(|o| Some(&o.detector.as_ref()?.all)));
    let rate_pps = plan.rate.packets(plan.mean_size(), facts.line);
    let ended = match (finished.ended, plan.length) {
        (Ended::Duration, Length::Packets(_)) => Ended::Count,
        (ended, _) => ended,
    };
    let last = outcomes.iter().map(|o| o.last_sent).max().unwrap_or(0) as f64 / 1e9;
    let elapsed_s = match (ended, plan.length) {
        (Ended::Duration, Length::Time(time)) => last.max(time.as_secs_f64()),
        _ => last + rate_pps.map_or(0.0, |pps| 1.0 / pps),
    };
    let generator = generator(outcomes, &total);
    let mut report = Report {
        schema: SCHEMA.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        mode: facts.mode,
        profile: plan.name.clone(),
        seed: plan.seed,
        started_unix_ms: facts.started_unix_ms,
        ended,
        elapsed_s,
        setup: Setup {
            tx: Some(facts.tx.clone()),
            rx: facts.rx.clone(),
            rate: plan.rate.to_string(),
            rate_pps,
            mean_size: plan.mean_size(),
        },
        rates: rates(&total, elapsed_s),
        total,
        latency: delays.as_ref().and_then(|d| d.latency.percentiles()),
        jitter: delays.as_ref().and_then(|d| d.jitter.percentiles()),
        generator,
        streams,
        seconds: finished.seconds.clone(),
        other: None,
        warnings: Vec::new(),
    };
    report.warnings = warnings(&report, outcomes, too_old, facts.line);
    report
}

/// Rates of counts over a time.
pub fn rates(total: &Counts, elapsed_s: f64) -> Rates {
    let rate = |packets: u64, bytes: f64| {
        let packets = packets as f64;
        if elapsed_s <= 0.0 {
            return Rate::default();
        }
        Rate {
            pps: packets / elapsed_s,
            l2_bps: bytes * 8.0 / elapsed_s,
            l1_bps: (bytes + packets * PREAMBLE_AND_GAP as f64) * 8.0 / elapsed_s,
        }
    };
    // Completions say nothing of bytes: those of all that was queued, in proportion.
    let sent = total.queued_bytes as f64 * total.completed as f64 / total.queued.max(1) as f64;
    Rates {
        tx: rate(total.completed, sent),
        rx: rate(total.received, total.received_bytes as f64),
        loss_ratio: total.lost as f64 / total.completed.max(1) as f64,
    }
}

fn stream_counts(outcomes: &[Outcome], index: usize, received: bool) -> (Counts, u64) {
    let mut sent = Sent::default();
    let mut tally = Tally::default();
    for outcome in outcomes {
        if let Some(more) = outcome.sent.get(index) {
            sent.add(more);
        }
        if let Some(detector) = &outcome.detector {
            tally.add(&detector.tally(index));
        }
    }
    let lost = sent.completed.saturating_sub(tally.received + tally.corrupted);
    let counts = Counts {
        asked: sent.asked,
        queued: sent.queued,
        completed: sent.completed,
        unsent: sent.asked - sent.queued,
        received: tally.received,
        lost: if received { lost } else { 0 },
        duplicated: tally.duplicated,
        reordered: tally.reordered,
        corrupted: tally.corrupted,
        queued_bytes: sent.bytes,
        received_bytes: tally.bytes,
    };
    (counts, tally.too_old)
}

fn add(total: &mut Counts, more: &Counts) {
    total.asked += more.asked;
    total.queued += more.queued;
    total.completed += more.completed;
    total.unsent += more.unsent;
    total.received += more.received;
    total.lost += more.lost;
    total.duplicated += more.duplicated;
    total.reordered += more.reordered;
    total.corrupted += more.corrupted;
    total.queued_bytes += more.queued_bytes;
    total.received_bytes += more.received_bytes;
}

fn merged<'a>(mut delays: impl Iterator<Item = &'a Delays>) -> Option<Delays> {
    let mut all = delays.next()?.clone();
    delays.for_each(|more| all.add(more));
    Some(all)
}

/// What the workers did beside.
pub fn generator(outcomes: &[Outcome], total: &Counts) -> Generator {
    let mut lag: Option<Times> = None;
    let mut sum = Generator {
        unsent: total.unsent,
        uncompleted: total.queued - total.completed.min(total.queued),
        ..Generator::default()
    };
    for o in outcomes {
        match &mut lag {
            Some(lag) => lag.add(&o.lag),
            None => lag = Some(o.lag.clone()),
        }
        sum.tx_full += o.full;
        sum.kicks += o.kicks;
        sum.tx_invalid += o.statistics.tx_invalid;
        sum.rx_dropped += o.statistics.rx_dropped + o.statistics.rx_ring_full;
        sum.rx_fill_empty += o.statistics.rx_fill_empty;
        sum.rx_foreign += o.extra.foreign;
        sum.answered += o.extra.arp + o.extra.nd + o.extra.echo;
    }
    sum.lag = lag.and_then(|lag| lag.percentiles());
    sum
}

fn warnings(report: &Report, outcomes: &[Outcome], too_old: u64, line: Option<f64>) -> Vec<String> {
    let mut all = Vec::new();
    let (total, generator) = (&report.total, &report.generator);
    let mut say = |condition: bool, text: String| {
        if condition {
            all.push(text);
        }
    };
    say(
        generator.unsent > 0,
        format!(
            "the generator could not send {} of {} packets in time: its limit, not the receiver's",
            generator.unsent, total.asked
        ),
    );
    let lag = generator.lag.unwrap_or_default();
    say(
        lag.p99_ns > LATE,
        format!(
            "one packet in a hundred was sent {} ms late or later: latencies have that in them",
            lag.p99_ns / 1_000_000
        ),
    );
    say(
        generator.uncompleted > 0,
        format!(
            "the kernel never completed {} packets; they are not counted as lost",
            generator.uncompleted
        ),
    );
    say(
        generator.tx_invalid > 0,
        format!("the kernel refused {} descriptors", generator.tx_invalid),
    );
    say(
        generator.rx_dropped > 0,
        format!(
            "the receiver had no room for {} packets: they are lost, but not by what is tested",
            generator.rx_dropped
        ),
    );
    say(too_old > 0, format!("{too_old} packets came too late to tell whether they were copies"));
    say(outcomes.iter().any(|o| !o.pinned), "a thread could not be pinned to its CPU".into());
    say(
        report.setup.rx.is_some()
            && total.received == 0
            && total.completed > 0
            && report.streams.iter().any(|s| s.signature),
        format!("nothing was received ({} other frames came)", generator.rx_foreign),
    );
    say(
        total.received > total.completed && report.setup.rx.is_some(),
        "more was received than was sent: another run has the same token".into(),
    );
    let l1 = report.rates.tx.l1_bps;
    say(
        line.is_some_and(|line| l1 > line * 1.001),
        format!(
            "the rate of {}bit/s at layer 1 is more than the line's: this interface doesn't limit it",
            units::Short(l1)
        ),
    );
    all
}
