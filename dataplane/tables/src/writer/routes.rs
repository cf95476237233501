//! Staging routes: those of the configuration, and one host route for each VIP that has none of its own.

use super::Writer;
use crate::{error::Error, route::RouteSpec};
use ipnet::IpNet;
use millrace_wire::Addr;

/// The prefix of exactly this address.
fn host(addr: &Addr) -> IpNet {
    IpNet::from(addr.to_ip())
}

/// The address that a prefix is the host route of.
fn host_of(prefix: &IpNet) -> Option<Addr> {
    (prefix.prefix_len() == prefix.max_prefix_len()).then(|| Addr::from(prefix.addr()))
}

impl Writer {
    /// Sets the route of `prefix` (its host bits are ignored). A host route given here wins over that of a VIP on the same
    /// address.
    pub fn set_route(&mut self, prefix: IpNet, spec: &RouteSpec) -> Result<(), Error> {
        let prefix = prefix.trunc();
        self.room(0)?;
        self.routes.set(&mut self.arena, prefix, spec)?;
        self.dirty = true;
        if let Some(addr) = host_of(&prefix) {
            self.host_routes.insert(addr);
            if self.vips.contains_key(&addr) {
                self.routes.note_frontends(&mut self.arena, &prefix, true)?;
            }
        }
        Ok(())
    }

    /// Removes the route of `prefix`; false when there is none. A VIP's host route isn't removed by this.
    pub fn remove_route(&mut self, prefix: &IpNet) -> Result<bool, Error> {
        let prefix = prefix.trunc();
        if let Some(addr) = host_of(&prefix)
            && self.vips.contains_key(&addr)
        {
            if !self.host_routes.contains(&addr) {
                return Ok(false);
            }
            self.routes.set(&mut self.arena, prefix, &RouteSpec::Vip)?;
            self.host_routes.remove(&addr);
            self.dirty = true;
            return Ok(true);
        }
        let removed = self.routes.remove(&mut self.arena, &prefix)?;
        if let Some(addr) = host_of(&prefix) {
            self.host_routes.remove(&addr);
        }
        self.dirty |= removed;
        Ok(removed)
    }

    /// Adds the host routes of new VIPs: all or none.
    pub(super) fn add_vip_routes(&mut self, addresses: &[Addr]) -> Result<(), Error> {
        for (done, addr) in addresses.iter().enumerate() {
            let outcome = if self.host_routes.contains(addr) {
                self.routes.note_frontends(&mut self.arena, &host(addr), true)
            } else {
                self.routes.set(&mut self.arena, host(addr), &RouteSpec::Vip)
            };
            if let Err(error) = outcome {
                self.drop_vip_routes(&addresses[..done])?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Removes the host routes of addresses that are VIPs no more.
    pub(super) fn drop_vip_routes(&mut self, addresses: &[Addr]) -> Result<(), Error> {
        for addr in addresses {
            if self.host_routes.contains(addr) {
                self.routes.note_frontends(&mut self.arena, &host(addr), false)?;
            } else {
                self.routes.remove(&mut self.arena, &host(addr))?;
            }
        }
        Ok(())
    }
}
