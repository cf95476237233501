//! The tables that the engine begins with, before any control process has spoken: its own addresses and networks.

use std::sync::Arc;

use ipnet::IpNet;
use millrace_tables::{Error, InterfaceSpec, NextHop, RouteSpec, SegmentConfig, Tables, Writer};

use crate::interface::Interfaces;

/// The generation of these tables, behind the empty one that a segment begins with; control's, also that of an image, is a later one.
pub const GENERATION: u64 = 2;

/// Connected routes and owned addresses of the interfaces.
pub fn tables(interfaces: &Interfaces) -> Result<Arc<Tables>, Error> {
    let mut writer = Writer::create(&SegmentConfig::default())?;
    for interface in interfaces.iter() {
        writer.set_interface(&InterfaceSpec {
            id: interface.id,
            kind: interface.kind,
            mac: interface.mac,
            mtu: interface.mtu,
            name: interface.name.clone(),
            addresses: interface.addresses.clone(),
        })?;
        for net in &interface.addresses {
            let hop = NextHop { interface: interface.id, gateway: None };
            writer.set_route(net.trunc(), &RouteSpec::Forward(vec![(hop, 1)]))?;
        }
    }
    // After all networks: a /32 is both, and it is ours.
    for net in interfaces.iter().flat_map(|interface| &interface.addresses) {
        writer.set_route(IpNet::from(net.addr()), &RouteSpec::Local)?;
    }
    writer.publish()?;
    Ok(writer.tables())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn these_tables_are_known_by_their_generation() {
        let tables = tables(&Interfaces::default()).unwrap();
        assert!(tables.snapshot().generation() <= GENERATION);
    }
}
