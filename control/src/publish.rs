//! Changes → generations in the engine's hands.
//!
//! Decides when a segment is made (one for each engine, and for each start of ours), what is tried again (rows that were refused,
//! an engine that went away), and when memory may be used again (what every worker has passed). Needs ordered changes
//! ([`crate::Change`]). One publication makes all of a batch visible at once, or none of it.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use millrace_tables::{
    Epochs, Error, InterfaceId, InterfaceKind, InterfaceSpec, Readers, SegmentConfig, Tables,
    Usage, Writer,
    session::{Greeting, Interface, Message, Mode, Role, Session, SessionError},
    shm::Segment,
};
use millrace_wire::Addr;

use crate::{
    apply::{RowError, apply},
    compile::{Change, kernel::Attached},
};

/// First wait before connecting again; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// After another control process took over: no tug-of-war, and still there when that one ends.
const TAKEN_OVER_WAIT: Duration = Duration::from_secs(10);
/// An engine that takes a message no faster is treated as gone.
const SEND_LIMIT: Duration = Duration::from_secs(2);

/// What an engine says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Engine {
    /// How it stands to the kernel.
    pub mode: Mode,
    /// Its interfaces.
    pub interfaces: Vec<Attached>,
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The session with the engine.
    #[error("engine at {}: {source}", path.display())]
    Session {
        /// Its socket.
        path: PathBuf,
        /// What went wrong.
        source: SessionError,
    },
    /// The segment, or the engine's state.
    #[error("tables: {0}")]
    Tables(#[from] Error),
}

/// The line to one engine, or the wait for it.
#[derive(Debug)]
pub struct Publisher {
    path: PathBuf,
    segment: SegmentConfig,
    link: Option<Link>,
    wait: Duration,
    again: Option<Instant>,
}

#[derive(Debug)]
struct Link {
    session: Session,
    writer: Writer,
    /// Rows that the writer refused, by row: tried again with every publication.
    refused: BTreeMap<RowKey, Change>,
    /// Rows of policies that it refused: the compiler stages all of them again.
    refused_policies: usize,
    /// Whether the engine has the segment.
    handed_over: bool,
    published: (u64, Instant),
    acknowledged: u64,
    epochs: Epochs,
    workers: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RowKey {
    Node,
    Interface(InterfaceId),
    Guard(InterfaceId),
    Route(IpNet),
    Neighbor(InterfaceId, Addr),
    Service(String),
}

/// What a publication did.
#[derive(Debug)]
pub struct Published {
    /// The generation in force now.
    pub generation: u64,
    /// Bytes that were stored into the segment for it.
    pub written: u64,
    /// Rows that are not in it as they should be.
    pub refused: Vec<RowError>,
}

impl Publisher {
    /// To the engine that listens at `path`, in segments made by `segment`.
    pub fn new(path: &Path, segment: SegmentConfig) -> Publisher {
        Publisher { path: path.into(), segment, link: None, wait: FIRST_WAIT, again: None }
    }

    /// Whether an engine is connected.
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// The session's socket, to wait on.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_ref().map(|link| link.session.as_fd())
    }

    /// How long until [`Publisher::connect`] should be tried; `None` while connected.
    pub fn reconnect_in(&self) -> Option<Duration> {
        match (&self.link, self.again) {
            (Some(_), _) => None,
            (None, None) => Some(Duration::ZERO),
            (None, Some(again)) => Some(again.saturating_duration_since(Instant::now())),
        }
    }

    /// Connects, makes an empty segment past the engine's generation, and answers what the engine is. The engine goes on
    /// with what it has until the first [`Publisher::publish`].
    pub fn connect(&mut self) -> Result<Engine, PublishError> {
        match self.open() {
            Ok((link, engine)) => {
                self.link = Some(link);
                (self.wait, self.again) = (FIRST_WAIT, None);
                Ok(engine)
            }
            Err(error) => {
                self.disconnect();
                Err(error)
            }
        }
    }

    fn open(&self) -> Result<(Link, Engine), PublishError> {
        let failed = |source| PublishError::Session { path: self.path.clone(), source };
        let session = Session::connect(&self.path).map_err(failed)?;
        session.set_timeout(Some(SEND_LIMIT)).map_err(failed)?;
        let Greeting { generation, interfaces, mode, state, tables, workers, .. } =
            session.greet(Role::Control).map_err(failed)?;
        let config =
            SegmentConfig { generation: generation.saturating_add(1), ..self.segment.clone() };
        // Unreadable tables of a predecessor are no reason to leave the engine without any.
        let before = tables.and_then(|fd| {
            Tables::open(fd)
                .inspect_err(|error| tracing::warn!("the engine's tables: {error}: starting over"))
                .ok()
        });
        let mut writer = match &before {
            Some(tables) => Writer::succeed(&config, tables.snapshot())?,
            None => Writer::create(&config)?,
        };
        let epochs = Epochs::open(Arc::new(Segment::open(state)?))?;
        writer.set_readers(Readers::Epochs(epochs.clone()));
        let published = (writer.generation(), Instant::now());
        let link = Link {
            session,
            writer,
            refused: BTreeMap::new(),
            refused_policies: 0,
            handed_over: false,
            published,
            acknowledged: 0,
            epochs,
            workers: workers.into(),
        };
        let interfaces = interfaces.into_iter().map(interface).collect();
        Ok((link, Engine { mode, interfaces }))
    }

    /// Stages `changes`, with the rows that were refused before, and publishes them. `None` when no engine is connected: then
    /// everything is published when one is.
    pub fn publish(&mut self, changes: Vec<Change>) -> Option<Result<Published, PublishError>> {
        let link = self.link.as_mut()?;
        let outcome = link.publish(changes);
        Some(outcome.map_err(|error| match error {
            LinkError::Tables(error) => PublishError::Tables(error),
            LinkError::Session(source) => {
                self.disconnect();
                PublishError::Session { path: self.path.clone(), source }
            }
        }))
    }

