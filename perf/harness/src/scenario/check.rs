//! What of a scenario makes no sense, by the name of its field.

use super::{Generator, Named, Nics, Scenario, Topology};
use crate::search::Goal;
use std::time::Duration;

/// The smallest frame and the largest.
const FRAMES: std::ops::RangeInclusive<u32> = 64..=9018;
/// The longest frame of pktgen: a chunk less its headroom.
const PKTGEN_MOST: u32 = 3840;

impl Scenario {
    /// Fails naming the field that makes no sense.
    pub fn check(&self) -> Result<(), String> {
        if self.devices.is_empty() {
            return Err("no [[device]]: nothing to measure".into());
        }
        let mut names: Vec<&str> = self.devices.iter().map(Named::name).collect();
        names.sort_unstable();
        if let Some([name, _]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two devices are named {name:?}: give them names of their own"));
        }
        if self.rounds == 0 || self.rounds > 1000 {
            return Err(format!("rounds = {}: from 1 to 1000", self.rounds));
        }
        let traffic = &self.traffic;
        let mtu = match &self.topology {
            Topology::Veth { mtu, queues } => {
                if !(1..=64).contains(queues) {
                    return Err(format!("topology.queues = {queues}: from 1 to 64"));
                }
                if !(1280..=9000).contains(mtu) {
                    return Err(format!("topology.mtu = {mtu}: from 1280 to 9000"));
                }
                *mtu
            }
            Topology::Nics(nics) => {
                nics.check()?;
                9000
            }
        };
        if traffic.frames.is_empty() {
            return Err("traffic.frames is empty".into());
        }
        for frame in &traffic.frames {
            if !FRAMES.contains(frame) || *frame > mtu + 18 {
                return Err(format!(
                    "traffic.frames has {frame}: from 64 to {} bytes with FCS",
                    (mtu + 18).min(*FRAMES.end())
                ));
            }
            if traffic.generator == Generator::Xdp && *frame != 64 {
                return Err(format!(
                    "traffic.frames has {frame}: generator \"xdp\" sends 64 bytes"
                ));
            }
        }
        if traffic.generator == Generator::Pktgen
            && let Some(frame) = traffic.frames.iter().find(|frame| **frame > PKTGEN_MOST)
        {
            return Err(format!(
                "traffic.frames has {frame}: generator \"pktgen\" sends {PKTGEN_MOST} bytes at most"
            ));
        }
        if !traffic.flows.is_power_of_two() || traffic.flows > 16_384 {
            return Err(format!("traffic.flows = {}: a power of two up to 16384", traffic.flows));
        }
        if traffic.services == 0 || traffic.services > 10_000 {
            return Err(format!("traffic.services = {}: from 1 to 10000", traffic.services));
        }
        let measure = &self.measure;
        for share in &measure.latency {
            if !(*share > 0.0 && *share <= 1.0) {
                return Err(format!("measure.latency has {share}: shares above 0, up to 1"));
            }
        }
        if measure.max.is_some_and(|max| max <= measure.min) {
            return Err("measure.max is not above measure.min".into());
        }
        for (seconds, what) in
            [(measure.warm_up, "warm_up"), (measure.latency_trial, "latency_trial")]
        {
            if seconds.is_zero() || seconds > Duration::from_secs(3600) {
                return Err(format!("measure.{what}: above 0, up to an hour"));
            }
        }
        if measure.mrr_trials == 0 {
            return Err("measure.mrr_trials is 0".into());
        }
        self.stateful.check()?;
        measure.goals().iter().chain([&measure.goal()]).try_for_each(Goal::check)
    }
}

impl Nics {
    /// Fails naming the field whose name no interface or namespace can have (words of it get to a shell), or that names one twice.
    fn check(&self) -> Result<(), String> {
        let named = |name: &str, most: usize| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "_.:@-".contains(c);
            (1..=most).contains(&name.len())
                && name.chars().all(fits)
                && !name.starts_with(['.', '-'])
        };
        let places = [
            ("tx", &self.tx, &self.netns_tx),
            ("device_in", &self.device_in, &self.netns_device),
            ("device_out", &self.device_out, &self.netns_device),
            ("rx", &self.rx, &self.netns_rx),
        ];
        for (at, (field, interface, netns)) in places.iter().enumerate() {
            if !named(interface, 15) {
                return Err(format!(
                    "topology.{field} = {interface:?}: no interface has such a name"
                ));
            }
            if let Some(netns) = netns.as_ref().filter(|netns| !named(netns, 255)) {
                return Err(format!("topology: {netns:?}: no namespace has such a name"));
            }
            let twin =
                places[..at].iter().find(|(_, other, its)| (other, its) == (interface, netns));
            if let Some((other, ..)) = twin {
                return Err(format!(
                    "topology.{field} and topology.{other} are both {interface:?}"
                ));
            }
        }
        if !(1..=1024).contains(&self.queues) {
            return Err(format!("topology.queues = {}: from 1 to 1024", self.queues));
        }
        Ok(())
    }
}

