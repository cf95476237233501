//! The checks on captures of NICs: what each fixture lists as expected is found, no more and no less, with its commands.

use millrace_doctor::archive::Archive;
use millrace_doctor::checks::{self, CHECKS, Wanted};
use millrace_doctor::finding::Finding;
use millrace_doctor::nic::Nic;
use millrace_doctor::observe;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let entries = std::fs::read_dir(folder).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "txt")).collect();
    files.sort();
    assert!(files.len() >= 14, "fixtures are missing");
    files
}

fn observed(path: &Path) -> (Archive, Nic, Wanted) {
    let archive = Archive::parse(&std::fs::read_to_string(path).unwrap());
    let wanted = serde_json::from_str(&archive.sections["wanted.json"]).unwrap();
    (archive, observe::captured(path).unwrap(), wanted)
}

/// A finding as a fixture lists it: with commands where `tune` runs them unasked.
fn listed(finding: &Finding) -> String {
    let severity = format!("{:?}", finding.severity).to_lowercase();
    let mut text = format!("{severity} {}\n", finding.id);
    if finding.automatic {
        for command in &finding.change {
            if !command.starts_with("irqbalance") {
                text += &format!("> {command}\n");
            }
        }
        for command in &finding.undo {
            text += &format!("< {command}\n");
        }
    }
    text
}

#[test]
fn each_fixture_has_the_findings_that_it_lists() {
    let mut wrong = String::new();
    for path in fixtures() {
        let (archive, nic, wanted) = observed(&path);
        let found: String = checks::run(&nic, &wanted).iter().map(listed).collect();
        let expected = &archive.sections["expected"];
        if &found != expected {
            wrong += &format!("{}:\nexpected\n{expected}found\n{found}\n", path.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn each_fixture_says_where_its_values_come_from() {
    for path in fixtures() {
        let comment = observed(&path).0.comment;
        let honest = comment.contains("not captured") || comment.starts_with("Captured with");
        assert!(honest, "{}: {comment}", path.display());
    }
}

#[test]
fn every_finding_is_complete() {
    for path in fixtures() {
        let (_, nic, wanted) = observed(&path);
        for finding in checks::run(&nic, &wanted) {
            let id = finding.id;
            assert!(!finding.seen.is_empty() && finding.why.len() > 20, "{id}");
            assert!(!finding.source.is_empty(), "{id}");
            assert!(!finding.automatic || !finding.changes.is_empty(), "{id}");
            assert!(
                finding.changes.is_empty() || finding.undo.len() >= finding.changes.len(),
                "{id}"
            );
        }
    }
}

/// What was changed as advised is found no more, and asks for nothing new.
#[test]
fn automatic_changes_settle_what_they_are_for() {
    for path in fixtures() {
        let (_, mut nic, wanted) = observed(&path);
        let before = checks::run(&nic, &wanted);
        for finding in before.iter().filter(|finding| finding.automatic) {
            for change in &finding.changes {
                assert!(change.setting.set(&mut nic, &change.to), "{}: {change:?}", finding.id);
            }
        }
        let after = checks::run(&nic, &wanted);
        let names = |findings: &[Finding]| -> BTreeSet<_> {
            findings.iter().map(|finding| finding.id).collect()
        };
        let automatic: Vec<_> =
            before.iter().filter(|finding| finding.automatic).cloned().collect();
        let left = &names(&after) & &names(&automatic);
        assert!(left.is_empty(), "{}: still {left:?}", path.display());
        let new = &names(&after) - &names(&before);
        assert!(new.is_empty(), "{}: new {new:?}", path.display());
    }
}

/// Before Linux 5.16 ixgbe takes no program on a machine with more CPUs than it has queues for XDP.
#[test]
fn what_only_costs_with_a_later_kernel_blocks_with_an_earlier_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ixgbe.txt");
    let severity = |release: &str| {
        let (mut archive, _, wanted) = observed(&path);
        archive.sections.insert("proc/sys/kernel/osrelease".into(), release.into());
        let files = millrace_doctor::files::Files::of(archive);
        let answers = serde_json::from_str(&files.text("answers.json").unwrap()).unwrap();
        let found = checks::run(&observe::from(answers, &files), &wanted);
        let finding = found.into_iter().find(|finding| finding.id == "spare-queues").unwrap();
        format!("{:?}", finding.severity)
    };
    assert_eq!(severity("6.8.0-45-generic\n"), "Costs");
    assert_eq!(severity("5.15.0-91-generic\n"), "Blocks");
}

#[test]
fn a_capture_without_an_end_is_refused() {
    let error = observe::captured(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(error.contains("/dev/zero") && error.contains("longer"), "{error}");
}

/// Where nothing is known nothing is claimed.
#[test]
fn an_interface_of_which_nothing_is_known_has_no_findings() {
    let mut nic = Nic::default();
    nic.answers.link.up = true;
    nic.answers.link.carrier = true;
    assert_eq!(checks::run(&nic, &Wanted::default()), []);
    assert_eq!(checks::status(&[]), 0);
}

/// A capture is bytes from outside: pieces of one may be missing or nonsense, and no check panics.
#[test]
fn no_check_panics_when_values_are_missing_or_absurd() {
    for path in fixtures() {
        let (archive, _, wanted) = observed(&path);
        for (name, content) in &archive.sections {
            for replacement in [
                None,
                Some("-1"),
                Some("4294967295"),
                Some("99999999999999999999"),
                Some("a\u{0}b"),
            ] {
                let mut archive = archive.clone();
                if name == "answers.json" {
                    let huge = content.replace("1500", "4294967295").replace(": 8", ": 4294967295");
                    archive.sections.insert(name.clone(), huge);
                } else if let Some(text) = replacement {
                    archive.sections.insert(name.clone(), text.into());
                } else {
                    archive.sections.remove(name);
                }
                let files = millrace_doctor::files::Files::of(archive);
                let answers = files.text("answers.json").unwrap();
                let Ok(answers) = serde_json::from_str(&answers) else { continue };
                let nic = observe::from(answers, &files);
                for workers in [None, Some(0), Some(u32::MAX)] {
                    checks::run(&nic, &Wanted { workers, ..wanted });
                }
            }
        }
    }
    assert!(CHECKS.len() > 40);
}
