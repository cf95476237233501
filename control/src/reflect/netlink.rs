//! The kernel's links, addresses, routes and neighbors, followed by rtnetlink: a thread that hears of changes and hands on [`Change`]s.
//!
//! Decides when to look. Subscribes first and asks then, so that nothing falls between the two. A word about a device, an address, a
//! route or a rule is a hint only: these parts are asked for anew, whole. The kernel does not speak of every route that it takes back (with
//! a device that goes down it takes IPv4 routes in silence), and its words about appended and multipath routes can't be put
//! together reliably; what it answers is always what it uses. Words about neighbors are complete, and are followed one by one.
//!
//! A burst of changes is one look: it begins when nothing has been said for [`QUIET`], [`PATIENCE`] after the first word at the latest, and
//! looks take at most a fifth of the time. A dump that a change interrupted (`NLM_F_DUMP_INTR`) is asked for again; after lost words
//! (`ENOBUFS`) everything is.
//!
//! Cost: a look is a dump of all of it: 1.2 ms at 1,000 routes, 0.1 s at 20,000 (a build without optimization). Needs no privilege.

mod decode;
mod message;
mod neighbors;
mod socket;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use crate::{
    inbox::{Event, Outbox},
    kernel::{Address, Change, Link, Route, Rule},
};
use message::Message;
use neighbors::Neighbors;
use socket::{Dumped, Socket, wait};

/// After the last word of a burst.
const QUIET: Duration = Duration::from_millis(1);
/// After its first.
const PATIENCE: Duration = Duration::from_millis(5);
/// Of the time, looks take one in so many.
const SHARE: u32 = 5;
/// After a change there is another look, for what the kernel changes after it has spoken.
const AGAIN: Duration = Duration::from_millis(300);
/// And now and then, for what it never spoke of.
const ROUTINE: Duration = Duration::from_secs(60);
/// While a neighbor is taken back, the kernel is asked so often whether it uses it again; for at most a hundredth of the time.
const POLL: Duration = Duration::from_millis(50);
const POLL_SHARE: u32 = 100;
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Interrupted dumps in a row before there is a pause.
const TORN: u32 = 20;

/// Multicast groups of rtnetlink that are listened to: links, neighbors, addresses, routes and rules of both families.
const GROUPS: u32 =
    group(1) | group(3) | group(5) | group(7) | group(8) | group(9) | group(11) | group(19);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOR: u16 = 28;
const DEL_NEIGHBOR: u16 = 29;
const GET_NEIGHBOR: u16 = 30;
const NEW_RULE: u16 = 32;
const DEL_RULE: u16 = 33;
const GET_RULE: u16 = 34;

/// Follows the kernel of the network namespace that the caller is in, in a thread of its own. The first event has everything.
pub fn start(outbox: Outbox) -> io::Result<()> {
    let mut mirror = Mirror::open()?;
    std::thread::Builder::new().name("netlink".into()).spawn(move || {
        let _watch = Watch(outbox.clone());
        loop {
            let error = match mirror.follow(&outbox) {
                Ok(()) => return,
                Err(error) => error,
            };
            tracing::warn!(
                "the kernel's routes and neighbors: {error}: what was read before stays in force"
            );
            loop {
                std::thread::sleep(RETRY);
                match Mirror::open() {
                    Ok(fresh) => break mirror.reopen(fresh),
                    Err(error) => tracing::debug!("netlink: {error}"),
                }
            }
        }
    })?;
    Ok(())
}

/// Of a thread that panicked nobody would hear, and the engine would be left with what there was then: a new process does better.
struct Watch(Outbox);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send(Event::Broken("following the kernel's network".into()));
        }
    }
}

/// Which parts have to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dirty {
    /// Devices, addresses, routes and rules.
    routing: bool,
    neighbors: bool,
}

struct Mirror {
    heard: Socket,
    asked: Socket,
    dirty: Dirty,
    /// What has been handed on.
    links: Arc<BTreeMap<u32, Link>>,
    addresses: Arc<Vec<Address>>,
    routes: Arc<Vec<Route>>,
    rules: Arc<Vec<Rule>>,
    neighbors: Neighbors,
    /// Something was said since the last look.
    spoken: bool,
    /// Everything has been looked at once.
    complete: bool,
    torn: u32,
}

