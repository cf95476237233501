//! Debian's packages without installing them: which ones are needed, downloaded and unpacked into a folder.
//!
//! Installing DPDK's packages wants to upgrade half of some systems. `apt-get download` and `dpkg -x` change nothing outside the folder.
//! Needs apt, and a network that reaches its mirrors. Leaves to `dpdk` what is done with the files.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What `apt-cache show` says of a package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// The version that would be downloaded.
    pub version: String,
    /// Names that it depends on: of alternatives the first.
    pub depends: Vec<String>,
}

/// Reads the stanzas of `apt-cache show`.
pub fn stanzas(text: &str) -> HashMap<String, Package> {
    let mut packages = HashMap::new();
    for stanza in text.split("\n\n") {
        let mut name = None;
        let mut package = Package::default();
        for line in stanza.lines() {
            match line.split_once(": ") {
                Some(("Package", value)) => name = Some(value.trim().to_owned()),
                Some(("Version", value)) => value.trim().clone_into(&mut package.version),
                Some(("Depends" | "Pre-Depends", value)) => {
                    package.depends.extend(value.split(',').filter_map(first_alternative));
                }
                _ => {}
            }
        }
        if let Some(name) = name {
            packages.insert(name, package);
        }
    }
    packages
}

/// `libc6 (>= 2.34) | libc6.1` is `libc6`; an architecture after a colon goes too.
fn first_alternative(text: &str) -> Option<String> {
    let name = text.split('|').next()?.split_whitespace().next()?;
    Some(name.split(':').next().unwrap_or(name).to_owned())
}

/// The packages to unpack so that the programs of `roots` run: libraries that these depend on, directly or not, and that aren't
/// installed. `look_up` asks for many packages at once; of `files_only` the files are wanted and not what they depend on.
pub fn closure(
    roots: &[String],
    files_only: &[String],
    installed: &HashSet<String>,
    mut look_up: impl FnMut(&[String]) -> Result<HashMap<String, Package>, String>,
) -> Result<BTreeSet<String>, String> {
    let mut needed: BTreeSet<String> = roots.iter().chain(files_only).cloned().collect();
    let mut level: Vec<String> = roots.to_vec();
    while !level.is_empty() {
        let known = look_up(&level)?;
        let mut next = BTreeSet::new();
        for name in &level {
            let package = known.get(name).ok_or_else(|| {
                format!(
                    "apt knows no package {name}; run apt-get update, or add a source that has it"
                )
            })?;
            let wanted = package.depends.iter().filter(|name| {
                // All of DPDK's own from one version, whatever is installed.
                is_library(name) && (name.starts_with("librte-") || !installed.contains(*name))
            });
            next.extend(wanted.filter(|name| !needed.contains(*name)).cloned());
        }
        needed.extend(next.iter().cloned());
        level = next.into_iter().collect();
    }
    Ok(needed)
}

/// Programs that packages depend on (python3, debconf) aren't run here.
fn is_library(name: &str) -> bool {
    (name.starts_with("lib") && !name.ends_with("-dev")) || name.ends_with("-providers")
}

/// What `apt-cache` says of these packages, of those it knows.
pub fn show(names: &[String]) -> Result<HashMap<String, Package>, String> {
    let mut command = Command::new("apt-cache");
    command.args(["show", "--no-all-versions"]).args(names);
    // It fails when one of many is unknown: the caller sees which.
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("apt-cache: {e}: DPDK is taken from Debian's or Ubuntu's packages"))?;
    Ok(stanzas(&String::from_utf8_lossy(&output.stdout)))
}

/// The names of what is installed.
pub fn installed() -> Result<HashSet<String>, String> {
    let text =
        run(Command::new("dpkg-query").args(["-W", "-f", "${Package} ${db:Status-Status}\\n"]))?;
    let names = text.lines().filter_map(|line| line.strip_suffix(" installed"));
    Ok(names.map(str::to_owned).collect())
}

/// Downloads the packages into `folder` and unpacks them under `root`.
pub fn unpack(names: &BTreeSet<String>, folder: &Path, root: &Path) -> Result<(), String> {
    for folder in [folder, root] {
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    run(Command::new("apt-get").arg("-q").arg("download").args(names).current_dir(folder))
        .map_err(|e| format!("{e}\n(is there a network that reaches apt's mirrors?)"))?;
    let files = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for file in files {
        let file = file.map_err(|e| e.to_string())?.path();
        if file.extension() == Some(OsStr::new("deb")) {
            run(Command::new("dpkg").arg("-x").arg(&file).arg(root))?;
        }
    }
    Ok(())
}

/// Runs a program to its end: what it printed, or why it failed.
pub fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = errors.trim().lines().rev().take(8).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Err(format!("{name} failed ({}): {}", output.status, tail.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shortened from Debian 12.
    const SHOWN: &str = "Package: dpdk-dev
Source: dpdk
Version: 22.11.11-0+deb12u1
Depends: libdpdk-dev (>= 22.11.11-0+deb12u1), python3, ibverbs-providers (>= 23~), libc6 (>= 2.34), librte-acl23 (>= 22.11)
Description-en: Data Plane Development Kit (dev tools)
 This package contains: the tools

Package: librte-acl23
Version: 22.11.11-0+deb12u1
Depends: libc6 (>= 2.4), librte-eal23 (>= 22.11) | librte-eal, libnuma1:any

Package: librte-eal23
Version: 22.11.11-0+deb12u1
Pre-Depends: librte-acl23
Depends: libbsd0 (>= 0.0)
";

    #[test]
    fn stanzas_give_versions_and_first_alternatives() {
        let packages = stanzas(SHOWN);
        assert_eq!(packages.len(), 3);
        assert_eq!(packages["dpdk-dev"].version, "22.11.11-0+deb12u1");
        assert_eq!(packages["librte-acl23"].depends, ["libc6", "librte-eal23", "libnuma1"]);
        assert_eq!(packages["librte-eal23"].depends, ["librte-acl23", "libbsd0"]);
    }

    #[test]
    fn the_closure_has_dpdks_libraries_and_those_that_are_not_installed() {
        let known = |names: &[String]| {
            let mut all = stanzas(SHOWN);
            all.insert("ibverbs-providers".into(), Package::default());
            all.insert("libnuma1".into(), Package::default());
            all.retain(|name, _| names.contains(name));
            Ok(all)
        };
        let installed = ["libc6", "libbsd0", "librte-eal23"].map(str::to_owned).into();
        let needed =
            closure(&["dpdk-dev".into()], &["libdpdk-dev".into()], &installed, known).unwrap();
        let expected = [
            "dpdk-dev",
            "ibverbs-providers",
            "libdpdk-dev",
            "libnuma1",
            "librte-acl23",
            "librte-eal23",
        ];
        assert!(needed.iter().eq(expected.iter()), "{needed:?}");
    }

    #[test]
    fn an_unknown_package_is_named() {
        let error = closure(&["dpdk-dev".into()], &[], &HashSet::new(), |_| Ok(HashMap::new()));
        assert!(error.unwrap_err().contains("dpdk-dev"));
    }

    #[test]
    fn a_failing_program_is_named_with_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo lost >&2; exit 3"])).unwrap_err();
        assert!(error.starts_with("sh failed") && error.ends_with("lost"), "{error}");
    }
}
