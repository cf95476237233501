//! The write-ahead journal: one line an entry, each with its check sum, durable before the next step is taken.
//!
//! A last line that is cut short was never acted upon, and is ignored. A line that is damaged anywhere else is an error: then
//! it is not known what to restore.

use crate::setting::Setting;
use crate::tune::Snapshot;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Which interface, in which run of which machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The kernel's number of this start.
    pub boot: String,
    /// The interface's number.
    pub index: u32,
    /// Its MAC address.
    pub mac: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "number {}, {}", self.index, self.mac)
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// Before anything.
    Begin {
        /// The interface.
        identity: Identity,
        /// All settings.
        before: Vec<(Setting, String)>,
    },
    /// Before a setting is changed.
    Intend {
        /// The setting.
        setting: Setting,
        /// Its value.
        from: String,
        /// What it is to be.
        to: String,
    },
    /// After that.
    Done {
        /// The setting.
        setting: Setting,
        /// What it is: a driver may have rounded.
        now: String,
    },
    /// The trial was passed.
    Keep {
        /// All settings.
        after: Vec<(Setting, String)>,
    },
    /// Before the first setting is restored.
    Undo {
        /// What someone else has changed since, and stays.
        foreign: Vec<Setting>,
    },
}

/// Where the lines are.
pub trait Store {
    /// All bytes; none where there is no journal.
    fn read(&mut self) -> io::Result<Vec<u8>>;
    /// Appends, and returns when it would survive a power cut.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// There is nothing to undo any more.
    fn close(&mut self) -> io::Result<()>;
}

/// An entry as a line: its check sum, then JSON.
pub fn line(entry: &Entry) -> Vec<u8> {
    // Plain data always has a JSON form.
    let json = serde_json::to_string(entry).unwrap_or_default();
    format!("{:016x} {json}\n", sum(json.as_bytes())).into_bytes()
}

/// FNV-1a: against torn and damaged lines, not against malice.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn parse(line: &[u8]) -> Option<Entry> {
    let text = std::str::from_utf8(line).ok()?;
    let (hash, json) = text.split_once(' ')?;
    let right = hash == format!("{:016x}", sum(json.as_bytes()));
    right.then(|| serde_json::from_str(json).ok()).flatten()
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// The interface.
    pub identity: Identity,
    /// All settings as they were.
    pub before: Snapshot,
    /// What was touched, in order, and what it was made.
    pub touched: Vec<(Setting, Vec<String>)>,
    /// All settings once the trial was passed; None of a transaction that was cut off.
    pub after: Option<Snapshot>,
    /// An undo has begun, and leaves these.
    pub foreign: Option<Vec<Setting>>,
}

impl Journal {
    /// Reads it; None where there is none, or where it was cut off before anything was touched.
    pub fn read(store: &mut dyn Store) -> Result<Option<Self>, String> {
        let bytes = store.read().map_err(|error| error.to_string())?;
        let mut lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        if lines.last().is_some_and(|line| !line.ends_with(b"\n")) {
            lines.pop();
        }
        let mut journal: Option<Self> = None;
        for (number, line) in (1..).zip(&lines) {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let entry = parse(line).ok_or_else(|| {
                format!("line {number} is damaged: what was before can't be known from it; put the settings right by hand and remove the file")
            })?;
            match (entry, &mut journal) {
                (Entry::Begin { identity, before }, None) => {
                    let before = before.into_iter().collect();
                    journal = Some(Self { identity, before, ..Self::default() });
                }
                (Entry::Intend { setting, to, .. }, Some(journal)) => {
                    journal.touched.push((setting, vec![to]));
                }
                (Entry::Done { setting, now }, Some(journal)) => {
                    match journal.touched.last_mut().filter(|(last, _)| *last == setting) {
                        Some((_, values)) => values.push(now),
                        None => {
                            return Err(format!("line {number} ends a step that was not begun"));
                        }
                    }
                }
                (Entry::Keep { after }, Some(journal)) => {
                    journal.after = Some(after.into_iter().collect());
                }
                (Entry::Undo { foreign }, Some(journal)) => journal.foreign = Some(foreign),
                _ => return Err(format!("line {number} is out of order")),
            }
        }
        Ok(journal)
    }

    /// Settings in the order of undoing: what was touched, last first, then all others, which may have changed with it.
    pub fn order(&self) -> Vec<Setting> {
        let mut order: Vec<Setting> = Vec::new();
        let touched = self.touched.iter().rev().map(|(setting, _)| setting);
        for setting in touched.chain(self.before.keys()) {
            if !order.contains(setting) {
                order.push(setting.clone());
            }
        }
        order
    }

    /// Whether a value may be our doing: what was made of it, what it was when all was kept, or, where a transaction was cut
    /// off, anything.
    pub fn is_ours(&self, setting: &Setting, value: &String) -> bool {
        let made =
            self.touched.iter().any(|(other, values)| other == setting && values.contains(value));
        match &self.after {
            None => true,
            Some(after) => made || after.get(setting) == Some(value),
        }
    }
}

/// A journal in a file, and a lock beside it while it is open.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    _lock: File,
}

impl FileStore {
    /// Opens the journal of an interface in a folder, which is made if need be.
    pub fn open(folder: &Path, name: &str) -> Result<Self, String> {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let lock = folder.join(format!("{name}.lock"));
        let fail = |error: &dyn fmt::Display| format!("{}: {error}", lock.display());
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
        let file = file.map_err(|error| fail(&error))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| fail(&"another `tune` is at work on this interface"))?;
        Ok(Self { path: folder.join(format!("{name}.journal")), _lock: file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

impl Store for FileStore {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            result => result,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fresh = !self.path.exists();
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        // A line that was cut short is in the way of the next one.
        let whole = self.read()?.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        if fresh { self.sync_folder() } else { Ok(()) }
    }

    fn close(&mut self) -> io::Result<()> {
        if self.path.exists() {
            fs::rename(&self.path, self.path.with_extension("undone"))?;
        }
        self.sync_folder()
    }
}
