//! The main thread's state → the board that health, metrics and receipts are answered from.
//!
//! Decides whether this node is eligible for new connections, and which Service has a health check node port that two ask for.

use std::{
    sync::MutexGuard,
    time::{Instant, SystemTime},
};

use super::{Control, Source};
use crate::{compile, object::KINDS, receipts::Receipts, serve::ServiceHealth};

impl Control {
    /// Writes down what others may ask for.
    pub(super) fn note(&mut self) {
        let (published, acknowledged) = (self.publisher.published(), self.publisher.acknowledged());
        if acknowledged > 0 {
            let mut receipts: MutexGuard<'_, Receipts> = self.board.receipts();
            receipts.acknowledged(acknowledged, Instant::now(), SystemTime::now());
        }
        let complete = self.is_complete();
        let refused = match &self.source {
            Source::Files(files) => files.refused(),
            Source::Api(intake) => intake.refused(),
        };
        let node = self.config.config.node.as_deref().and_then(|name| self.store.node(name));
        self.node_seen |= node.is_some();
        // Without a Node so far nothing is known against it; one that was deleted gets no new connections.
        let eligible = node.map_or(!self.node_seen, |node| !node.leaving);
        let chosen = !self.config.config.nodeport_addresses.is_empty();
        let addresses =
            self.world.iter().filter(|_| chosen).flat_map(|world| &world.node.node_port_addresses);
        self.board.write(|status| {
            status.beat = Instant::now();
            (status.complete, status.connected) = (complete, self.publisher.is_connected());
            status.note_generations(published, acknowledged, status.beat);
            if complete && status.connected && acknowledged >= published.0 {
                status.updated = SystemTime::now();
            }
            status.node_eligible = eligible;
            for kind in KINDS {
                status.objects.insert(kind.name(), self.store.count(kind));
            }
            (status.refused, status.refused_rows) = (refused, self.publisher.refused_rows());
            status.addresses = addresses.copied().map(Into::into).collect();
            // Last to first, so that the first has the port.
            status.services = self
                .health_ports
                .iter()
                .rev()
                .map(|(service, (port, local))| {
                    let (namespace, name) = (service.namespace.clone(), service.name.clone());
                    (*port, ServiceHealth { namespace, name, local: *local })
                })
                .collect();
        });
    }

    /// Health check node ports of the Services that are about to be compiled.
    pub(super) fn note_health_ports(&mut self) {
        for service in &self.store.changed().services {
            let port = self.store.service(service).map_or(0, |row| row.health_check_node_port);
            if port == 0 {
                self.health_ports.remove(service);
            } else {
                let local = compile::service::local_ready(
                    self.store.slices(service),
                    self.config.config.node.as_deref().unwrap_or_default(),
                );
                self.health_ports.insert(service.clone(), (port, local));
            }
        }
    }
}
