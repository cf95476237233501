//! What a check finds.

use crate::nic::Nic;
use crate::setting::Change;
use serde::Serialize;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Packets are slower, later or fewer than they could be.
    Costs,
    /// It does not work, or not for all packets.
    Blocks,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name, the same in every version.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What is the case, with its figures.
    pub seen: String,
    /// Why that matters.
    pub why: String,
    /// The commands that change it; empty where none does.
    pub change: Vec<String>,
    /// The commands that change it back.
    pub undo: Vec<String>,
    /// Where this is known from.
    pub source: &'static str,
    /// The same commands for `tune`.
    pub changes: Vec<Change>,
    /// Whether `tune --apply` does it without being asked for it by name.
    pub automatic: bool,
}

impl Finding {
    /// Without a change.
    pub fn new(
        id: &'static str,
        severity: Severity,
        seen: impl Into<String>,
        why: impl Into<String>,
        source: &'static str,
    ) -> Self {
        Self {
            id,
            severity,
            seen: seen.into(),
            why: why.into(),
            change: Vec::new(),
            undo: Vec::new(),
            source,
            changes: Vec::new(),
            automatic: false,
        }
    }

    /// With a command that nobody but the operator should run.
    pub fn advise(mut self, change: impl Into<String>) -> Self {
        self.change.push(change.into());
        self
    }

    /// With the command that takes an advised change back.
    pub fn back(mut self, undo: impl Into<String>) -> Self {
        self.undo.push(undo.into());
        self
    }

    /// With changes that `tune` can make; `automatic` ones without being asked by name. What can't be undone, since its
    /// value is not known, is only advised.
    pub fn fix(mut self, nic: &Nic, automatic: bool, changes: Vec<Change>) -> Self {
        let mut known = true;
        for change in &changes {
            self.change.push(change.setting.command(nic.name(), &change.to));
            match change.setting.of(nic) {
                Some(value) => self.undo.insert(0, change.setting.command(nic.name(), &value)),
                None => known = false,
            }
        }
        if known {
            self.automatic = automatic;
            self.changes = changes;
        }
        self
    }
}
