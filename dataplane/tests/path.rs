//! The path of a packet, from outside: a packet in, its verdict, the exact bytes that leave, and every counter.
//!
//! Packets are built with etherparse and dumb loops (`path/packets.rs`), so that nothing of the engine checks itself.

#[path = "path/packets.rs"]
mod packets;
#[path = "path/states.rs"]
mod states;
#[path = "path/world.rs"]
mod world;
#[path = "path/rules.rs"]
mod rules;

#[path = "path/arp.rs"]
mod arp;
#[path = "path/nd.rs"]
mod nd;
#[path = "path/waiting.rs"]
mod waiting;
#[path = "path/routing.rs"]
mod routing;
#[path = "path/parsing.rs"]
mod parsing;
#[path = "path/local.rs"]
mod local;
#[path = "path/services.rs"]
mod services;
#[path = "path/snat.rs"]
mod snat;
#[path = "path/follow.rs"]
mod follow;
#[path = "path/fragments.rs"]
mod fragments;
#[path = "path/pieces.rs"]
mod pieces;
#[path = "path/quotes.rs"]
mod quotes;
#[path = "path/checksums.rs"]
mod checksums;
#[path = "path/workers.rs"]
mod workers;
#[path = "path/hostile.rs"]
mod hostile;
#[path = "path/short.rs"]
mod short;
#[path = "path/trunk.rs"]
mod trunk;
#[path = "path/led.rs"]
mod led;
#[path = "path/policy.rs"]
mod policy;
#[path = "path/leave.rs"]
mod leave;
#[path = "path/guard.rs"]
mod guard;