impl Topology {
    /// Whether the receiver's interface can be made a host of its own: one with addresses that this machine otherwise has no use for,
    /// and that only the device leads to.
    pub fn has_a_host_behind(&self) -> bool {
        match self {
            Self::Veth { .. } => true,
            Self::Nics(nics) => {
                nics.netns_rx.is_some()
                    && ![&nics.netns_tx, &nics.netns_device].contains(&&nics.netns_rx)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nics(tx: &str, device_in: &str, device_out: &str, rx: &str) -> String {
        format!(
            "[topology]\nkind = \"nics\"\ntx = \"{tx}\"\ndevice_in = \"{device_in}\"\ndevice_out = \"{device_out}\"\nrx = \"{rx}\"\n"
        )
    }

    #[test]
    fn connections_need_a_host_of_their_own_behind_the_device() {
        let behind = |netns: &str| {
            let text = nics("a", "b", "c", "d") + netns + "[[device]]\nkind = \"linux\"\n";
            let scenario = Scenario::parse(&format!("name = \"a\"\n{text}")).unwrap();
            scenario.topology.has_a_host_behind()
        };
        assert!(!behind(""));
        assert!(!behind("netns_rx = \"n\"\nnetns_device = \"n\"\n"));
        assert!(!behind("netns_rx = \"n\"\nnetns_tx = \"n\"\n"));
        assert!(behind("netns_rx = \"n\"\n"));
        assert!(Topology::default().has_a_host_behind());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let bare = "[[device]]\nkind = \"bare\"\n";
        for (text, word) in [
            ("".into(), "device"),
            ("[[device]]\nkind = \"router\"\n".into(), "router"),
            (format!("{bare}{bare}"), "two devices"),
            ("[[device]]\nkind = \"impair\"\ndelay = \"soon\"\n".into(), "soon"),
            ("[[device]]\nkind = \"bare\"\ncolor = 1\n".into(), "color"),
            (format!("rounds = 0\n{bare}"), "rounds"),
            (format!("[traffic]\nframes = [1600]\n{bare}"), "1600"),
            (
                format!(
                    "[topology]\nkind = \"veth\"\nmtu = 9000\n[traffic]\nframes = [3841]\n{bare}"
                ),
                "3840",
            ),
            (format!("[traffic]\nflows = 100\n{bare}"), "flows"),
            (format!("[traffic]\ngenerator = \"xdp\"\nframes = [128]\n{bare}"), "xdp"),
            (format!("[measure]\nlatency = [1.5]\n{bare}"), "1.5"),
            (format!("[measure]\nmax = \"fast\"\n{bare}"), "fast"),
            (format!("[measure]\nwidth = 0\n{bare}"), "width"),
            (format!("[measure]\nduration_sum = \"0.5s\"\n{bare}"), "in all"),
            (format!("[topology]\nkind = \"nics\"\ntx = \"a\"\n{bare}"), "device_in"),
            (format!("[topology]\nkind = \"veth\"\nqueues = 0\n{bare}"), "queues"),
            (format!("[topology]\nkind = \"veth\"\nmtu = 20\n{bare}"), "mtu"),
            (format!("[topology]\nkind = \"cloud\"\n{bare}"), "cloud"),
            (nics("a", "b", "c", "a") + bare, "topology.rx and topology.tx"),
            (nics("a; reboot", "b", "c", "d") + bare, "a; reboot"),
            (nics("a", "b/c", "c", "d") + bare, "b/c"),
            (nics("a", "b", "c", "sixteenletters16") + bare, "sixteenletters16"),
            (nics("a", "b", "c", "") + bare, "rx"),
            (nics("a", "b", "c", "d") + "netns_rx = \"$(reboot)\"\n" + bare, "$(reboot)"),
        ] {
            let error = Scenario::parse(&format!("name = \"a\"\n{text}")).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
