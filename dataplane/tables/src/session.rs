//! The session between the engine and those who talk to it, over one Unix socket.
//!
//! `SOCK_SEQPACKET`: a message is one packet of JSON, at most [`MAX_MESSAGE`] bytes, with up to [`MAX_FDS`] file descriptors
//! (`SCM_RIGHTS`). The socket's mode is 0600, and the peer's user (`SO_PEERCRED`) is root or our own. A peer is
//! a program that may be of another release or broken: every message is parsed strictly, a wrong one ends that session alone.
//!
//! ```text
//! control                              engine                        observer (`millrace`)
//!   Hello{role: control}         →
//!                                ←  Welcome + state fd [+ tables fd]      (observer: both fds)
//!   Tables{generation} + fd      →                                        Hello{role: observer} →
//!   Published{generation}        →                                        Request{id, body}     →
//!                                ←  Acknowledged{generation}           ←  Response{id, body | error}
//! ```
//! Either side refuses the other with `Refused{why}`, which names both versions. `Published` is a hint that wakes
//! housekeeping: workers see a generation by themselves. A `Tables` whose generation isn't past the current one is refused.
//! For an observer the engine pins the generation of its welcome in a slot of its own until the session ends, so
//! that what an observer reads isn't freed under it.

mod message;

pub use message::{Contract, Interface, Message, Mode, Role};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
        SocketType, accept_with, bind, connect, listen, recvmsg, sendmsg, socket_with, sockopt,
    },
};
use std::{
    fs, io,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};
use thiserror::Error;

/// Largest message in bytes.
pub const MAX_MESSAGE: usize = 128 * 1024;
/// Most descriptors with a message.
pub const MAX_FDS: usize = 4;

/// What can go wrong in a session.
#[derive(Debug, Error)]
pub enum SessionError {
    /// A system call failed.
    #[error("{what} {path}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// On which socket ("peer" for an accepted one).
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process answers there.
    #[error("{path}: another engine listens on this socket; stop it, or configure another path")]
    InUse {
        /// The socket.
        path: String,
    },
    /// The path is taken by something that isn't a socket.
    #[error("{path} exists and is not a socket: not replacing it")]
    NotASocket {
        /// The path.
        path: String,
    },
    /// The peer's user may not connect.
    #[error("peer (pid {pid}, uid {uid}) refused: only root and uid {own} may connect")]
    Peer {
        /// Its process.
        pid: i32,
        /// Its user.
        uid: u32,
        /// Ours.
        own: u32,
    },
    /// A message that isn't one.
    #[error("message from the peer: {why}")]
    Message {
        /// What is wrong with it.
        why: String,
    },
    /// A message too large to send.
    #[error("message of {bytes} bytes: at most {MAX_MESSAGE} fit")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The peer refused us.
    #[error("refused by the engine: {why}")]
    Refused {
        /// In its words.
        why: String,
    },
    /// The peer is of another release.
    #[error("{0}")]
    Mismatch(String),
    /// The peer closed the session.
    #[error("the peer closed the session")]
    Closed,
}

/// How long either side waits for the other's first message.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// What a client learns at the start.
#[derive(Debug)]
pub struct Greeting {
    /// What the engine was built with.
    pub contract: Contract,
    /// Generation of the tables in use; 0 when there are none.
    pub generation: u64,
    /// Worker threads.
    pub workers: u16,
    /// How it stands to the kernel.
    pub mode: Mode,
    /// The engine's interfaces.
    pub interfaces: Vec<Interface>,
    /// The state segment.
    pub state: OwnedFd,
    /// The tables segment, when there is one.
    pub tables: Option<OwnedFd>,
}

/// One end of a session.
#[derive(Debug)]
pub struct Session {
    socket: OwnedFd,
    path: String,
}

fn system(what: &'static str, path: &str) -> impl Fn(Errno) -> SessionError {
    move |errno| SessionError::System { what, path: path.to_owned(), source: errno.into() }
}

fn seqpacket() -> Result<OwnedFd, SessionError> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(system("making a socket for", "the session"))
}

impl Session {
    /// Connects to the engine at `path`.
    pub fn connect(path: &Path) -> Result<Self, SessionError> {
        let name = path.display().to_string();
        let socket = seqpacket()?;
        let address = SocketAddrUnix::new(path).map_err(system("address", &name))?;
        connect(&socket, &address).map_err(system("connecting to", &name))?;
        Ok(Self { socket, path: name })
    }

    /// A connected socket that was made elsewhere (a socket pair in a test).
    pub fn from_fd(socket: OwnedFd) -> Self {
        Self { socket, path: "peer".to_owned() }
    }

    /// Whether calls return at once when they would have to wait.
    pub fn set_nonblocking(&self, on: bool) -> Result<(), SessionError> {
        rustix::io::ioctl_fionbio(&self.socket, on)
            .map_err(system("setting the mode of", &self.path))
    }

