//! Changes as a transaction: each old value is on disk before its setting is touched, a trial decides whether the changes
//! stay, and whatever happens in between (a refusal, a signal, `kill -9`) can be undone to what was before.
//!
//! The order is what makes that true: *begin* with a snapshot of all settings, then for each change *intend* (durable), set,
//! *done*; after the trial *keep*. An undo goes backwards through what was intended and then through the snapshot, for a
//! change may have changed others with it. It may itself be killed at any point: it is begun anew and ends the same.

pub mod journal;
pub mod live;
pub mod trial;

use crate::finding::Finding;
use crate::setting::{Change, Setting};
use journal::{Entry, Identity, Journal, Store};
use std::collections::BTreeMap;
use trial::Trial;

/// Settings with their values.
pub type Snapshot = BTreeMap<Setting, String>;

/// What settings are read from and written to.
pub trait Backend {
    /// Which interface this is, so that another one of its name is told apart.
    fn identity(&mut self) -> Result<Identity, String>;
    /// All settings that could be changed here.
    fn snapshot(&mut self) -> Result<Snapshot, String>;
    /// One of them.
    fn get(&mut self, setting: &Setting) -> Result<String, String>;
    /// Changes one of them; an error where it did not take effect.
    fn set(&mut self, setting: &Setting, value: &str) -> Result<(), String>;
}

/// Why a transaction did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The changes of an earlier one are in force.
    #[error("changes of an earlier `--apply` are in force; `--undo` them first")]
    Kept,
    /// The journal is about another interface.
    #[error(
        "the journal is about another interface of that name ({was}; this is {is}): its settings went with it; `--undo --force` closes the journal"
    )]
    OtherInterface {
        /// In the journal.
        was: String,
        /// Here.
        is: String,
    },
    /// The journal can't be read or written.
    #[error("journal: {0}")]
    Journal(String),
    /// Settings can't be read.
    #[error("{0}")]
    Backend(String),
    /// Not all could be restored; the journal stays.
    #[error("not undone, `--undo` again once what hinders is gone: {}", .0.join("; "))]
    NotUndone(Vec<String>),
}

/// How an `apply` ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing had to change.
    Nothing,
    /// So many changes are in force.
    Kept(usize),
    /// All is as before, and why.
    Reverted {
        /// What failed.
        why: String,
        /// What the undo did.
        undone: Undone,
    },
}

/// How an undo ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// Settings restored.
    pub restored: usize,
    /// Settings that someone else has changed since, and that were left so.
    pub left: Vec<String>,
    /// The machine was started anew since: the kernel had forgotten the changes.
    pub forgotten: bool,
}

/// The findings whose changes are to be made: the automatic ones, or those named; an unknown name is an error.
pub fn choose<'a>(
    findings: &'a [Finding],
    only: &[String],
    except: &[String],
) -> Result<Vec<&'a Finding>, String> {
    for id in only {
        let finding = findings.iter().find(|finding| finding.id == id);
        let finding =
            finding.ok_or_else(|| format!("`{id}` is not found here: nothing to change"))?;
        if finding.changes.is_empty() {
            return Err(format!(
                "`{id}` can't be changed by `tune`: {}",
                finding.change.join("; ")
            ));
        }
    }
    let named = |finding: &&Finding| {
        let chosen = if only.is_empty() {
            finding.automatic
        } else {
            only.iter().any(|id| id == finding.id)
        };
        chosen && !except.iter().any(|id| id == finding.id)
    };
    Ok(findings.iter().filter(named).collect())
}

/// Makes the changes, tries, and keeps or reverts them. An earlier transaction that was cut off is undone first.
pub fn apply(
    backend: &mut dyn Backend,
    store: &mut dyn Store,
    trial: &mut dyn Trial,
    plan: &[Change],
) -> Result<Applied, Error> {
    let identity = backend.identity().map_err(Error::Backend)?;
    match Journal::read(store).map_err(Error::Journal)? {
        // The kernel has forgotten those changes.
        Some(journal) if journal.identity.boot != identity.boot => close(store)?,
        Some(journal) if journal.after.is_some() && journal.foreign.is_none() => {
            return Err(Error::Kept);
        }
        Some(_) => drop(undo(backend, store, false)?),
        None => {}
    }
    let before = backend.snapshot().map_err(Error::Backend)?;
    let plan: Vec<_> =
        plan.iter().filter(|change| before.get(&change.setting) != Some(&change.to)).collect();
    if plan.is_empty() {
        return Ok(Applied::Nothing);
    }
    let reference = match trial.measure() {
        Ok(reference) => reference,
        Err(why) => {
            let why = format!("the trial failed before anything was changed: {why}");
            return Ok(Applied::Reverted { why, undone: Undone::default() });
        }
    };
    let begin = Entry::Begin { identity, before: before.clone().into_iter().collect() };
    append(store, &begin)?;
    let result = make(backend, store, &before, &plan).and_then(|()| {
        let now = trial.measure().map_err(|why| format!("the trial failed: {why}"))?;
        trial.judge(&reference, &now)?;
        let after = backend.snapshot()?.into_iter().collect();
        append(store, &Entry::Keep { after }).map_err(|error| error.to_string())
    });
    match result {
        Ok(()) => Ok(Applied::Kept(plan.len())),
        Err(why) => Ok(Applied::Reverted { why, undone: undo(backend, store, false)? }),
    }
}

