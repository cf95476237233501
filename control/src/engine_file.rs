//! The engine's configuration file, read only for its interfaces: what an image is compiled against without an engine.
//!
//! Read leniently: the engine itself checks the rest, and a newer one may have keys that are unknown here.

use std::{fs, path::Path};

use ipnet::IpNet;
use millrace_tables::{InterfaceId, InterfaceKind, InterfaceSpec};
use millrace_wire::Mac;
use serde::Deserialize;

/// What a netdev's MTU is when neither the file nor the kernel says.
const USUAL_MTU: u32 = 1500;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    interface: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(default)]
    addresses: Vec<IpNet>,
    mac: Option<String>,
    mtu: Option<u32>,
}

/// The file can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct EngineFileError {
    path: String,
    why: String,
}

/// The interfaces in the order in which the engine numbers them.
pub fn interfaces(path: &Path) -> Result<Vec<InterfaceSpec>, EngineFileError> {
    let refuse = |why: String| EngineFileError { path: path.display().to_string(), why };
    let text = fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| refuse(error.to_string()))?;
    let file: File = serde_path_to_error::deserialize(table)
        .map_err(|error| refuse(format!("{}: {}", error.path(), error.inner().message())))?;
    let entries = file.interface.into_iter().enumerate();
    entries
        .map(|(at, entry)| spec(at, entry).map_err(|why| refuse(format!("interface[{at}]: {why}"))))
        .collect()
}

fn spec(at: usize, entry: Entry) -> Result<InterfaceSpec, String> {
    let Entry { name, addresses, mac, mtu } = entry;
    let id = InterfaceId(
        u16::try_from(at).map_err(|_| "more interfaces than the tables can number".to_owned())?,
    );
    // What the file leaves out is the netdev's own, where there is one.
    let kernel = |what: &str| fs::read_to_string(format!("/sys/class/net/{name}/{what}")).ok();
    let mac = match mac.or_else(|| kernel("address")) {
        Some(text) => {
            text.trim().parse().map_err(|_| format!("mac: {text:?} is not a MAC address"))?
        }
        None => Mac::ZERO,
    };
    let mtu = mtu.or_else(|| kernel("mtu")?.trim().parse().ok()).unwrap_or(USUAL_MTU);
    Ok(InterfaceSpec { id, kind: InterfaceKind::UPLINK, mac, mtu, name, addresses })
}