impl Mirror {
    fn open() -> io::Result<Mirror> {
        Ok(Mirror {
            heard: Socket::new(GROUPS)?,
            asked: Socket::new(0)?,
            dirty: Dirty { routing: true, neighbors: true },
            links: Arc::default(),
            addresses: Arc::default(),
            routes: Arc::default(),
            rules: Arc::default(),
            neighbors: Neighbors::default(),
            spoken: false,
            complete: false,
            torn: 0,
        })
    }

    /// Other sockets, and the same knowledge.
    fn reopen(&mut self, fresh: Mirror) {
        (self.heard, self.asked, self.dirty) = (fresh.heard, fresh.asked, fresh.dirty);
    }

    /// Until nobody listens, or the kernel can't be asked.
    fn follow(&mut self, outbox: &Outbox) -> io::Result<()> {
        let mut next_look = Instant::now();
        let mut again = None;
        let mut next_poll = Instant::now();
        loop {
            let now = Instant::now();
            let mut changes = Vec::new();
            if self.dirty != Dirty::default() && now >= next_look {
                let begun = Instant::now();
                let spoken = std::mem::take(&mut self.spoken);
                self.look(&mut changes)?;
                next_look = Instant::now() + begun.elapsed() * SHARE;
                if self.dirty == Dirty::default() {
                    self.torn = 0;
                } else {
                    self.torn += 1;
                    if self.torn.is_multiple_of(TORN) {
                        next_look += PATIENCE * 10;
                    }
                }
                if spoken && again.is_none_or(|(_, routine)| routine) {
                    again = Some((Instant::now() + AGAIN, false));
                }
            }
            if self.neighbors.any_withdrawn() && Instant::now() >= next_poll {
                let begun = Instant::now();
                self.look_at_neighbors()?;
                next_poll = Instant::now() + POLL.max(begun.elapsed() * POLL_SHARE);
            }
            self.hear(Instant::now())?;
            self.neighbors.expire(Instant::now());
            let first = !self.complete && self.dirty == Dirty::default();
            self.complete |= first;
            if self.complete {
                changes.extend(self.neighbors.take_changes());
            }
            // Before everything is there nothing is handed on.
            if self.complete && (first || !changes.is_empty()) {
                let changes = if first { self.everything() } else { changes };
                if !outbox.send(Event::Kernel(changes)) {
                    return Ok(());
                }
            }
            let now = Instant::now();
            match again {
                Some((at, routine)) if at <= now => {
                    self.dirty.routing = true;
                    self.dirty.neighbors |= routine;
                    again = Some((now + ROUTINE, true));
                }
                Some(_) => {}
                None => again = Some((now + ROUTINE, true)),
            }
            let poll = self.neighbors.any_withdrawn().then_some(next_poll);
            self.rest(next_look, again.map(|(at, _)| at).into_iter().chain(poll).min())?;
        }
    }

    /// Waits for a word, or until there is something to do; gathers a burst.
    fn rest(&mut self, next_look: Instant, again: Option<Instant>) -> io::Result<()> {
        let now = Instant::now();
        let due = [
            (self.dirty != Dirty::default()).then_some(next_look),
            again,
            self.neighbors.next_expiry(),
        ];
        let limit = due.into_iter().flatten().min().map(|due| due.saturating_duration_since(now));
        if !wait(self.heard.as_fd(), limit)? {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.hear(Instant::now())?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !wait(self.heard.as_fd(), Some(QUIET.min(left)))? {
                return Ok(());
            }
        }
    }

