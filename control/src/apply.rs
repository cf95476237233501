//! Changes → the tables' writer. Nothing is visible until the caller publishes.
//!
//! Decides what a refused row means: it is answered, the others go on, and what was in force of it stays.

use millrace_tables::{Error, Writer};

use crate::compile::{Change, PolicyRow};

/// A row that the writer would not take.
#[derive(Debug)]
pub struct RowError {
    /// Which one. To be tried again when there is room.
    pub change: Change,
    /// Why.
    pub error: Error,
}

/// Stages the changes in order.
pub fn apply(writer: &mut Writer, changes: impl IntoIterator<Item = Change>) -> Vec<RowError> {
    let mut refused = Vec::new();
    for change in changes {
        if let Err(error) = stage(writer, &change) {
            refused.push(RowError { change, error });
        }
    }
    refused
}

fn stage(writer: &mut Writer, change: &Change) -> Result<(), Error> {
    match change {
        Change::Service(key, Some(spec)) => writer.set_shared_service(key, spec),
        Change::Service(key, None) => writer.remove_service(key).map(drop),
        Change::Interface(_, Some(spec)) => writer.set_interface(spec),
        Change::Interface(id, None) => writer.remove_interface(*id).map(drop),
        Change::Route(prefix, Some(spec)) => writer.set_route(*prefix, spec),
        Change::Route(prefix, None) => writer.remove_route(prefix).map(drop),
        Change::Neighbor(interface, addr, Some(mac)) => {
            writer.set_neighbor(*interface, *addr, *mac)
        }
        Change::Node(spec) => writer.set_node(spec),
        Change::Neighbor(interface, addr, None) => {
            writer.remove_neighbor(*interface, addr).map(drop)
        }
        Change::Guard(id, Some(spec)) => writer.set_guard(*id, spec),
        Change::Guard(id, None) => writer.remove_guard(*id).map(drop),
        Change::Policy(row) => stage_policy(writer, row),
    }
}

fn stage_policy(writer: &mut Writer, row: &PolicyRow) -> Result<(), Error> {
    match row {
        PolicyRow::Endpoint(net, Some(spec)) => writer.set_policy_endpoint(*net, spec),
        PolicyRow::Endpoint(net, None) => writer.remove_policy_endpoint(net).map(drop),
        // Cells that an earlier subject of that number left would be its own.
        PolicyRow::Subject(id, Some(default)) => {
            writer.remove_subject(*id)?;
            writer.set_subject(*id, *default)
        }
        PolicyRow::Subject(id, None) => writer.remove_subject(*id).map(drop),
        PolicyRow::Cells(id, cells) => writer.set_cells(*id, cells).inspect_err(|_| {
            // The default may allow what a cell denies: without a row a subject denies everything.
            let _ = writer.remove_subject(*id);
        }),
        PolicyRow::PortMap(id, Some(spec)) => writer.set_port_map(*id, spec),
        PolicyRow::PortMap(id, None) => writer.remove_port_map(*id).map(drop),
        PolicyRow::Decision(id, Some(spec)) => writer.set_decision(*id, spec),
        PolicyRow::Decision(id, None) => writer.remove_decision(*id).map(drop),
        PolicyRow::Name(id, Some(spec)) => writer.set_policy(*id, spec),
        PolicyRow::Name(id, None) => writer.remove_policy(*id).map(drop),
        PolicyRow::Changes(changes) => {
            writer.set_policy_changes(*changes);
            Ok(())
        }
    }
}
