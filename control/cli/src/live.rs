//! A running engine as an observer sees it: its tables, pinned, and its state, both mapped for reading.
//!
//! The engine is asked once, for the two descriptors; whatever is read afterwards is read from shared memory and
//! costs the engine nothing.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use millrace_dataplane::state::segment::View;
use millrace_tables::epoch::WAKING;
use millrace_tables::session::{Interface, Role, Session};
use millrace_tables::shm::Segment;
use millrace_tables::{Epochs, InterfaceId, Tables};

/// An open session; the engine keeps the tables' generation for as long as it lasts.
pub struct Engine {
    /// The tables.
    pub tables: Arc<Tables>,
    /// Conntrack, neighbors, counters, workers.
    pub state: View,
    /// Interfaces by id.
    pub interfaces: Vec<Interface>,
    /// Who uses which generation.
    epochs: Epochs,
    _session: Session,
}

impl Engine {
    /// Asks the engine at `socket`.
    pub fn open(socket: &Path) -> Result<Self, String> {
        let at = |error: &dyn std::fmt::Display| {
            format!(
                "{error} (is millrace-dataplane running? --socket FILE names its socket, here {})",
                socket.display()
            )
        };
        let session = Session::connect(socket).map_err(|e| at(&e))?;
        let greeting = session.greet(Role::Observer).map_err(|e| at(&e))?;
        let fd = greeting.tables.ok_or("the engine has no tables yet")?;
        let tables = Arc::new(Tables::open(fd).map_err(|e| e.to_string())?);
        Self::new(tables, greeting.state, greeting.interfaces, session)
    }

    /// Over what a session has brought; `state` is the state segment's file.
    pub fn new(
        tables: Arc<Tables>,
        state: OwnedFd,
        mut interfaces: Vec<Interface>,
        session: Session,
    ) -> Result<Self, String> {
        let copy = state.try_clone().map_err(|e| format!("state segment: {e}"))?;
        let epochs = Segment::open(copy).and_then(|memory| Epochs::open(Arc::new(memory)));
        let epochs = epochs.map_err(|e| e.to_string())?;
        let state = View::open(state).map_err(|e| e.to_string())?;
        interfaces.sort_by_key(|interface| interface.id);
        Ok(Self { tables, state, interfaces, epochs, _session: session })
    }

    /// What an interface is called; its number when the engine has none of that number.
    pub fn interface_name(&self, id: InterfaceId) -> String {
        let known = self.interfaces.iter().find(|interface| interface.id == id.0);
        known.map_or_else(|| format!("#{}", id.0), |interface| interface.name.clone())
    }

    /// Whose interface it is, where one pod is alone behind it: `Pod default/web-0`.
    pub fn owner(&self, id: InterfaceId) -> Option<String> {
        let snapshot = self.tables.snapshot();
        snapshot.guard(id).map(|guard| snapshot.guard_name(&guard))
    }

    /// The tables' generation that a worker uses; `None` while it sleeps.
    pub fn generation(&self, worker: usize) -> Option<u64> {
        self.epochs.generation(worker).filter(|generation| *generation != WAKING)
    }
}
