//! Linux as a device: forwarding, alone or with the rules of kube-proxy's modes.

use super::Stage;
use crate::scenario::Device;
use crate::{kernel, programs, services};

impl Stage<'_> {
    pub(super) fn set_up_linux(&mut self) -> Result<(), String> {
        let (inside, outside) = (self.ends.inside.clone(), self.ends.outside.clone());
        let (generator, sink) = (&self.ends.generator.mac, &self.ends.sink.mac);
        let settings = &mut self.settings;
        let (a, b) = (&inside.interface, &outside.interface);
        for (what, words) in [
            ("addr", format!("10.0.1.1/24 dev {a}")),
            ("addr", format!("10.0.2.1/24 dev {b}")),
            ("neigh", format!("10.0.1.2 lladdr {generator} dev {a} nud permanent")),
            ("neigh", format!("10.0.2.2 lladdr {sink} dev {b} nud permanent")),
            ("route", format!("10.200.0.0/16 via 10.0.1.2 dev {a}")),
            ("route", format!("{} via 10.0.2.2 dev {b}", services::PODS)),
        ] {
            settings.add(&inside, what, &words)?;
        }
        settings.write(&inside, "/proc/sys/net/ipv4/ip_forward", "1")?;
        for name in ["all", a, b] {
            let file = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
            settings.write(&inside, &file, "0")?;
        }
        if self.ends.path.link == "veth" {
            // A veth takes redirected frames only with NAPI, which it has with GRO or an XDP program; there is nothing to merge here.
            for place in [&inside, &outside] {
                settings.offloads(place, &["generic-receive-offload"], true)?;
            }
            // Linux handles packets on the device's CPU, as the engine does; the generator's CPU hands them over.
            let mask = kernel::mask(self.scenario.cpus.device);
            for queue in 0..self.ends.path.queues {
                let file = format!("/sys/class/net/{a}/queues/rx-{queue}/rps_cpus");
                settings.write(&inside, &file, &mask)?;
            }
        }
        match self.device {
            Device::Nftables {} => self.load_nftables()?,
            Device::Iptables {} => self.load_iptables()?,
            _ => return Ok(()),
        }
        // Interfaces that were there have had other devices: no flow is known when this one begins.
        programs::finish(inside.command(programs::own()?).arg("forget-flows"), None)?;
        let Some((_, seconds)) = self.wants.flows else { return Ok(()) };
        for name in ["udp_timeout", "udp_timeout_stream"] {
            let file = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
            self.settings.write(&inside, &file, &seconds.to_string())?;
        }
        Ok(())
    }

    fn load_nftables(&mut self) -> Result<(), String> {
        let inside = self.ends.inside.clone();
        let table = "table ip kube-proxy";
        if programs::finish(inside.command("nft").args(["list", "tables"]), None)?.contains(table) {
            return Err(format!(
                "there is a {table} where the device's interfaces are: a run that was killed left it \
                 (millrace-perf tidy), or it is another's"
            ));
        }
        self.settings.note(&inside, &format!("nft delete {table}"))?;
        for script in services::nftables(usize::from(self.scenario.traffic.services)) {
            let script = self.wants.protocol.written(&script);
            programs::finish(inside.command("nft").args(["-f", "-"]), Some(&script))?;
        }
        Ok(())
    }

    /// These rules take the place of all that the tables have: not in the machine's own namespace.
    fn load_iptables(&mut self) -> Result<(), String> {
        let inside = self.ends.inside.clone();
        if inside.netns.is_none() {
            return Err("its rules replace the machine's own: put the device's interfaces into a namespace \
                        (topology.netns_device)"
                .into());
        }
        if self.settings.is_kept() {
            let file = self.folder.path().join("iptables.before");
            let before = programs::finish(&mut inside.command("iptables-legacy-save"), None)?;
            // A table that nobody has used is not in what is saved, and flushing one uses it.
            let empty = ["nat", "filter"].map(|table| format!("*{table}\nCOMMIT\n")).concat();
            std::fs::write(&file, empty + &before).map_err(|e| e.to_string())?;
            self.settings
                .note(&inside, &format!("iptables-legacy-restore < {}", file.display()))?;
        }
        let rules = services::iptables(usize::from(self.scenario.traffic.services));
        let rules = self.wants.protocol.written(&rules);
        programs::finish(&mut inside.command("iptables-legacy-restore"), Some(&rules)).map(drop)
    }

    /// Whether it is Linux with connection tracking.
    pub(super) fn tracks(&self) -> bool {
        matches!(self.device, Device::Nftables {} | Device::Iptables {})
    }

    /// Lets frames through that a veth's peer sends back by XDP: they wait in its ring for good, unless it has a program of its own.
    pub(super) fn pass_what_comes_back(&mut self) -> Result<(), String> {
        let outside = self.ends.outside.clone();
        if self.ends.path.link != "veth" || crate::generator::has_program(&outside)? {
            return Ok(());
        }
        let mut pass = outside.command(programs::own()?);
        self.run("pass", pass.args(["sink", "--interface", &outside.interface, "--pass"]))?;
        crate::generator::wait_for_program(&outside, || Ok(()))
    }
}