fn make(
    backend: &mut dyn Backend,
    store: &mut dyn Store,
    before: &Snapshot,
    plan: &[&Change],
) -> Result<(), String> {
    for change in plan {
        let setting = change.setting.clone();
        if !before.contains_key(&setting) {
            return Err(format!("{setting:?} can't be read, so it could not be undone"));
        }
        let from = backend.get(&setting)?;
        let intend = Entry::Intend { setting: setting.clone(), from, to: change.to.clone() };
        append(store, &intend).map_err(|error| error.to_string())?;
        backend.set(&setting, &change.to)?;
        let now = backend.get(&setting)?;
        append(store, &Entry::Done { setting, now }).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Restores what the journal says was before, and closes it. `force` also overwrites what others have changed since.
pub fn undo(
    backend: &mut dyn Backend,
    store: &mut dyn Store,
    force: bool,
) -> Result<Undone, Error> {
    let Some(journal) = Journal::read(store).map_err(Error::Journal)? else {
        return Ok(Undone::default());
    };
    let identity = backend.identity().map_err(Error::Backend)?;
    if identity.boot != journal.identity.boot {
        close(store)?;
        return Ok(Undone { forgotten: true, ..Undone::default() });
    }
    if identity != journal.identity {
        if force {
            close(store)?;
            return Ok(Undone { forgotten: true, ..Undone::default() });
        }
        let (was, is) = (journal.identity.to_string(), identity.to_string());
        return Err(Error::OtherInterface { was, is });
    }
    let now = backend.snapshot().map_err(Error::Backend)?;
    let foreign = foreign(store, &journal, &now, force)?;
    let mut undone = Undone::default();
    for setting in &foreign {
        if let (Some(now), Some(old)) = (now.get(setting), journal.before.get(setting)) {
            undone.left.push(format!(
                "{setting:?} is {now}, neither what it was ({old}) nor what was made of it"
            ));
        }
    }
    let mut failed = Vec::new();
    // Again where restoring one setting disturbed another, or was refused until that one was restored.
    for _ in 0..4 {
        failed.clear();
        let now = backend.snapshot().map_err(Error::Backend)?;
        let differing = |setting: &Setting| now.get(setting) != journal.before.get(setting);
        let order = journal.order().into_iter();
        let restore: Vec<_> =
            order.filter(|setting| differing(setting) && !foreign.contains(setting)).collect();
        for setting in &restore {
            let Some(old) = journal.before.get(setting) else { continue };
            match backend.set(setting, old) {
                Ok(()) => undone.restored += 1,
                Err(why) => failed.push(format!("{setting:?} to {old}: {why}")),
            }
        }
        if restore.is_empty() {
            break;
        }
    }
    let now = backend.snapshot().map_err(Error::Backend)?;
    for (setting, old) in &journal.before {
        if now.get(setting) != Some(old) && !foreign.contains(setting) {
            let now = now.get(setting).map_or("gone", String::as_str);
            failed.push(format!("{setting:?} is {now}, was {old}"));
        }
    }
    if !failed.is_empty() {
        failed.sort();
        failed.dedup();
        return Err(Error::NotUndone(failed));
    }
    close(store)?;
    Ok(undone)
}

/// What someone else has changed since, and an undo leaves. It is decided once, and noted before anything is restored: later
/// a value may be strange because one setting's restoring disturbed another.
fn foreign(
    store: &mut dyn Store,
    journal: &Journal,
    now: &Snapshot,
    force: bool,
) -> Result<Vec<Setting>, Error> {
    if force {
        return Ok(Vec::new());
    }
    if let Some(foreign) = &journal.foreign {
        return Ok(foreign.clone());
    }
    let strange = |(setting, old): &(&Setting, &String)| {
        now.get(setting).is_some_and(|now| now != *old && !journal.is_ours(setting, now))
    };
    let foreign: Vec<_> =
        journal.before.iter().filter(strange).map(|(setting, _)| setting.clone()).collect();
    append(store, &Entry::Undo { foreign: foreign.clone() })?;
    Ok(foreign)
}

fn append(store: &mut dyn Store, entry: &Entry) -> Result<(), Error> {
    store.append(&journal::line(entry)).map_err(|error| Error::Journal(error.to_string()))
}

fn close(store: &mut dyn Store) -> Result<(), Error> {
    store.close().map_err(|error| Error::Journal(error.to_string()))
}
