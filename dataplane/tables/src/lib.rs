//! The tables segment: what control writes and the engine's workers read, in shared memory.
//!
//! One writer ([`Writer`]) stages changes and publishes them as a generation; readers ([`Tables`], [`Snapshot`]) follow without a
//! lock, a retry or a wait. The structures are copy-on-write trees under one root record per generation; [`epoch`]
//! says when what a generation dropped may be used again. README.md has the picture, the costs and the reasons.
#![deny(unsafe_code)]

pub mod arena;
pub mod epoch;
pub mod error;
pub mod layout;
pub mod shm;
pub mod sync;
pub mod words;

#[cfg(not(loom))]
pub mod cold;
#[cfg(not(loom))]
pub mod fib;
#[cfg(not(loom))]
pub mod guard;
#[cfg(not(loom))]
pub mod image;
#[cfg(not(loom))]
pub mod index;
#[cfg(not(loom))]
pub mod interface;
#[cfg(not(loom))]
pub mod maglev;
#[cfg(not(loom))]
pub mod node;
#[cfg(not(loom))]
pub mod policy;
#[cfg(not(loom))]
pub mod route;
#[cfg(not(loom))]
pub mod row;
#[cfg(not(loom))]
pub mod rows;
#[cfg(not(loom))]
pub mod search;
#[cfg(not(loom))]
pub mod service;
#[cfg(not(loom))]
pub mod session;
#[cfg(not(loom))]
pub mod spec;
#[cfg(not(loom))]
pub mod synthetic;
#[cfg(not(loom))]
pub mod tables;
#[cfg(not(loom))]
pub mod trie;
#[cfg(not(loom))]
pub mod trunk;
#[cfg(not(loom))]
pub mod writer;

pub use arena::{Arena, Table, Usage};
pub use error::Error;
pub use words::{Ref, Words};

#[cfg(not(loom))]
pub use {
    epoch::{Epochs, ReaderEpoch, Slots},
    fib::{Begun, Near},
    guard::{Guard, GuardSpec},
    node::{Node, NodeSpec},
    policy::{
        ByPolicies, ClassId, Decision, DecisionId, DecisionSpec, Endpoint, EndpointSpec,
        PolicyChanges, PolicyId, PolicyRow, PolicySpec, PortMapId, PortMapSpec, SubjectId,
        ahead::{Judged, Judgements},
    },
    route::{Destination, Group, NextHop, Route, RouteSpec},
    row::{
        Backend, BackendSet, Frontend, FrontendKind, FrontendRow, InterfaceId, InterfaceKind,
        InterfaceRow, NeighborRow, Service, ServiceId, SetChoice, WhenEmpty,
    },
    search::Search,
    spec::{BackendSpec, FrontendSpec, InterfaceSpec, ServiceSpec},
    tables::{Snapshot, Tables},
    writer::{Readers, SegmentConfig, Writer},
};
