//! `[[pod]]`: an interface of the engine behind which one pod is alone.
//!
//! Decides what can be read of an entry. One that can't be read leaves its interface to nobody: closed, not open. Not an annotation of the Pod:
//! whoever may write pods could take another's interface by one.

use std::net::IpAddr;

use millrace_wire::{Addr, Mac};
use serde::Deserialize;
use toml::Value;

use super::{At, Fault, read as read_value};
use crate::object::{Key, Kind};

/// One `[[pod]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PodInterface {
    /// Where it stands.
    pub at: At,
    /// Name of the interface.
    pub interface: String,
    /// The pod; `None` when the entry can't be read: then nothing passes there.
    pub pod: Option<Key>,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses; those of its object when absent.
    pub addresses: Option<Vec<Addr>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    interface: String,
    pod: String,
    mac: String,
    addresses: Option<Vec<IpAddr>>,
}

impl PodInterface {
    /// An interface behind which nobody is known.
    pub(super) fn nobodys(at: At, interface: String) -> PodInterface {
        // A locally administered MAC that no station chooses: guards name one.
        let mac = Mac([2, 0, 0, 0, 0, 0]);
        PodInterface { at, interface, pod: None, mac, addresses: Some(Vec::new()) }
    }
}

pub(super) fn read(value: Value, at: At) -> Result<PodInterface, Fault> {
    let Entry { interface, pod, mac, addresses } = read_value(value)?;
    let parts = pod.split_once('/').filter(|(namespace, name)| {
        !namespace.is_empty() && !name.is_empty() && !name.contains('/')
    });
    let Some((namespace, name)) = parts else {
        return Err(("pod".into(), format!("{pod:?} is no NAMESPACE/NAME")));
    };
    let pod = Key { kind: Kind::Pod, namespace: namespace.into(), name: name.into() };
    let mac: Mac = mac.parse().map_err(|_| {
        ("mac".to_owned(), format!("{mac:?} is not a MAC address such as 02:00:00:00:00:01"))
    })?;
    if !mac.is_unicast() || mac == Mac::ZERO {
        return Err(("mac".into(), format!("{mac} is not a station's")));
    }
    let given = addresses.iter().flatten();
    if let Some(bad) = given.clone().find(|it| {
        it.is_unspecified() || it.is_multicast() || it.is_loopback() || it.to_canonical() != **it
    }) {
        return Err(("addresses".into(), format!("{bad} is no pod's")));
    }
    let addresses = addresses.map(|all| all.into_iter().map(Addr::from).collect());
    Ok(PodInterface { at, interface, pod: Some(pod), mac, addresses })
}