    /// Takes in all that has been said.
    fn hear(&mut self, now: Instant) -> io::Result<()> {
        let Mirror { heard, dirty, neighbors, spoken, .. } = self;
        let mut each = |message: Message<'_>| match message.kind {
            NEW_NEIGHBOR | DEL_NEIGHBOR => {
                if let Some((key, standing)) = decode::neighbor(message.body) {
                    let gone = message.kind == DEL_NEIGHBOR;
                    neighbors.heard(
                        key,
                        if gone { decode::Standing::Unknown } else { standing },
                        now,
                    );
                }
            }
            // Routes of other tables are nothing to us.
            NEW_ROUTE..GET_ROUTE if decode::route(message.body).is_none() => {}
            NEW_LINK..GET_LINK
            | NEW_ADDRESS..GET_ADDRESS
            | NEW_RULE..=DEL_RULE
            | NEW_ROUTE..GET_ROUTE => {
                (dirty.routing, *spoken) = (true, true);
            }
            _ => {}
        };
        let mut lost = false;
        // To the end also when words were lost: those that are left are older than what is asked for now, and who came and went may have
        // come in one that is left and gone in one that is lost.
        loop {
            match heard.read(&mut each) {
                Ok(true) => {}
                Ok(false) => break,
                Err(Errno::NOBUFS) => lost = true,
                Err(errno) => return Err(errno.into()),
            }
        }
        if lost {
            tracing::debug!("netlink: words were lost, looking at everything");
            (self.dirty, self.spoken) = (Dirty { routing: true, neighbors: true }, true);
        }
        Ok(())
    }

    /// Asks for what is dirty. A part whose dump was torn stays so.
    fn look(&mut self, changes: &mut Vec<Change>) -> io::Result<()> {
        if self.dirty.routing {
            self.dirty.routing = false;
            match self.look_at_routing(changes)? {
                Dumped::Whole => {}
                Dumped::Torn => self.dirty.routing = true,
            }
        }
        if self.dirty.neighbors {
            self.dirty.neighbors = self.look_at_neighbors()? == Dumped::Torn;
        }
        Ok(())
    }

    fn look_at_neighbors(&mut self) -> io::Result<Dumped> {
        let mut all = Vec::new();
        let dumped =
            self.asked.dump(GET_NEIGHBOR, 12, |body| all.extend(decode::neighbor(body)))?;
        if dumped == Dumped::Whole {
            self.neighbors.replace(all, Instant::now());
        }
        Ok(dumped)
    }

    fn look_at_routing(&mut self, changes: &mut Vec<Change>) -> io::Result<Dumped> {
        let (mut links, mut addresses) = (BTreeMap::new(), Vec::new());
        let (mut rules, mut routes) = (Vec::new(), Vec::new());
        let asked = &mut self.asked;
        let dumps = [
            asked.dump(GET_LINK, 16, |body| links.extend(decode::link(body)))?,
            asked.dump(GET_ADDRESS, 8, |body| addresses.extend(decode::address(body)))?,
            // A kernel without policy routing has no rules.
            match asked.dump(GET_RULE, 12, |body| rules.extend(decode::rule(body))) {
                Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                    Dumped::Whole
                }
                dumped => dumped?,
            },
            asked.dump(GET_ROUTE, 12, |body| routes.extend(decode::route(body)))?,
        ];
        if dumps.contains(&Dumped::Torn) {
            return Ok(Dumped::Torn);
        }
        if *self.links != links {
            self.links = Arc::new(links);
            changes.push(Change::Links(Arc::clone(&self.links)));
        }
        if *self.addresses != addresses {
            self.addresses = Arc::new(addresses);
            changes.push(Change::Addresses(Arc::clone(&self.addresses)));
        }
        if *self.rules != rules {
            self.rules = Arc::new(rules);
            changes.push(Change::Rules(Arc::clone(&self.rules)));
        }
        if *self.routes != routes {
            self.routes = Arc::new(routes);
            changes.push(Change::Routes(Arc::clone(&self.routes)));
        }
        Ok(Dumped::Whole)
    }

    /// For who knows nothing yet.
    fn everything(&self) -> Vec<Change> {
        let parts = [
            Change::Links(Arc::clone(&self.links)),
            Change::Addresses(Arc::clone(&self.addresses)),
            Change::Rules(Arc::clone(&self.rules)),
            Change::Routes(Arc::clone(&self.routes)),
        ];
        parts.into_iter().chain(self.neighbors.all()).collect()
    }
}
