//! `sink`, `reflect`, `respond`: an end that sends nothing of its own.

use crate::cli::Listen;
use crate::end::End;
use crate::live::Live;
use crate::neighbor::Responder;
use crate::profile::EndPlan;
use crate::report::{Counts, Mode, Other, Report, SCHEMA, Setup};
use crate::run::{RX_FRAMES, RunError, TX_FRAMES, token_and_time};
use crate::session::{Finished, Session, Signals, Until};
use crate::source::Streams;
use crate::summary::{generator, rates};
use crate::worker::{Progress, Role, Settings, Worker};
use std::sync::Arc;

/// Listens until it is to end.
pub fn run(arguments: &Listen, mode: Mode, signals: &Signals) -> Result<Report, RunError> {
    let plan = EndPlan {
        port: Some(arguments.rx.clone()),
        netns: arguments.netns_rx.clone(),
        addresses: arguments.address.clone(),
        answer_for: arguments.answer_for.clone(),
        cpus: arguments.cpus_rx.clone(),
        ..EndPlan::default()
    };
    let mut end = End::open(&plan, "rx", TX_FRAMES, RX_FRAMES)?;
    let responder = Arc::new(Responder::new(end.mac, &plan.addresses, &plan.answer_for));
    let (_, started_unix_ms) = token_and_time();
    let mut session = Session::new();
    for (index, queue) in std::mem::take(&mut end.queues).into_iter().enumerate() {
        let worker = Worker::<Streams> {
            sender: queue.sender,
            receiver: queue.receiver,
            source: None,
            role: if mode == Mode::Reflect { Role::Reflect } else { Role::Count },
            responder: responder.clone(),
            settings: Settings {
                epoch: session.epoch,
                burst: 0,
                max_lag: 0,
                spin: 20_000,
                streams: 0,
                cpu: end.cpu(index),
            },
            progress: Arc::new(Progress::default()),
            halt: session.halt.clone(),
            seconds: session.seconds(),
        };
        session.start(format!("rx-{index}"), worker)?;
    }
    let title = format!("{mode:?} on {}", arguments.rx.interface).to_lowercase();
    let mut live = Live::new(&arguments.show, title, true);
    let until = Until { time: arguments.duration, frames: arguments.count };
    let finished = session.listen(signals, &mut live, until);
    let mut report = report(mode, &end, &finished, started_unix_ms);
    report.warnings.extend(end.warning());
    Ok(report)
}

fn report(mode: Mode, end: &End, finished: &Finished, started_unix_ms: u64) -> Report {
    let mut other = Other::default();
    for o in &finished.outcomes {
        other.frames += o.extra.frames;
        other.bytes += o.extra.bytes;
        other.reflected += o.extra.reflected;
        other.arp += o.extra.arp;
        other.nd += o.extra.nd;
        other.echo += o.extra.echo;
    }
    let elapsed_s = finished.lasted.as_secs_f64();
    let total = Counts { received: other.frames, received_bytes: other.bytes, ..Counts::default() };
    let generator = generator(&finished.outcomes, &total);
    let unanswered: u64 = finished.outcomes.iter().map(|o| o.extra.unanswered).sum();
    let mut warnings: Vec<_> = finished.errors().collect();
    if generator.rx_dropped > 0 {
        warnings.push(format!("there was no room for {} frames", generator.rx_dropped));
    }
    if unanswered > 0 {
        warnings.push(format!("{unanswered} answers found no free frame and were not sent"));
    }
    Report {
        schema: SCHEMA.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        mode,
        profile: String::new(),
        seed: 0,
        started_unix_ms,
        ended: finished.ended,
        elapsed_s,
        setup: Setup { rx: Some(end.describe()), rate: String::new(), ..Setup::default() },
        rates: rates(&total, elapsed_s),
        total,
        latency: None,
        jitter: None,
        generator,
        streams: Vec::new(),
        seconds: finished.seconds.clone(),
        other: Some(other),
        warnings,
    }
}
