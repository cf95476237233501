//! Says when a directory or file should be looked at again.
//!
//! Decides when a change is complete: events are gathered until nothing has come for [`QUIET`] and nobody is
//! still writing, so that one look sees a whole save, copy or rename. Needs inotify; where it sees nothing (network file
//! systems, an overflow, a directory that was replaced) a look every [`POLL`] finds the change. Leaves reading to the caller.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};

/// No event for this long: the change is complete.
pub const QUIET: Duration = Duration::from_millis(20);
/// A stream of events is looked at this often at least.
const LONGEST: Duration = Duration::from_millis(500);
/// A file that is being written is waited for this long.
const WRITER: Duration = Duration::from_secs(2);
/// A look without any event.
const POLL: Duration = Duration::from_secs(2);

/// Watches the directory `dir` from a thread of its own and calls `changed` with the paths that events named, which may be
/// none. The thread ends when `changed` answers false.
pub fn spawn(
    dir: PathBuf,
    mut changed: impl FnMut(BTreeSet<PathBuf>) -> bool + Send + 'static,
) -> std::io::Result<()> {
    thread::Builder::new().name("watch".into()).spawn(move || {
        let (sender, events) = channel();
        let mut watch = Watch { dir, sender, watched: None };
        loop {
            let renewed = watch.renew();
            let paths = if renewed { Some(BTreeSet::new()) } else { gather(&events) };
            if !changed(paths.unwrap_or_default()) {
                return;
            }
        }
    })?;
    Ok(())
}

struct Watch {
    dir: PathBuf,
    sender: std::sync::mpsc::Sender<notify::Result<Event>>,
    /// The directory's device and inode, and what watches it.
    watched: Option<((u64, u64), RecommendedWatcher)>,
}

impl Watch {
    /// Watches the directory that has the name now. True when that is another one than before.
    fn renew(&mut self) -> bool {
        let now = fs::metadata(&self.dir).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if now == self.watched.as_ref().map(|(identity, _)| *identity) {
            return false;
        }
        self.watched =
            now.and_then(|identity| Some((identity, watcher(&self.dir, self.sender.clone())?)));
        self.watched.is_some()
    }
}

fn watcher(
    dir: &Path,
    sender: std::sync::mpsc::Sender<notify::Result<Event>>,
) -> Option<RecommendedWatcher> {
    let watcher = notify::recommended_watcher(sender).and_then(|mut watcher| {
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| {
            tracing::warn!(
                "{}: {error}: changes are found by looking every {} s",
                dir.display(),
                POLL.as_secs()
            )
        })
        .ok()
}

/// Waits for a change to begin and to be complete. `None` when none came for [`POLL`].
fn gather(events: &Receiver<notify::Result<Event>>) -> Option<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    let mut writing = BTreeSet::new();
    let begin = Instant::now();
    let mut first = None;
    loop {
        let wait = match first {
            None => POLL.saturating_sub(begin.elapsed()),
            Some(_) => QUIET,
        };
        match events.recv_timeout(wait) {
            Ok(Ok(event)) if note(&event, &mut paths, &mut writing) => {
                _ = first.get_or_insert_with(Instant::now)
            }
            // An error (an overflow, say) means that something was missed: a look without names finds it.
            Ok(Err(_)) => _ = first.get_or_insert_with(Instant::now),
            Ok(Ok(_)) => {}
            Err(RecvTimeoutError::Timeout) => match first {
                None => return None,
                Some(first) if writing.is_empty() || first.elapsed() >= WRITER => {
                    return Some(paths);
                }
                Some(_) => {}
            },
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(wait);
                return None;
            }
        }
        if first.is_some_and(|first| {
            first.elapsed() >= if writing.is_empty() { LONGEST } else { WRITER }
        }) {
            return Some(paths);
        }
        if first.is_none() && begin.elapsed() >= POLL {
            return None;
        }
    }
}

/// Enters one event. False for those that change nothing, such as our own reading.
fn note(event: &Event, paths: &mut BTreeSet<PathBuf>, writing: &mut BTreeSet<PathBuf>) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
            event.paths.iter().for_each(|path| _ = writing.remove(path))
        }
        EventKind::Access(_) => return false,
        EventKind::Modify(ModifyKind::Data(_)) => writing.extend(event.paths.iter().cloned()),
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
            event.paths.iter().for_each(|path| _ = writing.remove(path))
        }
        _ => {}
    }
    paths.extend(event.paths.iter().cloned());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, DataChange, RemoveKind};

    #[test]
    fn reading_is_no_change_and_a_writer_is_waited_for_until_it_closes() {
        let path = PathBuf::from("/m/a.yaml");
        let (mut paths, mut writing) = (BTreeSet::new(), BTreeSet::new());
        let mut note = |kind| {
            note(&Event::new(kind).add_path(path.clone()), &mut paths, &mut writing)
                .then_some(writing.len())
        };
        assert_eq!(note(EventKind::Access(AccessKind::Open(AccessMode::Any))), None);
        assert_eq!(note(EventKind::Create(CreateKind::File)), Some(0));
        assert_eq!(note(EventKind::Modify(ModifyKind::Data(DataChange::Any))), Some(1));
        assert_eq!(note(EventKind::Access(AccessKind::Close(AccessMode::Write))), Some(0));
        assert_eq!(note(EventKind::Modify(ModifyKind::Data(DataChange::Any))), Some(1));
        assert_eq!(note(EventKind::Remove(RemoveKind::File)), Some(0));
    }
}
