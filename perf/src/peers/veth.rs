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
    pub ours_over: Spread,
    /// Highest rate with a loss of at most 0.1 %.
    pub ndr_mpps: f64,
    /// Share of the device's CPU at 200,000 packets a second.
    pub cpu_paced: f64,
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
    ndr: f64,
    cpu_paced: f64,
    cpu_overload: Vec<f64>,
}

/// Runs all rounds for all numbers of services.
pub fn run(options: &Options, go_on: &impl Fn() -> Result<(), String>) -> Result<Vec<Row>, String> {
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
        for device in Device::ALL {
            go_on()?;
            eprintln!("{services} services: preparing {}", device.name());
            let stage =
                Stage::set_up(device, setting).map_err(|e| format!("{}: {e}", device.name()))?;
            stages.push((stage, Figures::default()));
        }
        for round in 1..=options.rounds.max(1) {
            for (stage, figures) in &mut stages {
                let name = stage.device.name();
                measure(stage, figures, round == 1, options.seconds, go_on)
                    // Who interrupts us interrupts also the programs of the trial, which then end early.
                    .map_err(|e| go_on().err().unwrap_or(format!("{name}: {e}")))?;
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
    establish(stage)?;
    let (rate, busy) = overload(stage, Load::Established(None), seconds)?;
    figures.mpps.push(rate);
    figures.cpu_overload.push(busy);
    if first {
        go_on()?;
        figures.ndr = ndr(stage, rate, go_on)?;
        figures.cpu_paced = overload(stage, Load::Established(Some(PACED)), 1.0)?.1;
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

/// Lets every flow be seen in both directions: 12 packets each on average, all but one flow in 100,000 one at least.
fn establish(stage: &mut Stage) -> Result<(), String> {
    if stage.device.has_services() {
        stage.sink(true)?;
        let running = stage.offer(Load::Established(Some(PACED)))?;
        sleep(Duration::from_secs(1));
        drop(running);
    }
    stage.sink(false)
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

fn rows_of(services: u16, stages: &[(Stage, Figures)]) -> Result<Vec<Row>, String> {
    let ours = stages.iter().find(|(stage, _)| stage.device == Device::Engine);
    let ours = &ours.ok_or("ours is missing")?.1;
    let ratio = |ours: &[f64], theirs: &[f64]| {
        Spread::of(&ours.iter().zip(theirs).map(|(a, b)| a / b).collect::<Vec<_>>())
    };
    let row = |(stage, figures): &(Stage, Figures)| {
        Some(Row {
            services,
            device: stage.device.name(),
            mpps: Spread::of(&figures.mpps)?,
            ours_over: ratio(&ours.mpps, &figures.mpps)?,
            ndr_mpps: figures.ndr,
            cpu_paced: figures.cpu_paced,
            cpu_overload: Spread::of(&figures.cpu_overload)?.median,
            new_kflows: Spread::of(&figures.new),
            ours_over_new: ratio(&ours.new, &figures.new),
        })
    };
    stages.iter().map(row).collect::<Option<_>>().ok_or_else(|| "no trial".to_owned())
}

/// Prints the rows for people.
pub fn table(options: &Options, rows: &[Row]) {
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
            "{:<29} {:^23}  {:^23}  {:>6} {:>5}  {:^23}  {:^23}",
            "", "established, Mpps", "ours / this", "NDR", "CPU", "new flows, k/s", "ours / this"
        );
        for row in rows.iter().filter(|row| row.services == *services) {
            let none = || format!("{:^23}", "-");
            println!(
                "{:<29} {}  {}  {:>6.3} {:>4.0}%  {}  {}",
                row.device,
                row.mpps,
                row.ours_over,
                row.ndr_mpps,
                row.cpu_paced * 100.0,
                row.new_kflows.map_or_else(none, |it| format!(
                    "{:>7.0} {:>7.0} {:>7.0}",
                    it.min, it.median, it.max
                )),
                row.ours_over_new.map_or_else(none, |it| it.to_string()),
            );
        }
    }
    println!(
        "\nMinimum, median, maximum. NDR: highest rate in Mpps with at most 0.1 % lost. CPU: of the device's CPU at 200,000 packets a second. \
         Without: the bare forwarder and Linux forwarding have no services, NAT or conntrack; Linux has no drop reason per packet."
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Ticks;
    use std::time::Instant;

    #[test]
    fn loss_is_what_was_offered_and_did_not_arrive() {
        let ticks = Ticks { busy: 0, all: 0 };
        let before = Counts { offered: 1000, arrived: 900, ticks, at: Instant::now() };
        let after = Counts {
            offered: 2000,
            arrived: 1899,
            ticks,
            at: before.at + Duration::from_micros(500),
        };
        assert!((lost(&before, &after) - 0.001).abs() < 1e-9);
        assert_eq!(offered_rate(&before, &after), 2.0);
    }
}
