//! The engine's socket: takes tables from control, hands segments to commands, and says when a generation is in use.
//!
//! Run by housekeeping, a turn at a time; nothing here is near a packet. Each peer is a program that may be
//! broken or of another release: what it sends is checked, and a fault ends its session alone.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use millrace_tables::session::{
    Contract, Interface, Listener, Message, Mode, Role, Session, SessionError,
};
use millrace_tables::{Epochs, ReaderEpoch, Tables};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{info, warn};

use crate::live::Live;

/// Sessions open at a time; one more is refused.
const MAX_SESSIONS: usize = 32;

/// What the server says to who connects.
pub struct Facts {
    /// Interfaces by id.
    pub interfaces: Vec<Interface>,
    /// How the engine stands to the kernel.
    pub mode: Mode,
    /// Workers; their epochs are the first slots.
    pub workers: u16,
    /// The state segment.
    pub state: OwnedFd,
    /// All slots' epochs.
    pub epochs: Epochs,
}

enum Peer {
    /// Has not said hello.
    Unknown,
    /// Publishes; waits for this generation to be in use everywhere.
    Control { awaited: Option<u64> },
    /// Looks; its slot pins what it may look at.
    Observer { pin: ReaderEpoch },
}

struct Guest {
    session: Session,
    peer: Peer,
}

/// The socket and who is connected.
pub struct Server {
    listener: Listener,
    facts: Facts,
    live: Arc<Live>,
    /// Epoch slots that no observer uses.
    slots: Vec<ReaderEpoch>,
    guests: Vec<Guest>,
}

impl Server {
    /// Listens at `path`, for as many observers at a time as there are `slots`.
    pub fn listen(
        path: &Path,
        facts: Facts,
        live: Arc<Live>,
        slots: Vec<ReaderEpoch>,
    ) -> Result<Self, SessionError> {
        Ok(Self { listener: Listener::bind(path)?, facts, live, slots, guests: Vec::new() })
    }

