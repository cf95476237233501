//! A control of the tests' own: publishes tables as fast as they can be made, without files between.

use super::rig::{ECHO, VIP4, backend, target};
use ipnet::IpNet;
use millrace_tables::session::{Greeting, Message, Role, Session};
use millrace_tables::shm::Segment;
use millrace_tables::{
    BackendSpec, Epochs, FrontendKind, FrontendSpec, InterfaceId, NextHop, Readers, RouteSpec,
    SegmentConfig, ServiceSpec, SetChoice, Tables, Writer,
};
use millrace_wire::{Addr, Protocol};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The line to the engine.
pub struct Updater {
    session: Session,
    writer: Writer,
    handed_over: bool,
}

impl Updater {
    /// Connects as control and hands over a segment with the engine's connected routes.
    pub fn connect(socket: &Path) -> Self {
        let session = Session::connect(socket).unwrap();
        let Greeting { generation, interfaces, state, tables, .. } =
            session.greet(Role::Control).unwrap();
        let config = SegmentConfig {
            bytes: 64 << 20,
            generation: generation + 1,
            ..SegmentConfig::default()
        };
        let mut writer = match tables {
            Some(fd) => Writer::succeed(&config, Tables::open(fd).unwrap().snapshot()).unwrap(),
            None => Writer::create(&config).unwrap(),
        };
        let epochs = Epochs::open(Arc::new(Segment::open(state).unwrap())).unwrap();
        writer.set_readers(Readers::Epochs(epochs));
        for interface in &interfaces {
            let connected = NextHop { interface: InterfaceId(interface.id), gateway: None };
            for address in &interface.addresses {
                writer
                    .set_route(address.trunc(), &RouteSpec::Forward(vec![(connected, 1)]))
                    .unwrap();
                writer.set_route(IpNet::from(address.addr()), &RouteSpec::Local).unwrap();
            }
        }
        Self { session, writer, handed_over: false }
    }

    /// Makes the echo service's endpoints these, as the next generation.
    pub fn publish(&mut self, endpoints: &[usize]) {
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        let frontend = FrontendSpec {
            addr: addr(VIP4),
            port: ECHO,
            protocol: Protocol::UDP.0,
            kind: FrontendKind::CLUSTER_IP,
            set: SetChoice::Cluster,
            flags: 0,
        };
        let backend = |n: &usize| BackendSpec {
            addr: addr(&backend(*n)[0]),
            port: target(ECHO),
            name: format!("default/backend-{n}"),
            weight: 1,
            local: false,
            terminating: false,
            in_cluster: true,
            in_local: false,
        };
        let spec = ServiceSpec {
            name: "default/web:echo".into(),
            frontends: vec![frontend],
            backends: endpoints.iter().map(backend).collect(),
            ..ServiceSpec::default()
        };
        self.writer.set_service("default/web:echo/IPv4", &spec).unwrap();
        let generation = self.writer.publish().unwrap();
        if self.handed_over {
            self.session.send(&Message::Published { generation }, &[]).unwrap();
        } else {
            self.session.send(&Message::Tables { generation }, &[self.writer.fd()]).unwrap();
            self.handed_over = true;
        }
        self.drain();
    }

    /// Takes the acknowledgements off the socket; the epochs say more.
    fn drain(&self) {
        self.session.set_nonblocking(true).unwrap();
        while let Some((message, _)) = self.session.receive().unwrap() {
            assert!(matches!(message, Message::Acknowledged { .. }), "{message:?}");
        }
        self.session.set_nonblocking(false).unwrap();
    }

    /// Waits until every worker uses the newest generation; answers it.
    pub fn wait(&self, limit: Duration) -> u64 {
        let deadline = Instant::now() + limit;
        let generation = self.writer.generation();
        while self.writer.acknowledged() < generation {
            assert!(Instant::now() < deadline, "generation {generation} is not reached");
            self.drain();
            std::thread::sleep(Duration::from_millis(1));
        }
        generation
    }
}
