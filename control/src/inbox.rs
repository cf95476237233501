//! Everything that the main loop waits for, in one place: events of other threads, and the engine's socket.
//!
//! A channel that `poll` can see: each event also writes an eventfd.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use crate::reflect::kube::Batch;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The manifests directory should be looked at; these files were named.
    Manifests(BTreeSet<PathBuf>),
    /// The API server has said something.
    Objects(Batch),
    /// The kernel's network has changed; the first time it is all of it.
    Kernel(Vec<crate::kernel::Change>),
    /// The configuration file should be looked at.
    Config,
    /// A thread is gone without which the process is of no use; with the reason.
    Broken(String),
    /// The process should end.
    Stop,
}

/// Where events arrive.
#[derive(Debug)]
pub struct Inbox {
    events: Receiver<Event>,
    wake: Arc<OwnedFd>,
}

/// Where they are put; one for each thread.
#[derive(Clone, Debug)]
pub struct Outbox {
    events: Sender<Event>,
    wake: Arc<OwnedFd>,
}

/// Makes both ends.
pub fn inbox() -> io::Result<(Inbox, Outbox)> {
    let (sender, receiver) = channel();
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    Ok((Inbox { events: receiver, wake: Arc::clone(&wake) }, Outbox { events: sender, wake }))
}

impl Outbox {
    /// Puts an event in. False when nobody waits for it any more.
    pub fn send(&self, event: Event) -> bool {
        let sent = self.events.send(event).is_ok();
        // Full means 2^64 − 2 events: it is awake then.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        sent
    }
}

impl Inbox {
    /// Waits until an event is there, `socket` can be read (or is closed), or the time is up. Answers the events, and whether
    /// the socket has something to say.
    pub fn wait(
        &self,
        socket: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> io::Result<(Vec<Event>, bool)> {
        let mut ready = vec![PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        ready.extend(socket.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
        let limit = Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        match poll(&mut ready, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let readable = ready.get(1).is_some_and(|socket| !socket.revents().is_empty());
        let mut count = [0; 8];
        // Empty when the socket or the time woke us.
        let _ = rustix::io::read(&self.wake, &mut count);
        Ok((self.events.try_iter().collect(), readable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_wakes_the_waiter_and_is_delivered_once() {
        let (inbox, outbox) = inbox().unwrap();
        let limit = Duration::from_secs(20);
        let thread = std::thread::spawn(move || outbox.send(Event::Config));
        assert_eq!(inbox.wait(None, limit).unwrap(), (vec![Event::Config], false));
        thread.join().unwrap();
        assert_eq!(inbox.wait(None, Duration::ZERO).unwrap(), (vec![], false));
    }

    #[test]
    fn a_readable_or_closed_socket_wakes_the_waiter() {
        let (inbox, _outbox) = inbox().unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(inbox.wait(Some(ours.as_fd()), Duration::ZERO).unwrap(), (vec![], false));
        drop(theirs);
        assert_eq!(
            inbox.wait(Some(ours.as_fd()), Duration::from_secs(20)).unwrap(),
            (vec![], true)
        );
    }

    #[test]
    fn a_sender_learns_that_nobody_waits() {
        let (inbox, outbox) = inbox().unwrap();
        drop(inbox);
        assert!(!outbox.send(Event::Stop));
    }
}
