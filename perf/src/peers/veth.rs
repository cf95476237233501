//! On veth: the engine, a bare AF_XDP forwarder, Linux, and Linux with kube-proxy's rules, offered the same by the same generator.
//!
//! A round takes the devices one after the other. Each is asked for: packets that arrive under overload, of flows seen in both
//! directions before; new flows a second, every packet being one; and once in the first round the highest rate with a loss of at most
//! 0.1 % (NDR), and how busy its CPU is at 200,000 packets a second. Ratios are ours over the other's in the same round.

use super::stage::{Counts, Device, Load, Receive, Setting, Stage};
use crate::kernel::Limits;
use crate::spread::Spread;
use serde::Serialize;
use std::thread::sleep;
use std::time::Duration;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numbers of services.
    pub services: Vec<u16>,
    /// Which devices, in the order of a round.
    pub devices: Vec<Device>,
    /// Whether the NDR is searched, and the CPU looked at.
    pub ndr: bool,
    /// Flows of established traffic.
    pub flows: u32,
    /// Rounds.
    pub rounds: usize,
    /// Seconds counted in each trial.
    pub seconds: f64,
    /// The device's CPU.
    pub cpu: usize,
    /// The generator's.
    pub generator_cpu: usize,
    /// Where Linux receives.
    pub receive: Receive,
}

/// Packets a second at which the CPU is looked at.
const PACED: f64 = 200_000.0;
/// Lost of what was offered, at most, for the NDR.
const LOSS: f64 = 0.001;
/// Halvings of the NDR's interval.
const STEPS: usize = 7;

/// Answers of a flow, on average, that have to come back through a device before its flows are called established: all but one flow in
/// 400 have been seen in both directions then.
const ANSWERS: u64 = 6;
/// Seconds at most until they have.
const PASSES: usize = 5;

/// One line of the table.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Line {
    /// What was measured.
    Row(Row),
    /// What can't be called what it is to be.
    Refused(Refused),
}

/// A device whose figures would not be those of established flows, or that could not be measured.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// How many services.
    pub services: u16,
    /// The device.
    pub device: &'static str,
    /// Why there are no figures.
    pub refused: String,
}

/// One device with one number of services.
#[derive(Debug, Serialize)]
pub struct Row {
    /// How many services.
    pub services: u16,
    /// The device.
    pub device: &'static str,
    /// Established packets, under overload.
    pub mpps: Spread,
    /// Ours over this, round by round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours_over: Option<Spread>,
    /// Of the packets that opened these flows, the share whose answers came back through the device, in the round with the smallest;
    /// none of devices that know no flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<f64>,
    /// Highest rate with a loss of at most 0.1 %.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ndr_mpps: Option<f64>,
    /// Share of the device's CPU at 200,000 packets a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_paced: Option<f64>,
    /// The same under overload.
    pub cpu_overload: f64,
    /// New flows, in thousands a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_kflows: Option<Spread>,
    /// Ours over this, round by round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours_over_new: Option<Spread>,
}

/// What the rounds gave for one device.
#[derive(Default)]
struct Figures {
    mpps: Vec<f64>,
    new: Vec<f64>,
    ndr: Option<f64>,
    cpu_paced: Option<f64>,
    cpu_overload: Vec<f64>,
    answered: Vec<f64>,
    /// Why nothing may be said of this device.
    refused: Option<String>,
}

