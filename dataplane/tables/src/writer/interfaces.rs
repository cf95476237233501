//! Staging interfaces, configured neighbors and the node's own row.

use super::{Writer, policies::free_names};
use crate::{
    arena::{Arena, Table},
    cold,
    error::Error,
    guard::{self, GuardSpec},
    index::Index,
    interface,
    node::{self, Node, NodeSpec},
    row::InterfaceId,
    spec::InterfaceSpec,
    tables::neighbor_key,
    trie::Trie,
    words::Ref,
};
use millrace_wire::{Addr, Mac};

impl Writer {
    /// Sets the interface `spec.id`: makes it, or replaces all of it.
    pub fn set_interface(&mut self, spec: &InterfaceSpec) -> Result<(), Error> {
        spec.check()?;
        let index = u32::from(spec.id.0);
        let old = self.interfaces.get(&self.arena, index);
        let words = self.arena.words();
        if !old.is_null() && interface::read(words, old) == interface::row(spec) {
            return Ok(());
        }
        self.room(Arena::bytes_of(interface::words_for(spec)) + Index::WORST_CHANGE)?;
        let row = interface::write(&mut self.arena, spec)?;
        self.interfaces.set(&mut self.arena, index, row)?;
        self.free_interface(old);
        self.dirty = true;
        Ok(())
    }

    /// Removes an interface; false when there is none. Routes and neighbors that name it stay.
    pub fn remove_interface(&mut self, id: InterfaceId) -> Result<bool, Error> {
        let old = self.interfaces.set(&mut self.arena, id.0.into(), Ref::NULL)?;
        self.free_interface(old);
        self.dirty |= !old.is_null();
        Ok(!old.is_null())
    }

    fn free_interface(&mut self, row: Ref) {
        if !row.is_null() {
            let words = interface::words_of(self.arena.words(), row);
            self.arena.free(Table::Interfaces, row, words);
        }
    }

    /// Says who may send from an interface, in place of what was said before.
    pub fn set_guard(&mut self, interface: InterfaceId, spec: &GuardSpec) -> Result<(), Error> {
        spec.check(interface)?;
        let number = u32::from(interface.0);
        self.room(
            guard::worst(spec)
                + cold::bytes_of(std::iter::once(spec.name.as_str()))
                + self.guards.worst_change(number),
        )?;
        let old = self.guards.get(&self.arena, number);
        let names = cold::write(&mut self.arena, std::iter::once(spec.name.as_str()))?;
        let row = guard::write(&mut self.arena, spec, names)?;
        self.guards.set(&mut self.arena, number, row)?;
        self.free_guard(old);
        self.dirty = true;
        Ok(())
    }

    /// From now on anybody may send from an interface; false if that was so.
    pub fn remove_guard(&mut self, interface: InterfaceId) -> Result<bool, Error> {
        let number = u32::from(interface.0);
        let old = self.guards.get(&self.arena, number);
        self.guards.clear(&mut self.arena, number)?;
        self.free_guard(old);
        self.dirty |= old.is_some();
        Ok(old.is_some())
    }

    fn free_guard(&mut self, row: Option<[u64; guard::WORDS]>) {
        if let Some(row) = row {
            guard::free(&mut self.arena, &row);
            free_names(&mut self.arena, row[1]);
        }
    }

    /// Sets the node's own row. An empty one says nothing of the node, as before the first.
    pub fn set_node(&mut self, spec: &NodeSpec) -> Result<(), Error> {
        spec.check()?;
        let old = self.node;
        if Node::new(self.arena.words(), old).spec() == *spec {
            return Ok(());
        }
        self.node = if *spec == NodeSpec::default() {
            Ref::NULL
        } else {
            self.room(Arena::bytes_of(spec.words()))?;
            node::write(&mut self.arena, spec)?
        };
        if !old.is_null() {
            let words = node::words_of(self.arena.words(), old);
            self.arena.free(Table::Interfaces, old, words);
        }
        self.dirty = true;
        Ok(())
    }

    /// Sets the MAC of a neighbor that isn't to be learned.
    pub fn set_neighbor(
        &mut self,
        interface: InterfaceId,
        addr: Addr,
        mac: Mac,
    ) -> Result<(), Error> {
        if addr.is_unspecified() || addr.is_multicast() || !mac.is_unicast() {
            return Err(Error::Row {
                row: format!("neighbor {addr} on interface {}", interface.0),
                why: format!("{addr} has to be a unicast address, {mac} a unicast MAC"),
            });
        }
        let key = neighbor_key(interface, &addr);
        let value = [mac.to_u64()];
        if self.neighbors.get(&self.arena, &key) == Some(value) {
            return Ok(());
        }
        self.room(Trie::<3, 1>::WORST_CHANGE)?;
        self.neighbors.insert(&mut self.arena, key, value)?;
        self.dirty = true;
        Ok(())
    }

    /// Removes a configured neighbor; false when there is none.
    pub fn remove_neighbor(&mut self, interface: InterfaceId, addr: &Addr) -> Result<bool, Error> {
        let removed =
            self.neighbors.remove(&mut self.arena, &neighbor_key(interface, addr))?.is_some();
        self.dirty |= removed;
        Ok(removed)
    }
}
