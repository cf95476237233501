//! The tables that the engine begins with, before any control process has spoken: its own addresses and networks.

use std::sync::Arc;

use ipnet::IpNet;
use millrace_tables::{Error, InterfaceSpec, NextHop, RouteSpec, SegmentConfig, Tables, Writer};

use crate::interface::Interfaces;

/// The generation of these tables; control goes on from it.
pub const GENERATION: u64 = 1;

/// Connected routes and owned addresses of the interfaces, as generation 1.
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