    /// From now on whoever connects is told how packets come from each interface.
    pub fn tell_modes<'m>(&mut self, modes: impl Iterator<Item = &'m str>) {
        for (interface, mode) in self.facts.interfaces.iter_mut().zip(modes) {
            mode.clone_into(&mut interface.mode);
        }
    }

    /// Waits for messages, at most `timeout`, and serves them.
    pub fn turn(&mut self, timeout: Timespec) {
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(self.guests.iter().map(|g| PollFd::new(&g.session, PollFlags::IN)));
        if poll(&mut fds, Some(&timeout)).is_err() {
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let (listening, guests) =
            ready.split_first().map_or((false, &[][..]), |(first, rest)| (*first, rest));
        let mut index = 0;
        let ready = guests.to_vec();
        self.guests = std::mem::take(&mut self.guests)
            .into_iter()
            .filter_map(|guest| {
                let is_ready = ready.get(index).copied().unwrap_or(false);
                index += 1;
                if is_ready { self.serve(guest) } else { Some(guest) }
            })
            .collect();
        if listening {
            self.accept();
        }
    }

    /// Whether control waits for the workers to take up a generation.
    pub fn awaits_workers(&self) -> bool {
        self.guests.iter().any(|guest| matches!(guest.peer, Peer::Control { awaited: Some(_) }))
    }

    /// Tells control once every worker uses the generation that it waits for.
    pub fn acknowledge(&mut self) {
        let in_use = (0..usize::from(self.facts.workers))
            .filter_map(|slot| self.facts.epochs.generation(slot))
            .min();
        // Workers that all sleep use nothing, and take the newest when they wake.
        let in_use = in_use.unwrap_or_else(|| self.live.current().snapshot().generation());
        for guest in &mut self.guests {
            let Peer::Control { awaited } = &mut guest.peer else { continue };
            let Some(generation) = awaited.take_if(|awaited| *awaited <= in_use) else { continue };
            // A control that does not read is told of a later generation, or not at all: sending never waits.
            if guest.session.send(&Message::Acknowledged { generation }, &[]).is_err() {
                *awaited = Some(generation);
            }
        }
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok(Some(session)) if self.guests.len() >= MAX_SESSIONS => {
                let why = format!("{MAX_SESSIONS} sessions are open already");
                let _ = session.send(&Message::Refused { why }, &[]);
            }
            Ok(Some(session)) => match session.set_nonblocking(true) {
                Ok(()) => self.guests.push(Guest { session, peer: Peer::Unknown }),
                Err(error) => warn!(%error, "a connection was refused"),
            },
            Ok(None) => {}
            Err(error) => warn!(%error, "a connection was refused"),
        }
    }

    /// Serves one message; `None` ends the session, and the peer is told why.
    fn serve(&mut self, mut guest: Guest) -> Option<Guest> {
        let Err(error) = self.message(&mut guest) else { return Some(guest) };
        match guest.peer {
            Peer::Control { .. } => {
                info!(reason = %error, "control is gone; its tables stay in force")
            }
            Peer::Observer { mut pin } => {
                pin.idle();
                self.slots.push(pin);
            }
            Peer::Unknown => warn!(%error, "a session could not begin"),
        }
        if !matches!(error, SessionError::Closed) {
            // The peer may be gone, or be told already; either way the session ends here.
            let _ = guest.session.send(&Message::Refused { why: error.to_string() }, &[]);
        }
        None
    }

    fn message(&mut self, guest: &mut Guest) -> Result<(), SessionError> {
        match &mut guest.peer {
            Peer::Unknown => {
                let role = guest.session.greeted()?;
                self.welcome(guest, role)
            }
            Peer::Control { awaited } => match guest.session.receive()? {
                None => Ok(()),
                Some((Message::Tables { generation }, fds)) => {
                    self.take_tables(generation, fds)?;
                    *awaited = Some(generation);
                    Ok(())
                }
                Some((Message::Published { generation }, _)) => {
                    *awaited = Some(generation);
                    Ok(())
                }
                Some((other, _)) => {
                    Err(SessionError::Message { why: format!("{other:?} from control") })
                }
            },
            Peer::Observer { .. } => match guest.session.receive()? {
                None => Ok(()),
                Some((other, _)) => {
                    Err(SessionError::Message { why: format!("{other:?} from an observer") })
                }
            },
        }
    }

    fn welcome(&mut self, guest: &mut Guest, role: Role) -> Result<(), SessionError> {
        let tables = self.live.current();
        let generation = match role {
            Role::Control => {
                info!("control connected");
                // The newest one takes over: an old one that hangs can't keep it out.
                self.guests.retain(|guest| {
                    let old = matches!(guest.peer, Peer::Control { .. });
                    if old {
                        let why = "another control process took over".into();
                        let _ = guest.session.send(&Message::Refused { why }, &[]);
                    }
                    !old
                });
                guest.peer = Peer::Control { awaited: None };
                tables.snapshot().generation()
            }
            Role::Observer => {
                let Some(mut pin) = self.slots.pop() else {
                    let why = "too many commands are looking already; try again".to_owned();
                    return Err(SessionError::Message { why });
                };
                let generation = pin.enter(&tables).generation();
                guest.peer = Peer::Observer { pin };
                generation
            }
        };
        let welcome = Message::Welcome {
            contract: Contract::ours(),
            generation,
            workers: self.facts.workers,
            mode: self.facts.mode,
            interfaces: self.facts.interfaces.clone(),
        };
        // Control reads its predecessor's tables, so that services keep their numbers.
        let fds = [self.facts.state.as_fd(), tables.segment().fd()];
        guest.session.send(&welcome, &fds)
    }

    fn take_tables(&self, generation: u64, fds: Vec<OwnedFd>) -> Result<(), SessionError> {
        let refuse = |why: String| Err(SessionError::Message { why });
        let Some(fd) = fds.into_iter().next() else {
            return refuse("tables without their segment".into());
        };
        let tables = match Tables::open(fd) {
            Ok(tables) => tables,
            Err(error) => return refuse(error.to_string()),
        };
        let (found, current) =
            (tables.snapshot().generation(), self.live.current().snapshot().generation());
        if found <= current {
            return refuse(format!(
                "its tables are of generation {found}, generation {current} is in force"
            ));
        }
        self.live.replace(Arc::new(tables));
        info!(generation, "tables taken over");
        Ok(())
    }
}
