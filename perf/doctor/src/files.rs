//! Where files of `/sys` and `/proc` are read: the machine itself, a folder, or an archive; and a record of all that was.

use crate::archive::Archive;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// A source of files. Paths are relative: `sys/class/net/eth0/mtu`.
#[derive(Debug)]
pub struct Files {
    from: From,
    seen: RefCell<Archive>,
}

#[derive(Debug)]
enum From {
    Root(PathBuf),
    Archive(Archive),
}

impl Files {
    /// Under a folder; `/` is the machine.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { from: From::Root(root.into()), seen: RefCell::default() }
    }

    /// Of an archive.
    pub fn of(archive: Archive) -> Self {
        Self { from: From::Archive(archive), seen: RefCell::default() }
    }

    /// A file's text without white space around; None where it can't be read.
    pub fn text(&self, path: &str) -> Option<String> {
        let text = match &self.from {
            From::Root(root) => fs::read(root.join(path))
                .ok()
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())?,
            From::Archive(archive) => archive.sections.get(path)?.clone(),
        };
        self.seen.borrow_mut().sections.insert(path.into(), text.clone());
        Some(text.trim().into())
    }

    /// A file that is a number.
    pub fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// The last part of what a link points to.
    pub fn link(&self, path: &str) -> Option<String> {
        let target = match &self.from {
            From::Root(root) => fs::read_link(root.join(path)).ok()?.to_string_lossy().into_owned(),
            From::Archive(archive) => archive.sections.get(&format!("link {path}"))?.trim().into(),
        };
        self.seen.borrow_mut().sections.insert(format!("link {path}"), target.clone());
        target.rsplit('/').next().map(Into::into)
    }

    /// The names in a folder, in order.
    pub fn list(&self, path: &str) -> Vec<String> {
        match &self.from {
            From::Root(root) => {
                let entries = fs::read_dir(root.join(path)).into_iter().flatten().flatten();
                let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
                names.collect::<BTreeSet<_>>().into_iter().collect()
            }
            From::Archive(archive) => {
                let prefix = format!("{path}/");
                let names = archive.sections.keys().filter_map(|key| {
                    let key = key.strip_prefix("link ").unwrap_or(key);
                    key.strip_prefix(&prefix)?.split('/').next().map(str::to_owned)
                });
                names.collect::<BTreeSet<_>>().into_iter().collect()
            }
        }
    }

    /// All that was read so far.
    pub fn seen(&self) -> Archive {
        self.seen.borrow().clone()
    }
}
