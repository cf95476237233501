//! The other ends that rules in force name: sets of pods, blocks of addresses, nodes. Equal ones are one.
//!
//! Knows which of them an address is in. A pod asks its buckets (`sets.rs`); an address asks, for each length of prefix that any block has,
//! the blocks at its prefix of that length.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use super::{intern::Interned, sets::Buckets};
use crate::desired::{
    policy::{Block, Peer},
    selector::Labels,
};

#[derive(Debug, Default)]
pub(super) struct Peers {
    interned: Interned<Peer, ()>,
    sets: Buckets,
    /// By their cidr.
    blocks: HashMap<IpNet, Vec<u32>>,
    /// Lengths of these, with how many cidrs have each: of IPv4, and of IPv6.
    lengths: [BTreeMap<u8, usize>; 2],
    /// Where what is known of an address may change: cidrs and exceptions, with how many blocks name each.
    prefixes: BTreeMap<IpNet, usize>,
    nodes: BTreeSet<u32>,
    /// Those that have every pod.
    everyone: BTreeSet<u32>,
}

fn family(net: &IpNet) -> usize {
    usize::from(net.addr().is_ipv6())
}

impl Peers {
    /// Takes hold of a peer. True when it is new: then addresses have to be looked at again.
    pub(super) fn hold(&mut self, peer: &Peer) -> (u32, bool) {
        if let Some(number) = self.interned.number(peer) {
            // One that nobody held is not swept yet: it is still where it was.
            self.interned.hold_again(number);
            return (number, false);
        }
        let (number, _) = self.interned.hold(peer.clone());
        match peer {
            Peer::Pods(set) => {
                self.sets.insert(number, set);
                if set.is_everyone() {
                    self.everyone.insert(number);
                }
            }
            Peer::Nodes(_) => _ = self.nodes.insert(number),
            Peer::Block(block) => {
                let there = self.blocks.entry(block.cidr).or_default();
                if there.is_empty() {
                    *self.lengths[family(&block.cidr)]
                        .entry(block.cidr.prefix_len())
                        .or_default() += 1;
                }
                there.push(number);
                for net in edges(block) {
                    *self.prefixes.entry(*net).or_default() += 1;
                }
            }
        }
        (number, true)
    }

    pub(super) fn release(&mut self, number: u32) {
        self.interned.release(number);
    }

    /// Takes out those that nobody names any more.
    pub(super) fn sweep(&mut self) -> Vec<(u32, Arc<Peer>)> {
        let swept = self.interned.sweep();
        for (number, peer, ()) in &swept {
            match &**peer {
                Peer::Pods(set) => {
                    self.sets.remove(*number, set);
                    self.everyone.remove(number);
                }
                Peer::Nodes(_) => _ = self.nodes.remove(number),
                Peer::Block(block) => self.remove_block(*number, block),
            }
        }
        swept.into_iter().map(|(number, peer, ())| (number, peer)).collect()
    }

    fn remove_block(&mut self, number: u32, block: &Block) {
        if let Some(there) = self.blocks.get_mut(&block.cidr) {
            there.retain(|other| *other != number);
            if there.is_empty() {
                self.blocks.remove(&block.cidr);
                let lengths = &mut self.lengths[family(&block.cidr)];
                let left = lengths.get_mut(&block.cidr.prefix_len()).map(|count| {
                    *count -= 1;
                    *count
                });
                if left == Some(0) {
                    lengths.remove(&block.cidr.prefix_len());
                }
            }
        }
        for net in edges(block) {
            if let Some(count) = self.prefixes.get_mut(net) {
                *count -= 1;
                if *count == 0 {
                    self.prefixes.remove(net);
                }
            }
        }
    }

    /// Sets of pods that a pod is in, sorted.
    pub(super) fn of_pod(
        &self,
        namespace: &str,
        its_labels: &Labels,
        labels: &Labels,
    ) -> Box<[u32]> {
        self.sets.of_pod(namespace, its_labels, labels, |number| {
            self.interned.key(number).is_some_and(|peer| match &**peer {
                Peer::Pods(set) => set.contains(namespace, its_labels, labels),
                _ => false,
            })
        })
    }

    /// Blocks that all addresses of `net` are in. Right for addresses themselves, and for prefixes that no exception cuts through.
    pub(super) fn covering<'a>(&'a self, net: &'a IpNet) -> impl Iterator<Item = u32> + 'a {
        let lengths = self.lengths[family(net)].range(..=net.prefix_len());
        lengths
            .filter_map(move |(length, _)| {
                let wider = IpNet::new(net.addr(), *length).ok()?.trunc();
                self.blocks.get(&wider)
            })
            .flatten()
            .copied()
            .filter(move |number| {
                self.interned.key(*number).is_some_and(|peer| match &**peer {
                    Peer::Block(block) => !block.except.iter().any(|out| out.contains(net)),
                    _ => false,
                })
            })
    }

    /// Peers that are nodes with such labels.
    pub(super) fn of_node<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = u32> + 'a {
        self.nodes.iter().copied().filter(move |number| {
            self.interned.key(*number).is_some_and(
                |peer| matches!(&**peer, Peer::Nodes(selector) if selector.matches(labels)),
            )
        })
    }

    /// Whether every pod is in it.
    pub(super) fn is_everyone(&self, number: u32) -> bool {
        self.everyone.contains(&number)
    }

    /// A peer, if it is there.
    pub(super) fn get(&self, number: u32) -> Option<Arc<Peer>> {
        self.interned.key(number).cloned()
    }

    /// Whether any rule names nodes.
    pub(super) fn name_nodes(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Whether a block begins or ends at this prefix.
    pub(super) fn has_edge(&self, net: &IpNet) -> bool {
        self.prefixes.contains_key(net)
    }

    pub(super) fn len(&self) -> usize {
        self.interned.len()
    }
}

/// The prefixes at which a block begins and ends.
pub(super) fn edges(block: &Block) -> impl Iterator<Item = &IpNet> {
    std::iter::once(&block.cidr).chain(&block.except)
}
