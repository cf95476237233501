//! The engine as a device: its files, made for the traffic's services, and what it says of itself.

use super::Stage;
use crate::scenario::Workers;
use crate::{programs, services};
use std::fs;

/// The mode of an engine's interfaces, `mixed` where they differ.
fn modes_in(json: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    let modes = value.as_array()?.iter().filter_map(|interface| interface.get("mode")?.as_str());
    let mut modes: Vec<&str> = modes.filter(|mode| !mode.is_empty()).collect();
    modes.dedup();
    match modes[..] {
        [] => None,
        [mode] => Some(mode.into()),
        _ => Some("mixed".into()),
    }
}

impl Stage<'_> {
    /// What the engine says of the sockets on the two interfaces; None where its socket is not known, or it says nothing.
    pub(super) fn engine_mode(&self, own: bool) -> Option<String> {
        let socket = own.then(|| self.file("engine.sock"))?;
        let mut show = self.ends.inside.command(programs::find("millrace").ok()?);
        show.args(["--socket", &socket, "show", "interfaces", "--json"]);
        modes_in(&programs::finish(&mut show, None).ok()?)
    }

    pub(super) fn write_engine_files(&self, workers: Option<Workers>) -> Result<(), String> {
        let write = |name: &str, text: String| {
            let file = self.folder.path().join(name);
            fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))
        };
        let mode = match workers {
            Some(Workers::Busy) => "busy",
            _ => "adaptive",
        };
        let (inside, outside) = (&self.ends.inside.interface, &self.ends.outside.interface);
        let socket = self.file("engine.sock");
        let conntrack = self.wants.flows.map_or(String::new(), |(entries, seconds)| {
            // Some more than asked for, within what the engine takes.
            let entries = (entries + entries / 4).clamp(1 << 20, 1 << 24);
            format!(
                "[conntrack]\nentries = {entries}\ntimeouts = {{ udp = {seconds}, udp_stream = {seconds} }}"
            )
        });
        let cpus: Vec<String> = (0..self.ends.path.queues)
            .map(|n| (self.scenario.cpus.device + n as usize).to_string())
            .collect();
        write(
            "router.toml",
            format!(
                r#"mode = "router"
socket = "{socket}"
[workers]
cpus = [{}]
mode = "{mode}"
{conntrack}
[[interface]]
name = "{inside}"
addresses = ["10.0.1.1/24"]
[[interface]]
name = "{outside}"
addresses = ["10.0.2.1/24"]
"#,
                cpus.join(", ")
            ),
        )?;
        let (generator, sink) = (&self.ends.generator.mac, &self.ends.sink.mac);
        write(
            "control.toml",
            format!(
                r#"engine = "{socket}"
[[route]]
prefix = "10.200.0.0/16"
via = "10.0.1.2"
[[route]]
prefix = "{}"
via = "10.0.2.2"
[[neighbor]]
interface = "{outside}"
address = "10.0.2.2"
mac = "{sink}"
[[neighbor]]
interface = "{inside}"
address = "10.0.1.2"
mac = "{generator}"
"#,
                services::PODS
            ),
        )?;
        fs::create_dir_all(self.folder.path().join("manifests")).map_err(|e| e.to_string())?;
        let count = usize::from(self.scenario.traffic.services);
        let manifests = self.wants.protocol.written(&services::manifests(count));
        write("manifests/services.yaml", manifests)
    }
}

#[cfg(test)]
mod tests {
    use super::modes_in;

    #[test]
    fn the_mode_of_the_engine_is_that_of_all_its_interfaces() {
        let of = |modes: &[&str]| {
            let list = modes.iter().map(|mode| format!("{{\"mode\": \"{mode}\"}}"));
            modes_in(&format!("[{}]", list.collect::<Vec<_>>().join(","))).unwrap_or_default()
        };
        assert_eq!(of(&["copy", "copy"]), "copy");
        assert_eq!(of(&["zero-copy", "copy"]), "mixed");
        assert_eq!(of(&["zero-copy", ""]), "zero-copy");
        assert_eq!((of(&[]), modes_in("no json")), (String::new(), None));
    }
}
