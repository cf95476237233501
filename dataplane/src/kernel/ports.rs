//! Whether the source ports of masqueraded flows are the engine's alone on the node's addresses.
//!
//! The kernel gives out ports of `ip_local_port_range` that `ip_local_reserved_ports` does not name; those the engine must not use. A socket that was
//! bound to one of the engine's by name still gets its packets, by way of the engine.

use std::fs;
use std::ops::RangeInclusive;

use crate::snat::Ports;

/// The ranges overlap.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "[snat] ports: the kernel gives out {first} to {last} itself (net.ipv4.ip_local_port_range) and would take answers to the engine's flows for its \
     own: write other ports, such as [\"61000-65535\"], or reserve them: sysctl net.ipv4.ip_local_reserved_ports={wanted}"
)]
pub struct Overlap {
    first: u16,
    last: u16,
    wanted: String,
}

/// Refuses ports that the kernel gives out.
pub fn check(ports: &Ports) -> Result<(), Overlap> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
    // A kernel that doesn't say can't be asked.
    let (Ok(range), reserved) = (read("ip_local_port_range"), read("ip_local_reserved_ports"))
    else {
        return Ok(());
    };
    compare(ports, &range, &reserved.unwrap_or_default())
}

fn compare(ports: &Ports, range: &str, reserved: &str) -> Result<(), Overlap> {
    let mut words = range.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (words.next(), words.next()) else { return Ok(()) };
    let reserved: Vec<RangeInclusive<u16>> = reserved.trim().split(',').filter_map(parse).collect();
    let taken = |port: &u16| {
        (first..=last).contains(port) && !reserved.iter().any(|range| range.contains(port))
    };
    if !(0..ports.count()).map(|n| ports.nth(n)).any(|port| taken(&port)) {
        return Ok(());
    }
    let wanted: Vec<String> = ports.ranges().map(|(a, b)| format!("{a}-{b}")).collect();
    Err(Overlap { first, last, wanted: wanted.join(",") })
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_the_kernel_gives_out_are_refused_unless_reserved() {
        let ports = Ports::new(&[61_000..=65_535], &[]).unwrap();
        assert_eq!(compare(&ports, "32768\t60999\n", "\n"), Ok(()));
        let error = compare(&ports, "32768\t61000\n", "").unwrap_err().to_string();
        assert!(error.contains("ip_local_reserved_ports=61000-65535"), "{error}");
        assert_eq!(compare(&ports, "1024\t65535\n", "8080,61000-65535\n"), Ok(()));
        assert!(compare(&ports, "1024\t65535\n", "8080,61001-65535\n").is_err());
        assert_eq!(compare(&ports, "nothing", ""), Ok(()));
    }
}
