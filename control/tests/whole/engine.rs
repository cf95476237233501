//! An engine reduced to its socket: takes tables, answers questions about them, moves no packet.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millrace_tables::{
    Slots, Tables,
    epoch::bytes,
    session::{Contract, Interface, Listener, Message, Mode, Role, Session},
    shm::{Seals, Segment},
};

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the fake has seen.
#[derive(Default)]
struct Seen {
    tables: Option<Arc<Tables>>,
    published: u64,
    sessions: usize,
    segments: usize,
}

/// Runs until dropped; then its socket is gone, as after a stop of the engine.
pub struct FakeEngine {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    slots: Slots,
}

impl FakeEngine {
    /// Listens at `path`, with one interface `eth0` that has 192.0.2.1/24, speaking `contract`.
    pub fn start(path: &Path, contract: Contract) -> FakeEngine {
        let interface = Interface {
            id: 0,
            name: "eth0".into(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            mtu: 1500,
            addresses: vec!["192.0.2.1/24".parse().unwrap()],
            kind: "uplink".into(),
            index: 1,
            mode: String::new(),
        };
        FakeEngine::with(path, contract, Mode::Router, vec![interface])
    }

    /// Listens at `path` as an engine with these interfaces.
    pub fn with(
        path: &Path,
        contract: Contract,
        mode: Mode,
        interfaces: Vec<Interface>,
    ) -> FakeEngine {
        let state =
            Arc::new(Segment::create("millrace-test-state", bytes(2), Seals::Shared).unwrap());
        let slots = Slots::create(Arc::clone(&state), 2, 0).unwrap();
        let (seen, stop) =
            (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let listener = Listener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = Server {
            listener,
            contract,
            mode,
            interfaces,
            state,
            seen: Arc::clone(&seen),
            stop: Arc::clone(&stop),
            session: None,
        };
        let thread = std::thread::spawn(move || server.run());
        FakeEngine { seen, stop, thread: Some(thread), slots }
    }

    /// The tables handed over last.
    pub fn tables(&self) -> Option<Arc<Tables>> {
        self.seen.lock().unwrap().tables.clone()
    }

    /// `(sessions so far, segments handed over so far)`.
    pub fn counts(&self) -> (usize, usize) {
        let seen = self.seen.lock().unwrap();
        (seen.sessions, seen.segments)
    }

    /// A worker's slot.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// `address:port=backends` of every frontend in the tables now.
    pub fn frontends(&self) -> Vec<String> {
        let Some(tables) = self.tables() else { return Vec::new() };
        let snapshot = tables.snapshot();
        let line = |row: millrace_tables::FrontendRow| {
            let service = snapshot.service(row.frontend.service)?;
            let mut backends: Vec<String> = snapshot
                .backends(service.set(row.frontend.set))
                .map(|backend| format!("{}:{}", backend.addr, backend.port))
                .collect();
            backends.sort();
            Some(format!("{}:{}={}", row.addr, row.port, backends.join(",")))
        };
        let mut lines: Vec<String> = snapshot.frontends().filter_map(line).collect();
        lines.sort();
        lines
    }

    /// Waits until the frontends are these.
    pub fn wait_for(&self, expected: &[&str]) {
        wait(
            || self.frontends() == expected,
            || format!("waited for {expected:?}, have {:?}", self.frontends()),
        );
    }
}

/// Waits until `done`, or fails with what `say` says.
pub fn wait(done: impl Fn() -> bool, say: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{}", say());
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Server {
    listener: Listener,
    contract: Contract,
    mode: Mode,
    interfaces: Vec<Interface>,
    state: Arc<Segment>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    session: Option<Session>,
}

impl Server {
    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            if let Ok(Some(session)) = self.listener.accept() {
                self.greet(session);
            }
            if let Some(session) = self.session.take() {
                self.session = self.serve(session);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn greet(&mut self, session: Session) {
        self.seen.lock().unwrap().sessions += 1;
        // A client that hangs up at once is none of ours to fail over.
        let Ok(Role::Control) = session.greeted() else { return };
        let tables = self.seen.lock().unwrap().tables.clone();
        let generation = tables.as_ref().map_or(0, |tables| tables.snapshot().generation());
        let welcome = Message::Welcome {
            contract: self.contract.clone(),
            generation,
            workers: 1,
            mode: self.mode,
            interfaces: self.interfaces.clone(),
        };
        let mut fds = vec![self.state.fd()];
        fds.extend(tables.as_ref().map(|tables| tables.segment().fd()));
        if session.send(&welcome, &fds).is_ok() && session.set_nonblocking(true).is_ok() {
            self.session = Some(session);
        }
    }

    fn serve(&self, session: Session) -> Option<Session> {
        let mut seen = self.seen.lock().unwrap();
        match session.receive() {
            Ok(None) => {}
            Ok(Some((Message::Tables { generation }, fds))) => {
                let fd: OwnedFd =
                    fds.into_iter().next().expect("a segment comes with its descriptor");
                let tables = Tables::open(fd).expect("a valid segment");
                assert_eq!(tables.snapshot().generation(), generation);
                let before =
                    seen.tables.as_ref().map_or(0, |tables| tables.snapshot().generation());
                assert!(generation > before, "generation {generation} after {before}");
                seen.tables = Some(Arc::new(tables));
                (seen.published, seen.segments) = (generation, seen.segments + 1);
                session.send(&Message::Acknowledged { generation }, &[]).ok()?;
            }
            Ok(Some((Message::Published { generation }, _))) => {
                assert!(generation > seen.published);
                seen.published = generation;
                session.send(&Message::Acknowledged { generation }, &[]).ok()?;
            }
            Ok(Some((other, _))) => panic!("control said {other:?}"),
            Err(_) => return None,
        }
        drop(seen);
        Some(session)
    }
}

/// A socket path in `dir`.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("engine.sock")
}
