use super::{
    Contract, Interface, Listener, MAX_MESSAGE, Message, Mode, Role, Session, SessionError,
};
use crate::shm::{Seals, Segment};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use std::{
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

static PATHS: AtomicU32 = AtomicU32::new(0);

struct TempPath(PathBuf);

impl TempPath {
    fn new() -> Self {
        let number = PATHS.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("millrace-session-{}-{number}", std::process::id())))
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn sessions() -> (Session, Session) {
    let (a, b) = pair();
    (Session::from_fd(a), Session::from_fd(b))
}

fn welcome() -> Message {
    Message::Welcome {
        contract: Contract::ours(),
        generation: 7,
        workers: 2,
        mode: Mode::Router,
        interfaces: vec![Interface {
            id: 0,
            name: "eth0".to_owned(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            mtu: 1500,
            addresses: vec!["192.0.2.1/24".parse().unwrap(), "2001:db8::1/64".parse().unwrap()],
            kind: "uplink".to_owned(),
            index: 3,
            mode: "copy".into(),
        }],
    }
}

#[test]
fn a_session_hands_over_what_the_engine_has() {
    let path = TempPath::new();
    let listener = Listener::bind(&path.0).unwrap();
    let mode = std::fs::metadata(&path.0).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let client = Session::connect(&path.0).unwrap();
    let engine = listener.accept().unwrap().unwrap();
    let state = Segment::create("state", 4096, Seals::Shared).unwrap();
    state.words()[5].store(42, Ordering::Relaxed);
    let serve = std::thread::spawn(move || {
        let role = engine.greeted().unwrap();
        engine.send(&welcome(), &[state.fd()]).unwrap();
        (role, engine)
    });
    let greeting = client.greet(Role::Control).unwrap();
    let (role, engine) = serve.join().unwrap();
    assert_eq!((role, greeting.generation, greeting.workers), (Role::Control, 7, 2));
    assert_eq!(greeting.interfaces[0].addresses.len(), 2);
    assert!(greeting.tables.is_none());
    let mapped = Segment::open(greeting.state).unwrap();
    assert_eq!(mapped.words()[5].load(Ordering::Relaxed), 42);
    assert!(!mapped.is_writable());
    drop(client);
    assert!(matches!(engine.receive(), Err(SessionError::Closed)));
    drop(listener);
    assert!(!path.0.exists());
}

#[test]
fn every_message_survives_the_wire() {
    let (a, b) = sessions();
    for message in [
        Message::Hello { role: Role::Observer, contract: Contract::ours() },
        welcome(),
        Message::Refused { why: "because".to_owned() },
        Message::Tables { generation: u64::MAX },
        Message::Published { generation: 3 },
        Message::Acknowledged { generation: 2 },
        Message::Request { id: 1, body: serde_json::json!({"show": "workers"}) },
        Message::Response { id: 1, body: Ok(serde_json::json!([1, 2])) },
        Message::Response { id: 2, body: Err("unknown question".to_owned()) },
    ] {
        a.send(&message, &[]).unwrap();
        let (received, fds) = b.receive().unwrap().unwrap();
        assert_eq!((received, fds.len()), (message, 0));
    }
}

#[test]
fn another_abi_is_refused_on_both_sides_with_both_versions() {
    let other = Contract { version: "9.9.9".to_owned(), tables_abi: 77, ..Contract::ours() };
    let (client, engine) = sessions();
    client.send(&Message::Hello { role: Role::Control, contract: other.clone() }, &[]).unwrap();
    let error = engine.greeted().unwrap_err().to_string();
    let Some((Message::Refused { why }, _)) = client.receive().unwrap() else {
        panic!("not refused")
    };
    for text in [&error, &why] {
        assert!(text.contains("ABI 77") && text.contains("release 9.9.9"), "{text}");
        assert!(text.contains(&format!("release {}", env!("CARGO_PKG_VERSION"))), "{text}");
    }
    let (client, engine) = sessions();
    let Message::Welcome { generation, workers, mode, interfaces, .. } = welcome() else {
        unreachable!()
    };
    engine
        .send(&Message::Welcome { contract: other, generation, workers, mode, interfaces }, &[])
        .unwrap();
    let error = client.greet(Role::Observer).unwrap_err().to_string();
    assert!(error.contains("ABI 77"), "{error}");
}

#[test]
fn a_refusal_reaches_the_client_in_the_engine_s_words() {
    let (client, engine) = sessions();
    engine.send(&Message::Refused { why: "shutting down".to_owned() }, &[]).unwrap();
    let error = client.greet(Role::Control).unwrap_err();
    assert!(matches!(&error, SessionError::Refused { why } if why == "shutting down"), "{error}");
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    for bytes in [
        &b"{"[..],
        b"null",
        b"\xff\xff",
        b"{\"type\":\"tables\"}",
        b"{\"type\":\"tables\",\"generation\":1,\"more\":1}",
    ] {
        let (raw, theirs) = pair();
        send(&raw, bytes, SendFlags::empty()).unwrap();
        let error = Session::from_fd(theirs).receive().unwrap_err();
        assert!(matches!(error, SessionError::Message { .. }), "{error}");
    }
}

#[test]
fn too_large_a_message_is_not_sent() {
    let (a, _b) = sessions();
    let body = serde_json::Value::String("x".repeat(MAX_MESSAGE));
    assert!(matches!(
        a.send(&Message::Request { id: 1, body }, &[]),
        Err(SessionError::TooLarge { .. })
    ));
    let segment = Segment::create("t", 4096, Seals::Shared).unwrap();
    assert!(a.send(&Message::Tables { generation: 1 }, &[segment.fd(); 5]).is_err());
}

#[test]
fn nothing_to_receive_is_none_when_not_waiting() {
    let (a, b) = sessions();
    b.set_nonblocking(true).unwrap();
    assert!(b.receive().unwrap().is_none());
    a.send(&Message::Published { generation: 1 }, &[]).unwrap();
    assert!(b.receive().unwrap().is_some());
    drop(a);
    assert!(matches!(b.receive(), Err(SessionError::Closed)));
}

#[test]
fn a_dead_engine_s_socket_is_replaced_a_living_one_s_is_not() {
    let path = TempPath::new();
    let living = Listener::bind(&path.0).unwrap();
    assert!(matches!(Listener::bind(&path.0), Err(SessionError::InUse { .. })));
    drop(living);
    // A killed process closes its socket and leaves the path.
    let stale = TempPath::new();
    {
        use rustix::net::{SocketAddrUnix, bind, socket_with};
        let dead =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        bind(&dead, &SocketAddrUnix::new(&stale.0).unwrap()).unwrap();
    }
    Listener::bind(&stale.0).unwrap();
    let file = TempPath::new();
    std::fs::write(&file.0, b"precious").unwrap();
    assert!(matches!(Listener::bind(&file.0), Err(SessionError::NotASocket { .. })));
    assert_eq!(std::fs::read(&file.0).unwrap(), b"precious");
}
