//! What a measurement changes where interfaces were before it: put back when dropped, in reverse order.
//!
//! How to put a thing back is written into a file before the thing is changed, so that `tidy` can do it where this process was
//! killed. In namespaces of its own a measurement changes what it likes, and nothing is noted: they go with all that is in them.

use crate::ends::Place;
use crate::programs;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of shell that put things back, the last one first.
pub const JOURNAL: &str = "undo.sh";

/// Changes that go with it.
#[derive(Debug, Default)]
pub struct Settings {
    journal: Option<PathBuf>,
    undo: Vec<String>,
}

impl Settings {
    /// For interfaces that were there, with the journal in this folder.
    pub fn kept(folder: &Path) -> Self {
        Self { journal: Some(folder.join(JOURNAL)), undo: Vec::new() }
    }

    /// Whether things go back: the interfaces were there before.
    pub fn is_kept(&self) -> bool {
        self.journal.is_some()
    }

    /// Adds an address, a route or a neighbor; one that is there already stays also afterwards.
    pub fn add(&mut self, place: &Place, what: &str, words: &str) -> Result<(), String> {
        self.note(place, &format!("ip {what} del {words}"))?;
        // A neighbor that was only learned gives way.
        let verb = if what == "neigh" { "replace" } else { "add" };
        let mut ip = place.command("ip");
        ip.args([what, verb]).args(words.split(' '));
        match programs::finish(&mut ip, None) {
            Ok(_) => Ok(()),
            Err(why) if why.contains("File exists") || why.contains("already assigned") => {
                self.undo.pop();
                self.write_journal()
            }
            Err(why) => Err(why),
        }
    }

    /// Writes a file of procfs or sysfs.
    pub fn write(&mut self, place: &Place, path: &str, value: &str) -> Result<(), String> {
        if self.journal.is_some() {
            let before = programs::finish(place.command("cat").arg(path), None)?;
            if before.trim() == value {
                return Ok(());
            }
            self.note(place, &format!("echo {} > {path}", before.trim()))?;
        }
        shell(place, &format!("echo {value} > {path}"))
    }

    /// Turns offloads on or off, by ethtool's long names; those that can't be changed stay as they are.
    pub fn offloads(&mut self, place: &Place, names: &[&str], on: bool) -> Result<(), String> {
        let interface = &place.interface;
        let word = if on { "on" } else { "off" };
        let shown = programs::finish(place.command("ethtool").args(["-k", interface]), None)?;
        for name in names {
            let Some(now) = offload_in(&shown, name) else { continue };
            if now != on {
                let back = if now { "on" } else { "off" };
                self.note(place, &format!("ethtool -K {interface} {name} {back}"))?;
                let words = ["-K", interface, name, word];
                programs::finish(place.command("ethtool").args(words), None)?;
            }
        }
        Ok(())
    }

    /// Something else: how it is put back, before it is changed.
    pub fn note(&mut self, place: &Place, back: &str) -> Result<(), String> {
        if self.journal.is_none() {
            return Ok(());
        }
        let line = match &place.netns {
            None => back.to_owned(),
            Some(name) => format!("ip netns exec {name} sh -c '{back}'"),
        };
        self.undo.push(line);
        self.write_journal()
    }

    /// Renamed into place, so that a kill in between leaves the one before.
    fn write_journal(&self) -> Result<(), String> {
        let Some(path) = &self.journal else { return Ok(()) };
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        let next = path.with_extension("new");
        fs::write(&next, self.undo.join("\n")).map_err(failed)?;
        fs::rename(&next, path).map_err(failed)
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        put_back(self.undo.iter().rev());
        if let Some(path) = &self.journal {
            let _ = fs::remove_file(path);
        }
    }
}

/// Runs lines of a journal, whatever becomes of each: what was never changed has nothing to go back to.
pub fn put_back<'a>(lines: impl Iterator<Item = &'a String>) {
    for line in lines {
        let _ = programs::finish(Command::new("sh").args(["-c", line]), None);
    }
}

/// Runs a script where an interface is.
pub fn shell(place: &Place, script: &str) -> Result<(), String> {
    programs::finish(place.command("sh").args(["-c", script]), None).map(drop)
}

/// Whether an offload is on, of what `ethtool -k` says; None if it is not there or can't be changed.
fn offload_in(shown: &str, name: &str) -> Option<bool> {
    let line = shown.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?;
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["on", ..] if !line.contains("[fixed]") => Some(true),
        ["off", ..] if !line.contains("[fixed]") => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[test]
    fn what_was_changed_goes_back_in_reverse_and_what_was_not_is_left_alone() {
        let folder = Folder::create("settings").unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        fs::write(file("one"), "before\n").unwrap();
        fs::write(file("same"), "value\n").unwrap();
        let place = Place { netns: None, interface: "lo".into(), mac: String::new() };
        let mut settings = Settings::kept(folder.path());
        settings.write(&place, &file("one"), "first").unwrap();
        settings.write(&place, &file("one"), "second").unwrap();
        settings.write(&place, &file("same"), "value").unwrap();
        assert!(settings.write(&place, &file("none"), "value").is_err());
        assert_eq!(fs::read_to_string(file("one")).unwrap(), "second\n");
        // A killed process leaves this behind.
        let journal = fs::read_to_string(file(JOURNAL)).unwrap();
        let lines: Vec<&str> = journal.lines().collect();
        assert_eq!(lines.len(), 2, "{journal}");
        assert!(lines[0].starts_with("echo before > "));
        drop(settings);
        assert_eq!(fs::read_to_string(file("one")).unwrap(), "before\n");
        assert!(!Path::new(&file(JOURNAL)).exists());
        // In namespaces of its own nothing is noted.
        let mut settings = Settings::default();
        settings.write(&place, &file("one"), "mine").unwrap();
        drop(settings);
        assert_eq!(fs::read_to_string(file("one")).unwrap(), "mine\n");
    }

    #[test]
    fn an_offload_that_is_fixed_is_not_changed() {
        let shown = "Features for eth0:\nrx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\n\
                     tx-checksumming: on\ngeneric-receive-offload: off [requested on]\n";
        assert_eq!(offload_in(shown, "tx-checksumming"), Some(true));
        assert_eq!(offload_in(shown, "generic-receive-offload"), Some(false));
        assert_eq!(offload_in(shown, "tx-checksum-ipv4"), None);
        assert_eq!(offload_in(shown, "large-receive-offload"), None);
    }
}
