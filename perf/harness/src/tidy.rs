//! What runs that were killed have left: programs, namespaces, folders, and settings of interfaces and of the machine.
//!
//! Everything that a run makes has its process number in its name. What belongs to a process that is there no more is a leftover;
//! whoever has that number now keeps it from being tidied, until it has ended too.

use crate::programs::RUN;
use crate::settings::{JOURNAL, put_back};
use crate::topology::ip;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Of processes that are gone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Folders, maybe with a journal of settings to put back.
    pub folders: Vec<PathBuf>,
}

/// Looks for them.
pub fn find() -> Leftovers {
    let list = ip("netns list").unwrap_or_default();
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let namespaces = names.filter(|name| is_left(name)).map(str::to_owned).collect();
    let mut folders = Vec::new();
    let me = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_left(name)) else { continue };
        // Where anybody may write, anybody may have made it: only our own, which nobody else could write into.
        let own = fs::symlink_metadata(entry.path())
            .is_ok_and(|it| it.is_dir() && it.uid() == me && it.mode() & 0o077 == 0);
        if own {
            folders.push(std::env::temp_dir().join(name));
        }
    }
    folders.sort();
    Leftovers { namespaces, folders }
}

/// The process in a name, `millrace-perf-PID-…`, if it is there no more.
fn is_left(name: &str) -> bool {
    owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

fn owner(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix("millrace-perf-")?.split_once('-')?;
    let plain = !rest.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    pid.parse().ok().filter(|_| plain)
}

impl Leftovers {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.folders.is_empty()
    }

    /// Whose they are.
    pub fn owners(&self) -> BTreeSet<u32> {
        let folders = self.folders.iter().filter_map(|path| path.file_name()?.to_str());
        self.namespaces.iter().map(String::as_str).chain(folders).filter_map(owner).collect()
    }

    /// Ends, puts back and removes it all; what can't be removed is in the error.
    pub fn remove(&self) -> Result<(), String> {
        let mut failed = Vec::new();
        // What programs hold of interfaces that stay goes with them: a veth has no segmentation offloads while its peer has an XDP program.
        for owner in self.owners() {
            end_all(|| programs_of(owner));
        }
        // Settings before namespaces: they may be of some that were there before, which stay.
        for folder in &self.folders {
            if let Ok(text) = fs::read_to_string(folder.join(JOURNAL)) {
                let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                put_back(lines.iter().rev());
            }
            if let Err(why) = fs::remove_dir_all(folder) {
                failed.push(format!("{}: {why}", folder.display()));
            }
        }
        for namespace in &self.namespaces {
            end_all(|| programs_in(namespace));
            if let Err(why) = ip(&format!("netns del {namespace}")) {
                failed.push(why);
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }
}

/// Programs that a run has started, and those that they have.
fn programs_of(run: u32) -> Vec<Pid> {
    let mark = format!("{RUN}={run}");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that has ended and is waited for has no environment.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|word| word == mark.as_bytes()) {
            found.extend(Pid::from_raw(pid));
        }
    }
    found
}

/// Programs of a namespace.
fn programs_in(namespace: &str) -> Vec<Pid> {
    let text = ip(&format!("netns pids {namespace}")).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect()
}

/// Tells programs to end, and ends those that don't.
fn end_all(there: impl Fn() -> Vec<Pid>) {
    let deadline = Instant::now() + Duration::from_secs(3);
    for pid in there() {
        let _ = kill_process(pid, Signal::TERM);
    }
    while !there().is_empty() {
        if Instant::now() > deadline {
            for pid in there() {
                let _ = kill_process(pid, Signal::KILL);
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::DirBuilderExt;
    use std::process::Command;

    #[test]
    fn only_what_a_process_that_is_gone_has_left_is_a_leftover() {
        // Process numbers end before this one.
        assert!(is_left("millrace-perf-4194999-bare-gen"));
        assert!(!is_left(&format!("millrace-perf-{}-bare-gen", std::process::id())));
        for other in
            ["millrace-perf-x-gen", "millrace-perf-", "millrace-perf-12", "other-4194999-x"]
        {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn programs_are_found_by_whose_they_are() {
        let start = |run: &str| Command::new("sleep").arg("60").env(RUN, run).spawn().unwrap();
        let (mut theirs, mut others) = (start("4194997"), start("4194996"));
        // Between fork and exec it has the environment of this process.
        let deadline = Instant::now() + Duration::from_secs(10);
        while programs_of(4_194_997).is_empty() && Instant::now() < deadline {}
        end_all(|| programs_of(4_194_997));
        assert!(!theirs.wait().unwrap().success());
        assert!(others.try_wait().unwrap().is_none());
        others.kill().unwrap();
        others.wait().unwrap();
    }

    #[test]
    fn settings_in_a_folder_that_was_left_go_back() {
        let path = std::env::temp_dir().join("millrace-perf-4194998-unit-test");
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        let file = crate::folder::Folder::create("tidy").unwrap();
        let target = file.path().join("value");
        let journal = format!("echo first > {0}\nfalse\necho second > {0}", target.display());
        fs::write(path.join(JOURNAL), journal).unwrap();
        let found = find();
        assert!(found.folders.contains(&path) && found.owners().contains(&4_194_998));
        Leftovers { namespaces: Vec::new(), folders: vec![path.clone()] }.remove().unwrap();
        assert_eq!(fs::read_to_string(target).unwrap(), "first\n");
        assert!(!path.exists());
        // One that others may write into is nobody's word.
        fs::DirBuilder::new().mode(0o777).create(&path).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(!find().folders.contains(&path));
        fs::remove_dir_all(&path).unwrap();
    }
}
