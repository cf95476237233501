//! Namespaces, veth pairs and peers with their own kernels' stacks; all gone when dropped, also by a panic.

use std::{
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace of `ip netns`.
pub struct Namespace(String);

impl Namespace {
    pub fn new() -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("millrace-xsk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let namespace = Namespace(name);
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `work` in a thread inside the namespace. Sockets made there stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let run = || {
            let file = std::fs::File::open(format!("/run/netns/{}", self.0)).unwrap();
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| match scope.spawn(run).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// `ip -n <namespace> …`
    pub fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.0];
        all.extend(arguments.split(' '));
        ip(&all);
    }

    pub fn udp(&self, address: Ipv4Addr, port: u16) -> UdpSocket {
        self.inside(|| {
            let socket = UdpSocket::bind((address, port)).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            socket
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {error}");
}

pub const ADDRESS_A: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const ADDRESS_B: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// `a: a1 (10.77.0.1) ── a0 │ engine │ b0 ── b1 (10.77.0.2) :b`, each pair with two queues. The peers know each other's
/// MAC address, so that an engine that moves packets from a0 to b0 and back connects them.
pub struct World {
    pub engine: Namespace,
    pub a: Namespace,
    pub b: Namespace,
}

/// Runs a test in the engine's namespace of a new world, or says why not.
pub fn in_world(mtu: u32, test: impl FnOnce(&World) + Send) {
    if let Err(why) = available() {
        assert!(std::env::var_os("MILLRACE_PRIVILEGED").is_none(), "{why}");
        println!("SKIP: {why}");
        return;
    }
    let world = World { engine: Namespace::new(), a: Namespace::new(), b: Namespace::new() };
    world.connect(&world.a, "a", ADDRESS_A, MAC_A, (ADDRESS_B, MAC_B), mtu);
    world.connect(&world.b, "b", ADDRESS_B, MAC_B, (ADDRESS_A, MAC_A), mtu);
    world.engine.inside(|| test(&world));
}

/// Namespaces and AF_XDP sockets need root and a kernel that has them.
fn available() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root, for network namespaces and AF_XDP".into());
    }
    let probe =
        format!("millrace-xskprobe-{}-{:?}", std::process::id(), std::thread::current().id());
    let add = Command::new("ip")
        .args(["netns", "add", &probe])
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    let _ = Command::new("ip").args(["netns", "del", &probe]).output();
    if add.status.success() {
        Ok(())
    } else {
        Err(format!("no namespaces: {}", String::from_utf8_lossy(&add.stderr)))
    }
}

impl World {
    fn connect(
        &self,
        peer: &Namespace,
        name: &str,
        address: Ipv4Addr,
        mac: [u8; 6],
        far: (Ipv4Addr, [u8; 6]),
        mtu: u32,
    ) {
        let queues = "numrxqueues 2 numtxqueues 2";
        self.engine.ip(&format!(
            "link add {name}0 mtu {mtu} {queues} type veth peer name {name}1 mtu {mtu} {queues} netns {}",
            peer.0
        ));
        // No router solicitations and the like between the packets of a test.
        self.engine.ip(&format!("link set {name}0 addrgenmode none up"));
        peer.ip(&format!("link set {name}1 address {} addrgenmode none up", hex(mac)));
        peer.ip(&format!("addr add {address}/24 dev {name}1"));
        peer.ip(&format!("neigh add {} lladdr {} dev {name}1 nud permanent", far.0, hex(far.1)));
    }
}

fn hex(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
