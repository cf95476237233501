//! A directory of manifests → the store.
//!
//! Decides which files count, which version of an object is in force when files disagree or break, and what to report:
//! * A file counts when its name ends in `.yaml`, `.yml` or `.json` and does not begin with a dot (editors' temporary
//!   files and a ConfigMap's `..data` don't). Subdirectories are not entered, as with `kubectl apply -f`.
//! * Of an object that two files define, the one in the first path by name is in force; the other is reported.
//! * A document that breaks leaves the last good version of its object in force; so does a file that can't be read.
//!
//! Needs someone to say when to look again ([`super::watch`], or nobody: explain reads once). Leaves documents to
//! [`super::documents`], objects to [`crate::object`], fields to [`crate::desired`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::documents::{self, Document, Doubt};
use crate::{
    desired::Row,
    object::{Decoded, Key, Kind, Refusal, decode},
    store::Store,
};

/// An emptied file is believed after this long: until then its writer may still be at work.
const EMPTY_FOR: Duration = Duration::from_millis(500);
/// Looks at a directory, and reads of a file, before a moving target is taken as it is.
const TRIES: usize = 4;

/// Something in a file that is not in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub file: PathBuf,
    /// Counted from 1; `None` when the file as a whole is meant.
    pub document: Option<usize>,
    /// Line of the file, counted from 1, for faults of syntax.
    pub line: Option<usize>,
    /// What and why.
    pub refusal: Refusal,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.refusal)
    }
}

/// The directory can't be listed.
#[derive(Debug, thiserror::Error)]
#[error("manifests directory {}: {source}: give a readable directory with --manifests", dir.display())]
pub struct Error {
    dir: PathBuf,
    source: io::Error,
}

/// What a look brought.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Problems that were not there at the last look.
    pub new: Vec<Problem>,
    /// Problems that were there and are not any more.
    pub mended: Vec<Problem>,
    /// Sentences for the log about objects that are new or changed.
    pub notices: Vec<String>,
    /// A file is being written: look again soon.
    pub unsettled: bool,
    /// Objects of the files that were read.
    pub heard: Vec<Key>,
}

/// Reads the directory once. Objects go into `store`; what is not in force is answered.
pub fn read_dir(dir: &Path, store: &mut Store) -> Result<Vec<Problem>, Error> {
    let outcome = Files::new(dir).look(&BTreeSet::new(), store)?;
    for notice in outcome.notices {
        tracing::info!("{notice}");
    }
    Ok(outcome.new)
}

/// The files of one directory and who owns which object.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Per object the files that hold it, good versions before kept ones; the first is in force.
    claims: BTreeMap<Key, BTreeSet<(Version, PathBuf)>>,
    reported: BTreeSet<Problem>,
    /// Notices that have been given: each is given once.
    noticed: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Good,
    /// The document is broken now; this is its last good version.
    Kept,
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    rows: BTreeMap<Key, Held>,
    problems: Vec<Problem>,
}

#[derive(Debug)]
struct Held {
    version: Version,
    document: usize,
    row: Row,
}