    /// Lets [`Session::receive`] (with `None`) and [`Session::send`] (with an error) end after `limit`.
    pub fn set_timeout(&self, limit: Option<Duration>) -> Result<(), SessionError> {
        for which in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&self.socket, which, limit)
                .map_err(system("setting the timeout of", &self.path))?;
        }
        Ok(())
    }

    /// Sends one message.
    pub fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), SessionError> {
        let bytes = serde_json::to_vec(message)
            .map_err(|error| SessionError::Message { why: error.to_string() })?;
        if bytes.len() > MAX_MESSAGE {
            return Err(SessionError::TooLarge { bytes: bytes.len() });
        }
        if fds.len() > MAX_FDS {
            return Err(SessionError::Message {
                why: format!("{} descriptors; at most {MAX_FDS}", fds.len()),
            });
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        loop {
            match sendmsg(
                &self.socket,
                &[IoSlice::new(&bytes)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(SessionError::Closed),
                Err(errno) => return Err(system("sending to", &self.path)(errno)),
            }
        }
    }

    /// Receives one message with its descriptors; `None` when there is none yet (non-blocking, or the time is up).
    /// Fails with [`SessionError::Closed`] at the end.
    pub fn receive(&self) -> Result<Option<(Message, Vec<OwnedFd>)>, SessionError> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET) => return Err(SessionError::Closed),
                Err(errno) => return Err(system("receiving from", &self.path)(errno)),
            }
        };
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Err(SessionError::Closed);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(SessionError::Message {
                why: format!("more than {MAX_MESSAGE} bytes or {MAX_FDS} descriptors"),
            });
        }
        let message = serde_json::from_slice(&bytes[..received.bytes])
            .map_err(|error| SessionError::Message { why: error.to_string() })?;
        Ok(Some((message, fds)))
    }

    /// As [`Session::receive`], waiting for the first message of a session for at most [`HANDSHAKE`].
    fn first(&self) -> Result<(Message, Vec<OwnedFd>), SessionError> {
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        let limit = Timespec { tv_sec: HANDSHAKE.as_secs().cast_signed(), tv_nsec: 0 };
        poll(&mut ready, Some(&limit)).map_err(system("waiting for", &self.path))?;
        self.receive()?.ok_or_else(|| SessionError::Message {
            why: format!("none within {} s", HANDSHAKE.as_secs()),
        })
    }

    /// The client's side of the handshake: sends the hello, and checks the welcome.
    pub fn greet(&self, role: Role) -> Result<Greeting, SessionError> {
        self.send(&Message::Hello { role, contract: Contract::ours() }, &[])?;
        match self.first()? {
            (Message::Refused { why }, _) => Err(SessionError::Refused { why }),
            (Message::Welcome { contract, generation, workers, mode, interfaces }, fds) => {
                Contract::check(&contract)?;
                let mut fds = fds.into_iter();
                let state = fds.next().ok_or_else(|| SessionError::Message {
                    why: "a welcome without the state's descriptor".to_owned(),
                })?;
                Ok(Greeting {
                    contract,
                    generation,
                    workers,
                    mode,
                    interfaces,
                    state,
                    tables: fds.next(),
                })
            }
            (other, _) => {
                Err(SessionError::Message { why: format!("a welcome was due, not {other:?}") })
            }
        }
    }

    /// The engine's side: receives the hello. A peer that doesn't agree is told why before the error is returned.
    pub fn greeted(&self) -> Result<Role, SessionError> {
        let (role, contract) = match self.first()? {
            (Message::Hello { role, contract }, _) => (role, contract),
            (other, _) => {
                let why = format!("a hello was due, not {other:?}");
                return self.refuse(SessionError::Message { why });
            }
        };
        match Contract::check(&contract) {
            Ok(()) => Ok(role),
            Err(error) => self.refuse(error),
        }
    }

    fn refuse<T>(&self, error: SessionError) -> Result<T, SessionError> {
        self.send(&Message::Refused { why: error.to_string() }, &[])?;
        Err(error)
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The engine's socket; its path is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Whether [`Listener::accept`] returns at once when nobody is there.
    pub fn set_nonblocking(&self, on: bool) -> Result<(), SessionError> {
        let path = self.path.display().to_string();
        rustix::io::ioctl_fionbio(&self.socket, on).map_err(system("setting the mode of", &path))
    }

    /// Listens at `path`. A socket that nobody answers on (a killed engine's) is replaced.
    pub fn bind(path: &Path) -> Result<Self, SessionError> {
        let name = path.display().to_string();
        if let Ok(metadata) = fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(SessionError::NotASocket { path: name });
            }
            if Session::connect(path).is_ok() {
                return Err(SessionError::InUse { path: name });
            }
            fs::remove_file(path).map_err(|source| SessionError::System {
                what: "removing the stale socket",
                path: name.clone(),
                source,
            })?;
        }
        let socket = seqpacket()?;
        let address = SocketAddrUnix::new(path).map_err(system("address", &name))?;
        bind(&socket, &address).map_err(system("binding", &name))?;
        let listener = Self { socket, path: path.to_owned() };
        // Nobody can connect before `listen`, so the mode is in force from the first connection on.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|source| {
            SessionError::System { what: "setting the mode of", path: name.clone(), source }
        })?;
        listen(&listener.socket, 16).map_err(system("listening on", &name))?;
        Ok(listener)
    }

    /// Takes the next connection (none when non-blocking and there is none); a peer of another user is refused.
    pub fn accept(&self) -> Result<Option<Session>, SessionError> {
        let socket = loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => break socket,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(errno) => {
                    return Err(system("accepting on", &self.path.display().to_string())(errno));
                }
            }
        };
        let peer = sockopt::socket_peercred(&socket).map_err(system("credentials of", "peer"))?;
        let (uid, own) = (peer.uid.as_raw(), rustix::process::geteuid().as_raw());
        if uid != 0 && uid != own {
            return Err(SessionError::Peer { pid: peer.pid.as_raw_nonzero().get(), uid, own });
        }
        Ok(Some(Session::from_fd(socket)))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already when a successor has replaced it by then: nothing to do about an error.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;
