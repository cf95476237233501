//! Policies to judge by: so many, over the same 5,000 pods, set as control sets them.
//!
//! Pod `i` is backend `i` of [`net::backend`]. Policy `p` selects the pods `i` that are `p` modulo the policies (so ten have 500 pods each, and of
//! 10,000 each pod has two), and lets blocks of clients send datagrams to port 4000, and eight pods too. One more policy lets all clients reach the
//! pods' port 8080, so that flows to services go on. Pods of the same policies are one subject, as control compiles them: ten, 1,000 and 5,000.
//!
//! Of every number of policies all pods are isolated, have rows and classes of their own, and the flows are the same: from two blocks to each pod. Of 10,000
//! policies one lets the first in and another the second, so that all of them decide; of fewer one lets in both. What differs is how much
//! memory there is to judge by: subjects with their cells, port maps, decisions, counters.

use super::net;
use super::routes::Random;
use ipnet::{IpNet, Ipv4Net};
use millrace_tables::{
    ByPolicies, ClassId, DecisionId, DecisionSpec, EndpointSpec, Error, PolicyId, PolicySpec,
    PortMapId, PortMapSpec, SubjectId, Writer,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Pods.
pub const PODS: usize = 5_000;
/// Blocks of clients: /24 from 100.64.0.0 on.
const BLOCKS: usize = 64;
/// Blocks that flows to a pod's first policy come from; as many more to its second. Divides the pods and every number of policies, so that a pod's blocks
/// are those of its policies, whichever of how many these are.
const SENDING: usize = 10;
/// Pods that a policy lets in beside clients.
const FRIENDS: usize = 8;
/// The port that the policies are about.
const PORT: u16 = 4_000;

fn pod(index: usize) -> SocketAddr {
    net::backend(index / net::BACKENDS, index % net::BACKENDS)
}

fn block(index: usize) -> Ipv4Net {
    let first = u32::from(Ipv4Addr::new(100, 64, 0, 0)) + ((index % BLOCKS) as u32) * 256;
    Ipv4Net::new_assert(first.into(), 24)
}

/// The block that a pod's first policy lets in, or its second.
fn block_of(policy: usize, second: bool) -> usize {
    policy % SENDING + if second { SENDING } else { 0 }
}

/// Classes: 0 strangers, then blocks, then pods.
fn class_of_block(index: usize) -> ClassId {
    ClassId(1 + (index % BLOCKS) as u32)
}

fn class_of_pod(index: usize) -> ClassId {
    ClassId((1 + BLOCKS + index % PODS) as u32)
}

/// The ports of a map that decides `on` on `port`, and `else_` on all others.
fn only(port: u16, on: DecisionId, else_: DecisionId) -> PortMapSpec {
    let mut map = PortMapSpec::all(else_);
    map.udp = vec![(0, else_), (port, on), (port + 1, else_)];
    map
}

/// Sets `count` policies, or none at all. They divide the pods, or are a multiple.
pub fn set(writer: &mut Writer, count: usize) -> Result<(), Error> {
    if count == 0 {
        return Ok(());
    }
    let (web, denied) = (count as u32, count as u32 + 1);
    let by = ByPolicies { policies: vec![PolicyId(web)], rule: None };
    writer.set_decision(DecisionId(denied), &DecisionSpec { allow: false, by, shadow: None })?;
    let decision = |id: u32| {
        let by = ByPolicies { policies: vec![PolicyId(id)], rule: Some(1) };
        DecisionSpec { allow: true, by, shadow: None }
    };
    for id in 0..=web {
        writer.set_decision(DecisionId(id), &decision(id))?;
    }
    for id in 0..=web {
        let name = format!("NetworkPolicy default/policy-{id}");
        let pods = if id == web { PODS } else { (PODS / count).max(1) } as u32;
        writer.set_policy(PolicyId(id), &PolicySpec { name, pods, shadow: false })?;
        let port = if id == web { 8080 } else { PORT };
        let mut map = only(port, DecisionId(id), DecisionId(denied));
        if id != web {
            map.udp.extend([(8080, DecisionId(web)), (8081, DecisionId(denied))]);
        }
        writer.set_port_map(PortMapId(id), &map)?;
    }
    writer.set_port_map(PortMapId(denied), &PortMapSpec::all(DecisionId(denied)))?;
    let subjects = count.min(PODS);
    for index in 0..subjects {
        let subject = SubjectId(index as u32);
        writer.set_subject(subject, PortMapId(denied))?;
        let cells: Vec<_> =
            (0..BLOCKS).map(|index| (class_of_block(index), Some(PortMapId(web)))).collect();
        writer.set_cells(subject, &cells)?;
    }
    for policy in 0..count {
        let subject = SubjectId((policy % subjects) as u32);
        let map = Some(PortMapId(policy as u32));
        let friends = (1..=FRIENDS).map(|n| (class_of_pod(policy * 7 + n * 31), map));
        // Where a pod has one policy, that one lets both in.
        let blocks =
            [false, true].into_iter().filter(|second| count <= PODS || *second == (policy >= PODS));
        let blocks = blocks.map(|second| (class_of_block(block_of(policy, second)), map));
        let cells: Vec<_> = friends.chain(blocks).collect();
        writer.set_cells(subject, &cells)?;
    }
    for index in 0..BLOCKS {
        let spec = EndpointSpec { class: class_of_block(index), ..EndpointSpec::default() };
        writer.set_policy_endpoint(block(index).into(), &spec)?;
    }
    for index in 0..PODS {
        let spec = EndpointSpec {
            class: class_of_pod(index),
            ingress: Some(SubjectId((index % subjects) as u32)),
            name: format!("default/pod-{index}"),
            ..EndpointSpec::default()
        };
        writer.set_policy_endpoint(IpNet::from(pod(index).ip()), &spec)?;
    }
    Ok(())
}

/// Client and pod of a flow that a policy allows, of however many; another one for each `index`.
pub fn flow(index: usize, random: &mut Random) -> (SocketAddr, SocketAddr) {
    let (to, second) = (random.below(PODS), random.below(2) == 1);
    let client = u32::from(block(block_of(to, second)).addr()) + 1 + (index / 60_000 % 250) as u32;
    let client = IpAddr::from(Ipv4Addr::from(client));
    let to = SocketAddr::new(pod(to).ip(), PORT);
    (SocketAddr::new(client, 1_024 + (index % 60_000) as u16), to)
}

/// The node that a pod is behind.
pub fn node(pod: SocketAddr) -> usize {
    match pod.ip() {
        IpAddr::V4(addr) => net::node_of(addr),
        IpAddr::V6(_) => 0,
    }
}