    /// Whether the connected engine has been given tables by us.
    pub fn is_handed_over(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.handed_over)
    }

    /// Whether refused rows wait for another try.
    pub fn has_refused_rows(&self) -> bool {
        self.refused_rows() > 0
    }

    /// How many.
    pub fn refused_rows(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.refused.len() + link.refused_policies)
    }

    /// Takes what the engine says; to be called when the socket can be read. An end of the session is an error, and
    /// the next connect starts over.
    pub fn receive(&mut self) -> Result<(), PublishError> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let source = match link.session.receive() {
            Ok(Some((Message::Acknowledged { generation }, _))) => {
                link.acknowledge(generation);
                return Ok(());
            }
            Ok(Some((Message::Refused { why }, _))) => SessionError::Refused { why },
            // The workers' epochs say the rest; a newer engine may say more than we know how to use.
            Ok(_) => return Ok(()),
            Err(source) => source,
        };
        self.disconnect();
        if matches!(source, SessionError::Refused { .. }) {
            self.again = Some(Instant::now() + TAKEN_OVER_WAIT);
        }
        Err(PublishError::Session { path: self.path.clone(), source })
    }

    /// The generation that every worker uses; 0 when none does.
    pub fn acknowledged(&self) -> u64 {
        self.link.as_ref().map_or(0, |link| link.acknowledged)
    }

    /// The generation published last, and when; 0 when no engine is connected.
    pub fn published(&self) -> (u64, Instant) {
        self.link.as_ref().map_or((0, Instant::now()), |link| link.published)
    }

    /// Looks at the workers' epochs instead of waiting for the engine's word, which comes up to a turn of its housekeeping later.
    /// True when that has brought something new.
    pub fn look_at_workers(&mut self) -> bool {
        let Some(link) = self.link.as_mut().filter(|link| link.handed_over) else { return false };
        // Sleeping workers take the newest when they wake; when all sleep, only the engine knows.
        let in_use = (0..link.workers).filter_map(|slot| link.epochs.generation(slot)).min();
        let news = in_use.is_some_and(|in_use| {
            in_use >= link.published.0 && link.acknowledged < link.published.0
        });
        if news {
            link.acknowledge(link.published.0);
        }
        news
    }

    /// Bytes in use in the segment; `None` when no engine is connected.
    pub fn usage(&self) -> Option<Usage> {
        self.link.as_ref().map(|link| link.writer.usage())
    }

    /// Frees what every worker has passed. Cheap; to be called now and then.
    pub fn reclaim(&mut self) {
        if let Some(link) = &mut self.link {
            link.writer.reclaim();
        }
    }

    fn disconnect(&mut self) {
        self.link = None;
        self.again = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }
}

enum LinkError {
    Session(SessionError),
    Tables(Error),
}

impl Link {
    fn publish(&mut self, changes: Vec<Change>) -> Result<Published, LinkError> {
        for change in &changes {
            row_key(change).map(|key| self.refused.remove(&key));
        }
        let again = std::mem::take(&mut self.refused).into_values();
        let written = self.writer.written();
        let refused = apply(&mut self.writer, changes.into_iter().chain(again));
        let keyed =
            refused.iter().filter_map(|row| Some((row_key(&row.change)?, row.change.clone())));
        self.refused = keyed.collect();
        self.refused_policies =
            refused.iter().filter(|row| matches!(row.change, Change::Policy(_))).count();
        let before = self.writer.generation();
        let generation = self.writer.publish().map_err(LinkError::Tables)?;
        if generation != before {
            self.published = (generation, Instant::now());
        }
        if !self.handed_over {
            let fd = self.writer.fd();
            self.session
                .send(&Message::Tables { generation }, &[fd])
                .map_err(LinkError::Session)?;
            self.handed_over = true;
        } else if generation != before {
            self.session
                .send(&Message::Published { generation }, &[])
                .map_err(LinkError::Session)?;
        }
        Ok(Published { generation, written: self.writer.written() - written, refused })
    }

    fn acknowledge(&mut self, generation: u64) {
        self.acknowledged = self.acknowledged.max(generation);
        if generation == self.published.0 {
            tracing::debug!(
                generation,
                after_us = self.published.1.elapsed().as_micros() as u64,
                "every worker uses it"
            );
        }
        self.writer.reclaim();
    }
}

/// By what a row is tried again. Rows of policies hang together and are staged together.
fn row_key(change: &Change) -> Option<RowKey> {
    Some(match change {
        Change::Service(key, _) => RowKey::Service(key.clone()),
        Change::Interface(id, _) => RowKey::Interface(*id),
        Change::Route(prefix, _) => RowKey::Route(*prefix),
        Change::Neighbor(id, addr, _) => RowKey::Neighbor(*id, *addr),
        Change::Node(_) => RowKey::Node,
        Change::Guard(id, _) => RowKey::Guard(*id),
        Change::Policy(_) => return None,
    })
}

fn interface(interface: Interface) -> Attached {
    let Interface { id, name, mac, mtu, addresses, kind, index, mode: _ } = interface;
    let kind = match kind.as_str() {
        "uplink" => InterfaceKind::UPLINK,
        "host" => InterfaceKind::HOST,
        "pod" => InterfaceKind::POD,
        _ => InterfaceKind::PORT,
    };
    let spec = InterfaceSpec { id: InterfaceId(id), kind, mac, mtu, name, addresses };
    Attached { spec, index }
}