/// Runs all rounds for all numbers of services.
pub fn run(
    options: &Options,
    go_on: &impl Fn() -> Result<(), String>,
) -> Result<Vec<Line>, String> {
    needs()?;
    let _limits = Limits::raise()?;
    let mut rows = Vec::new();
    for &services in &options.services {
        let setting = Setting {
            services,
            flows: options.flows,
            generator_cpu: options.generator_cpu,
            cpu: options.cpu,
            receive: options.receive,
        };
        let mut stages = Vec::new();
        for &device in &options.devices {
            go_on()?;
            eprintln!("{services} services: preparing {}", device.name());
            let stage =
                Stage::set_up(device, setting).map_err(|e| format!("{}: {e}", device.name()))?;
            stages.push((stage, Figures::default()));
        }
        for round in 1..=options.rounds.max(1) {
            for (stage, figures) in &mut stages {
                if figures.refused.is_some() {
                    continue;
                }
                let name = stage.device.name();
                let first = round == 1 && options.ndr;
                let measured = measure(stage, figures, first, options.seconds, go_on);
                // Who interrupts us interrupts also the programs of the trial, which then end early.
                go_on()?;
                if let Err(why) = measured {
                    stage.stop();
                    eprintln!("{services} services, round {round}: {name}: {why}");
                    figures.refused = Some(why);
                    continue;
                }
                let new = figures
                    .new
                    .last()
                    .map_or(String::new(), |new| format!(", {new:.0} k new flows/s"));
                let mpps = figures.mpps.last().copied().unwrap_or_default();
                eprintln!("{services} services, round {round}: {name} {mpps:.3} Mpps{new}");
            }
        }
        rows.extend(rows_of(services, &stages)?);
    }
    Ok(rows)
}

/// Programs of others, and root.
fn needs() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("the part on veth needs root, for namespaces, XDP and rules".into());
    }
    let missing: Vec<&str> = ["ip", "ethtool", "nft", "iptables-legacy-restore"]
        .into_iter()
        .filter(|program| std::process::Command::new(program).arg("-V").output().is_err())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("missing: {}: run deploy/install-deps.sh run peers", missing.join(", ")))
}

fn measure(
    stage: &mut Stage,
    figures: &mut Figures,
    first: bool,
    seconds: f64,
    go_on: &impl Fn() -> Result<(), String>,
) -> Result<(), String> {
    go_on()?;
    stage.start()?;
    figures.answered.extend(establish(stage)?);
    let (rate, busy) = overload(stage, Load::Established(None), seconds)?;
    figures.mpps.push(rate);
    figures.cpu_overload.push(busy);
    if first {
        go_on()?;
        figures.ndr = Some(ndr(stage, rate, go_on)?);
        figures.cpu_paced = Some(overload(stage, Load::Established(Some(PACED)), 1.0)?.1);
    }
    if stage.device.has_services() {
        go_on()?;
        stage.start()?;
        stage.sink(false)?;
        let (rate, _) = overload(stage, Load::New, seconds)?;
        if stage.device != Device::Engine && stage.tracked()? > 2_000_000 {
            return Err("conntrack was full: fewer --seconds".into());
        }
        figures.new.push(rate * 1000.0);
    }
    stage.stop();
    Ok(())
}

/// Lets every flow be seen in both directions: 12 packets each in a second, and more seconds where answers get lost. Returns the share
/// that was answered, counted where the generator is; none of a device that knows no flows.
fn establish(stage: &mut Stage) -> Result<Option<f64>, String> {
    let mut answered = None;
    if stage.device.has_services() {
        stage.sink(true)?;
        let before = stage.counts()?;
        for pass in 1..=PASSES {
            let running = stage.offer(Load::Established(Some(PACED)))?;
            sleep(Duration::from_secs(1));
            drop(running);
            // What is on its way comes back.
            sleep(Duration::from_millis(50));
            match seen_both_ways(&before, &stage.counts()?, stage.flows()) {
                Err(why) if pass == PASSES => return Err(why),
                Err(_) => {}
                Ok(share) => {
                    answered = Some(share);
                    break;
                }
            }
        }
    }
    stage.sink(false)?;
    Ok(answered)
}

/// The share of what was offered that came back; fails where flows are none that were seen in both directions.
fn seen_both_ways(before: &Counts, after: &Counts, flows: u32) -> Result<f64, String> {
    let (offered, arrived) = (after.offered - before.offered, after.arrived - before.arrived);
    let answered = after.answered - before.answered;
    match answered >= ANSWERS * u64::from(flows) {
        true => Ok(answered as f64 / offered.max(1) as f64),
        false => Err(format!(
            "its {flows} flows are not established: of {offered} packets {arrived} came out of it, and {answered} answers came back through it"
        )),
    }
}

