//! What is said in a session, as JSON: unknown fields and unknown messages are refused, not skipped.

use super::SessionError;
use crate::{epoch, layout};
use ipnet::IpNet;
use millrace_wire::Mac;
use serde::{Deserialize, Serialize};

/// What a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Writes the tables. There is one at a time; a newer one takes over.
    Control,
    /// Reads.
    Observer,
}

/// How the engine stands to the node's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The interfaces' addresses are the engine's, from its configuration.
    Router,
    /// The kernel's: control mirrors its addresses, routes and neighbors. One interface is the trunk to it ([`crate::trunk`]).
    ServiceProxy,
}

/// What both sides have to agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// The release, for people.
    pub version: String,
    /// ABI of the tables.
    pub tables_abi: u64,
    /// Layout hash of the tables.
    pub tables_layout: u64,
    /// ABI of the state segment's slots.
    pub state_abi: u64,
}

impl Contract {
    /// This build's.
    pub fn ours() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tables_abi: layout::ABI,
            tables_layout: layout::HASH,
            state_abi: epoch::ABI,
        }
    }

    /// Fails, naming both sides, unless `peer` agrees with this build. The releases may differ.
    pub fn check(peer: &Self) -> Result<(), SessionError> {
        let ours = Self::ours();
        if (Self { version: ours.version.clone(), ..peer.clone() }) == ours {
            return Ok(());
        }
        let show = |c: &Self| {
            format!(
                "release {} (tables ABI {}, layout {:#018x}, state ABI {})",
                c.version, c.tables_abi, c.tables_layout, c.state_abi
            )
        };
        Err(SessionError::Mismatch(format!(
            "peer is {}, this is {}: run control and engine of one release",
            show(peer),
            show(&ours)
        )))
    }
}

/// An interface of the engine, as its configuration and the kernel have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Its number in the tables.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Its MAC.
    #[serde(with = "mac_text")]
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Addresses that the engine owns on it.
    pub addresses: Vec<IpNet>,
    /// `uplink`, `host`, `pod` or `port`.
    pub kind: String,
    /// The kernel's index; 0 when it has none (pcap). Of a trunk, that of the kernel's end.
    pub index: u32,
    /// How packets come from it: `zero-copy`, `copy`, `mixed` where its queues differ; empty where there are no sockets.
    #[serde(default)]
    pub mode: String,
}

mod mac_text {
    use millrace_wire::Mac;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(mac: &Mac, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(mac)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("{text:?} is not a MAC address")))
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Message {
    /// First message of a client.
    Hello {
        /// What it is.
        role: Role,
        /// What it was built with.
        contract: Contract,
    },
    /// The engine's answer, with the state segment's descriptor, and the tables' when it has any.
    Welcome {
        /// What the engine was built with.
        contract: Contract,
        /// Generation of the tables in use; 0 when there are none.
        generation: u64,
        /// Worker threads.
        workers: u16,
        /// How it stands to the kernel.
        mode: Mode,
        /// Its interfaces.
        interfaces: Vec<Interface>,
    },
    /// The session can't be.
    Refused {
        /// Why, for people.
        why: String,
    },
    /// Control: use this segment (one descriptor) from now on.
    Tables {
        /// Its generation.
        generation: u64,
    },
    /// Control: there is a newer generation in the segment.
    Published {
        /// Which.
        generation: u64,
    },
    /// Engine: every worker uses this generation or a newer one.
    Acknowledged {
        /// Which.
        generation: u64,
    },
    /// A question to the engine; what may be asked is the engine's to say.
    Request {
        /// Comes back in the response.
        id: u64,
        /// The question.
        body: serde_json::Value,
    },
    /// Its answer.
    Response {
        /// The request's.
        id: u64,
        /// The answer, or what was wrong.
        body: Result<serde_json::Value, String>,
    },
}