/// Two looks with the same stamp saw the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Files {
    /// Of a directory that is not looked at yet.
    pub fn new(dir: &Path) -> Files {
        Files {
            dir: dir.into(),
            files: BTreeMap::new(),
            claims: BTreeMap::new(),
            reported: BTreeSet::new(),
            noticed: BTreeSet::new(),
        }
    }

    /// Problems that were reported and are still there.
    pub fn refused(&self) -> usize {
        self.reported.len()
    }

    /// Brings the store in step with the directory. `hint` names files that are read even when they look unchanged.
    pub fn look(&mut self, hint: &BTreeSet<PathBuf>, store: &mut Store) -> Result<Outcome, Error> {
        let listed = self.list()?;
        let mut outcome = Outcome::default();
        let mut touched = BTreeSet::new();
        let gone: Vec<PathBuf> =
            self.files.keys().filter(|path| !listed.contains(*path)).cloned().collect();
        for path in gone {
            let old = self.files.remove(&path).unwrap_or_default();
            self.unclaim(&path, &old, &mut touched);
        }
        for path in listed {
            let old = self.files.get(&path);
            let metadata = match fs::metadata(&path) {
                // Gone since it was listed: the next look settles it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    outcome.unsettled = true;
                    continue;
                }
                other => other.ok().filter(fs::Metadata::is_file),
            };
            let stamp = metadata.as_ref().map(stamp);
            if let (Some(old), false) = (old, hint.contains(&path))
                && old.stamp == stamp
            {
                continue;
            }
            if old.is_some_and(|old| !old.rows.is_empty())
                && metadata.as_ref().is_some_and(just_emptied)
            {
                outcome.unsettled = true;
                continue;
            }
            let old = self.files.remove(&path).unwrap_or_default();
            self.unclaim(&path, &old, &mut touched);
            let mut notices = Vec::new();
            let new = read(&path, stamp, old, store, &mut notices);
            for (document, notice) in notices {
                if self.noticed.insert(notice.clone()) {
                    outcome
                        .notices
                        .push(format!("{}, document {document}: {notice}", path.display()));
                }
            }
            for (key, held) in &new.rows {
                self.claims.entry(key.clone()).or_default().insert((held.version, path.clone()));
                touched.insert(key.clone());
            }
            self.files.insert(path, new);
        }
        for key in touched {
            self.settle(&key, store);
            outcome.heard.push(key);
        }
        self.report(&mut outcome);
        Ok(outcome)
    }

    /// The files that count, by path. Listed until two listings agree: one that races a rename may show neither name.
    fn list(&self) -> Result<BTreeSet<PathBuf>, Error> {
        let list = || -> io::Result<BTreeSet<PathBuf>> {
            let mut paths = BTreeSet::new();
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                if counts(&entry.file_name().to_string_lossy()) {
                    paths.insert(entry.path());
                }
            }
            Ok(paths)
        };
        let error = |source| Error { dir: self.dir.clone(), source };
        let mut listed = list().map_err(error)?;
        for _ in 0..TRIES {
            let again = list().map_err(error)?;
            if again == listed {
                break;
            }
            listed = again;
        }
        Ok(listed)
    }

    fn unclaim(&mut self, path: &Path, file: &File, touched: &mut BTreeSet<Key>) {
        for (key, held) in &file.rows {
            if let Some(claims) = self.claims.get_mut(key) {
                claims.remove(&(held.version, path.to_owned()));
                if claims.is_empty() {
                    self.claims.remove(key);
                }
            }
            touched.insert(key.clone());
        }
    }

    fn settle(&self, key: &Key, store: &mut Store) {
        let first = self.claims.get(key).and_then(BTreeSet::first);
        match first.and_then(|(_, path)| self.files.get(path)?.rows.get(key)) {
            Some(held) => _ = store.set(held.row.clone()),
            None => _ = store.delete(key),
        }
    }

    fn report(&mut self, outcome: &mut Outcome) {
        let mut now: BTreeSet<Problem> =
            self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        for (key, claims) in &self.claims {
            let mut claims = claims.iter();
            let Some((_, owner)) = claims.next() else { continue };
            for (version, path) in claims {
                let held = self.files.get(path).and_then(|file| file.rows.get(key));
                let document = held.filter(|_| *version == Version::Good).map(|held| held.document);
                // A kept version has been reported already, as malformed.
                if let Some(document) = document {
                    let why = format!("is also defined in {}, which is in force", owner.display());
                    now.insert(Problem {
                        file: path.clone(),
                        document: Some(document),
                        line: None,
                        refusal: refusal(key, "", why),
                    });
                }
            }
        }
        outcome.new = now.difference(&self.reported).cloned().collect();
        outcome.mended = self.reported.difference(&now).cloned().collect();
        self.reported = now;
    }
}

