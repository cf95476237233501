//! A running engine as an observer sees it: its tables, pinned, and its state, both mapped for reading.

use std::path::Path;
use std::sync::Arc;

use millrace_dataplane::state::segment::View;
use millrace_tables::Tables;
use millrace_tables::session::{Interface, Role, Session};

/// An open session; the engine keeps the tables' generation for as long as it lasts.
pub struct Engine {
    /// The tables.
    pub tables: Arc<Tables>,
    /// Conntrack, neighbors, counters, workers.
    pub state: View,
    /// Interfaces by id.
    pub interfaces: Vec<Interface>,
    _session: Session,
}

impl Engine {
    /// Asks the engine at `socket`.
    pub fn open(socket: &Path) -> Result<Self, String> {
        let at = |error: &dyn std::fmt::Display| {
            format!("{error} (is millrace-dataplane running? --socket FILE names its socket, here {})", socket.display())
        };
        let session = Session::connect(socket).map_err(|e| at(&e))?;
        let greeting = session.greet(Role::Observer).map_err(|e| at(&e))?;
        let fd = greeting.tables.ok_or("the engine has no tables yet")?;
        Ok(Self {
            tables: Arc::new(Tables::open(fd).map_err(|e| e.to_string())?),
            state: View::open(greeting.state).map_err(|e| e.to_string())?,
            interfaces: greeting.interfaces,
            _session: session,
        })
    }
}