/// The rate at the sink in packets per microsecond, and the share of the device's CPU that was used.
fn overload(stage: &mut Stage, load: Load, seconds: f64) -> Result<(f64, f64), String> {
    let mut running = stage.offer(load)?;
    // Warm-up.
    sleep(Duration::from_millis(500));
    let before = stage.counts()?;
    sleep(Duration::from_secs_f64(seconds));
    let after = stage.counts()?;
    running.check()?;
    stage.check()?;
    let arrived = after.arrived - before.arrived;
    if arrived == 0 {
        return Err("nothing arrived at the sink".into());
    }
    let microseconds = (after.at - before.at).as_secs_f64() * 1e6;
    Ok((arrived as f64 / microseconds, after.ticks.busy_since(before.ticks)))
}

/// Halves the interval below a little more than `top` (packets per microsecond). A rate that is lost at once may be tried again: on a
/// shared machine a core is taken away now and then.
fn ndr(
    stage: &mut Stage,
    top: f64,
    go_on: &impl Fn() -> Result<(), String>,
) -> Result<f64, String> {
    let (mut good, mut bad) = (0.0, top * 1.2);
    for _ in 0..STEPS {
        let rate = f64::midpoint(good, bad);
        let mut passed = None;
        for _ in 0..2 {
            go_on()?;
            let (offered, lost) = paced(stage, rate)?;
            if lost <= LOSS {
                passed = Some(offered);
                break;
            }
        }
        match passed {
            // What came out of the generator, in case that it can't do more.
            Some(offered) => good = offered.min(rate),
            None => bad = rate,
        }
        if bad <= good {
            break;
        }
    }
    Ok(good)
}

/// Offers at a rate for a second: packets per microsecond that were offered, and the share of them that was lost.
fn paced(stage: &mut Stage, rate: f64) -> Result<(f64, f64), String> {
    let before = stage.counts()?;
    let mut running = stage.offer(Load::Established(Some(rate * 1e6)))?;
    sleep(Duration::from_secs(1));
    running.check()?;
    let middle = stage.counts()?;
    drop(running);
    // What is on its way arrives.
    sleep(Duration::from_millis(50));
    let after = stage.counts()?;
    Ok((offered_rate(&before, &middle), lost(&before, &after)))
}

fn offered_rate(before: &Counts, after: &Counts) -> f64 {
    (after.offered - before.offered) as f64 / ((after.at - before.at).as_secs_f64() * 1e6)
}

fn lost(before: &Counts, after: &Counts) -> f64 {
    let offered = (after.offered - before.offered).max(1);
    1.0 - (after.arrived - before.arrived) as f64 / offered as f64
}

fn rows_of(services: u16, stages: &[(Stage, Figures)]) -> Result<Vec<Line>, String> {
    let ours = stages.iter().find(|(stage, _)| stage.device == Device::Engine);
    let ours = ours.map(|(_, figures)| figures).filter(|figures| figures.refused.is_none());
    let rows = stages.iter().map(|(stage, figures)| line_of(services, stage.device, figures, ours));
    rows.collect::<Option<_>>().ok_or_else(|| "no trial".to_owned())
}

fn line_of(
    services: u16,
    device: Device,
    figures: &Figures,
    ours: Option<&Figures>,
) -> Option<Line> {
    if let Some(why) = &figures.refused {
        let refused = why.clone();
        return Some(Line::Refused(Refused { services, device: device.name(), refused }));
    }
    let ratio = |ours: &[f64], theirs: &[f64]| {
        Spread::of(&ours.iter().zip(theirs).map(|(a, b)| a / b).collect::<Vec<_>>())
    };
    Some(Line::Row(Row {
        services,
        device: device.name(),
        mpps: Spread::of(&figures.mpps)?,
        ours_over: ours.and_then(|ours| ratio(&ours.mpps, &figures.mpps)),
        answered: figures.answered.iter().copied().reduce(f64::min),
        ndr_mpps: figures.ndr,
        cpu_paced: figures.cpu_paced,
        cpu_overload: Spread::of(&figures.cpu_overload)?.median,
        new_kflows: Spread::of(&figures.new),
        ours_over_new: ours.and_then(|ours| ratio(&ours.new, &figures.new)),
    }))
}