fn counts(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    Stamp {
        file: (metadata.dev(), metadata.ino()),
        bytes: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn just_emptied(metadata: &fs::Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
    metadata.len() == 0 && age.is_some_and(|age| age < EMPTY_FOR)
}

fn refusal(key: &Key, field: &str, why: String) -> Refusal {
    Refusal {
        kind: key.kind.name().into(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        field: field.into(),
        why,
    }
}

/// Reads a file, taking from `old` and `store` the last good versions of what is broken in it now.
fn read(
    path: &Path,
    stamp: Option<Stamp>,
    mut old: File,
    store: &Store,
    notices: &mut Vec<(usize, String)>,
) -> File {
    let mut new = File { stamp, ..File::default() };
    let problem = |document, line, refusal| Problem { file: path.into(), document, line, refusal };
    let bytes = match contents(path) {
        Ok(bytes) => bytes,
        Err(why) => {
            let refusal = Refusal {
                kind: String::new(),
                namespace: String::new(),
                name: String::new(),
                field: String::new(),
                why,
            };
            new.problems.push(problem(None, None, refusal));
            new.rows = old.rows;
            new.rows.values_mut().for_each(|held| held.version = Version::Kept);
            return new;
        }
    };
    // (key, document) of broken ones; no key when even the identity can't be read.
    let mut broken: Vec<(Option<Key>, usize)> = Vec::new();
    for Document { number, value, doubt } in documents::parse_bytes(bytes) {
        let value = match value {
            Ok(value) => value,
            Err(error) => {
                let (kind, namespace, name) = error.looks_like.unwrap_or_default();
                let key = Kind::parse(&kind).map(|kind| {
                    let namespace = if !kind.is_namespaced() {
                        ""
                    } else if namespace.is_empty() {
                        "default"
                    } else {
                        &namespace
                    };
                    Key { kind, namespace: namespace.into(), name: name.clone() }
                });
                broken.push((key, number));
                let why = format!("is malformed: {}", error.why);
                new.problems.push(problem(
                    Some(number),
                    error.line,
                    Refusal { kind, namespace, name, field: String::new(), why },
                ));
                continue;
            }
        };
        for mut decoded in decode(value) {
            if let Some(doubt) = &doubt
                && let Err(broken_one) = doubted(&mut decoded, doubt)
            {
                let (key, refusal) = *broken_one;
                broken.push((key, number));
                new.problems.push(problem(Some(number), doubt.error().line, refusal));
                continue;
            }
            match decoded {
                Decoded::Object(key, object) => {
                    if let Some(first) = new.rows.get(&key) {
                        let why = format!(
                            "is also defined in document {}, which is in force",
                            first.document
                        );
                        new.problems.push(problem(Some(number), None, refusal(&key, "", why)));
                        continue;
                    }
                    let row = Row::judge(key.clone(), &object);
                    new.problems.extend(
                        row.refusals
                            .iter()
                            .map(|refusal| problem(Some(number), None, refusal.clone())),
                    );
                    let good = |row: &Row| !row.partial;
                    let has_better = old.rows.get(&key).is_some_and(|held| good(&held.row))
                        || store.row(&key).is_some_and(good);
                    if row.partial && has_better {
                        broken.push((Some(key), number));
                        continue;
                    }
                    let version = if row.partial { Version::Kept } else { Version::Good };
                    notices.extend(row.notices.iter().map(|notice| (number, notice.clone())));
                    new.rows.insert(key, Held { version, document: number, row });
                }
                Decoded::Refused(key, refusal) => {
                    broken.push((key, number));
                    new.problems.push(problem(Some(number), None, refusal));
                }
                Decoded::Ignored { notice } => notices.push((number, notice)),
            }
        }
    }
    keep(broken, &mut old, store, &mut new);
    new
}

/// Of a document that may not mean what was read, what is taken: policies, closed where it can't be told what they allow. Of other objects nothing.
fn doubted(decoded: &mut Decoded, doubt: &Doubt) -> Result<(), Box<(Option<Key>, Refusal)>> {
    let why = format!("is malformed: {}", doubt.error().why);
    match decoded {
        Decoded::Object(key, object) => {
            if object.doubt(&why, matches!(doubt, Doubt::Twice(_))) {
                Ok(())
            } else {
                Err(Box::new((Some(key.clone()), refusal(key, "", why))))
            }
        }
        // It is broken anyway.
        Decoded::Refused(_, refusal) => {
            refusal.why = format!("{}; {}", doubt.error().why, refusal.why);
            Ok(())
        }
        Decoded::Ignored { .. } => Ok(()),
    }
}

fn keep(broken: Vec<(Option<Key>, usize)>, old: &mut File, store: &Store, new: &mut File) {
    let mut unknown = None;
    for (key, document) in broken {
        let row = key.and_then(|key| {
            let last = old.rows.remove(&key).map(|held| held.row);
            // A renamed or replaced file has no past of its own, its objects have.
            last.or_else(|| store.row(&key).cloned())
        });
        match row {
            Some(row) => {
                _ = new.rows.entry(row.key.clone()).or_insert(Held {
                    version: Version::Kept,
                    document,
                    row,
                })
            }
            None => unknown = Some(document),
        }
    }
    // Which of the objects that are gone from this file the broken text was can't be told: none of them goes yet.
    if let Some(document) = unknown {
        for (key, held) in std::mem::take(&mut old.rows) {
            new.rows.entry(key).or_insert(Held { version: Version::Kept, document, row: held.row });
        }
    }
}

fn contents(path: &Path) -> Result<Vec<u8>, String> {
    use io::Read;
    for _ in 0..TRIES {
        // Not blocking: a FIFO with a manifest's name must not stop the process.
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(path);
        let mut file = file.map_err(|error| format!("can't be opened: {error}"))?;
        let before = file.metadata().map_err(|error| format!("can't be read: {error}"))?;
        if !before.is_file() {
            return Err("is not a regular file".into());
        }
        if before.len() > documents::LARGEST_FILE {
            return Err(format!(
                "has {} bytes, at most {} are read: split it",
                before.len(),
                documents::LARGEST_FILE
            ));
        }
        let mut bytes = Vec::new();
        (&mut file)
            .take(documents::LARGEST_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| format!("can't be read: {error}"))?;
        let after = file.metadata().map_err(|error| format!("can't be read: {error}"))?;
        if stamp(&before) == stamp(&after) && bytes.len() as u64 == after.len() {
            return Ok(bytes);
        }
    }
    Err("changes while it is read".into())
}
