//! Names of ports that rules in force ask for at the other end: by them pods are of different classes.

use std::collections::{BTreeSet, HashMap};

use crate::desired::NamedPort;

#[derive(Debug, Default)]
pub(super) struct Names {
    holders: HashMap<Box<str>, usize>,
    changed: BTreeSet<Box<str>>,
}

impl Names {
    pub(super) fn hold(&mut self, name: &str) {
        match self.holders.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                self.holders.insert(name.into(), 1);
                self.changed.insert(name.into());
            }
        }
    }

    pub(super) fn release(&mut self, name: &str) {
        let Some(count) = self.holders.get_mut(name) else { return };
        *count -= 1;
        if *count == 0 {
            self.holders.remove(name);
            self.changed.insert(name.into());
        }
    }

    /// Those that have come or gone since the last call.
    pub(super) fn changed(&mut self) -> BTreeSet<Box<str>> {
        std::mem::take(&mut self.changed)
    }

    /// Of a pod's ports those that are asked for.
    pub(super) fn among(&self, ports: &[NamedPort]) -> Box<[NamedPort]> {
        ports.iter().filter(|port| self.holders.contains_key(&port.name)).cloned().collect()
    }
}