/// Prints the rows for people.
pub fn table(options: &Options, lines: &[Line]) {
    println!(
        "veth, copy mode, 64-byte UDP, {} flows, 4 endpoints a service; device on CPU {}, generator on CPU {}, Linux {}; {} rounds of {} s",
        options.flows,
        options.cpu,
        options.generator_cpu,
        match options.receive {
            Receive::Generator => "receives on the generator's and hands over by RPS",
            Receive::Dut => "receives on the device's in a thread",
        },
        options.rounds.max(1),
        options.seconds
    );
    for services in &options.services {
        println!("\n{services} services");
        println!(
            "{:<29} {:^23}  {:^23}  {:>8} {:>6} {:>5}  {:^23}  {:^23}",
            "",
            "established, Mpps",
            "ours / this",
            "answered",
            "NDR",
            "CPU",
            "new flows, k/s",
            "ours / this"
        );
        for line in lines {
            match line {
                Line::Row(row) if row.services == *services => println!("{}", words(row)),
                Line::Refused(it) if it.services == *services => {
                    println!("{:<29} NOT MEASURED: {}", it.device, it.refused);
                }
                _ => {}
            }
        }
    }
    println!(
        "\nMinimum, median, maximum. Answered: of the packets that opened the flows, those whose answers came back through the device. NDR: highest rate in Mpps with at most 0.1 % lost. CPU: of the device's CPU at 200,000 packets a second. \
         Without: the bare forwarder and Linux forwarding have no services, NAT or conntrack; Linux has no drop reason per packet."
    );
}

fn words(row: &Row) -> String {
    let none = || format!("{:^23}", "-");
    let ratio = |it: Option<Spread>| it.map_or_else(none, |it| it.to_string());
    let kflows = |it: Spread| format!("{:>7.0} {:>7.0} {:>7.0}", it.min, it.median, it.max);
    format!(
        "{:<29} {}  {}  {:>8} {:>6} {:>5}  {}  {}",
        row.device,
        row.mpps,
        ratio(row.ours_over),
        row.answered.map_or("-".into(), |share| format!("{:.1} %", share * 100.0)),
        row.ndr_mpps.map_or("-".into(), |rate| format!("{rate:.3}")),
        row.cpu_paced.map_or("-".into(), |share| format!("{:.0}%", share * 100.0)),
        row.new_kflows.map_or_else(none, kflows),
        ratio(row.ours_over_new),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Ticks;
    use std::time::Instant;

    #[test]
    fn loss_is_what_was_offered_and_did_not_arrive() {
        let ticks = Ticks { busy: 0, all: 0 };
        let before = Counts { offered: 1000, arrived: 900, answered: 0, ticks, at: Instant::now() };
        let after = Counts {
            offered: 2000,
            arrived: 1899,
            answered: 499,
            ticks,
            at: before.at + Duration::from_micros(500),
        };
        assert!((lost(&before, &after) - 0.001).abs() < 1e-9);
        assert_eq!(offered_rate(&before, &after), 2.0);
        // All but one came out of it, and fewer than six answers of each flow came back.
        let why = seen_both_ways(&before, &after, 100).unwrap_err();
        assert!(why.contains("999 came out of it, and 499 answers"), "{why}");
        assert_eq!(seen_both_ways(&before, &Counts { answered: 900, ..after }, 100), Ok(0.9));
    }

    #[test]
    fn what_was_refused_has_no_figures_and_gives_no_ratios() {
        let figures = || Figures { mpps: vec![1.0], cpu_overload: vec![1.0], ..Figures::default() };
        let refused = || Figures { refused: Some("no answers".into()), ..figures() };
        let line = line_of(10, Device::Nftables, &refused(), Some(&figures())).unwrap();
        let json = serde_json::to_string(&line).unwrap();
        assert_eq!(
            json,
            r#"{"services":10,"device":"nftables (kube-proxy)","refused":"no answers"}"#
        );
        let Some(Line::Row(row)) = line_of(10, Device::Bare, &figures(), None) else { panic!() };
        assert!(row.ours_over.is_none() && words(&row).contains('-'));
    }
}
