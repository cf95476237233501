//! The control process: waits, looks, compiles, publishes.
//!
//! Decides the order at start: everything is read once before the engine is given anything, so that a restart never takes
//! away what was there. One thread does all the work; watchers and the signal handler only say that something happened.

mod note;
mod once;
mod reading;
mod surroundings;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_tables::SegmentConfig;

pub use once::{Once, once};
use reading::Reading;
use surroundings::Mirror;

use crate::{
    compile::{Compiler, Conflict},
    config::{Config, Problem as ConfigProblem},
    desired::{Desired, Node},
    inbox::{Event, Inbox, Outbox, inbox},
    object::Key,
    publish::{Engine, Publisher},
    reflect::{
        files::{self, Files, Outcome},
        kube::{self, Batch, Intake},
        watch,
    },
    serve::{self, Board, ServeOptions, Server},
    store::{ServiceName, Store},
    world::World,
};

/// A file that is being written is looked at again after this long.
const UNSETTLED: Duration = Duration::from_millis(100);
/// Refused rows are tried again, and memory is freed, this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// A Service that loses its last endpoint is given this long to get another: endpoints that move between slices may leave the one
/// before they are in the other. Far below what a client waits for, and below the 100 ms in which a rejection must come.
const SETTLE: Duration = Duration::from_millis(25);
/// After a publication the workers' epochs are looked at so often, for so long; then the engine's word is waited for.
const LOOK: Duration = Duration::from_micros(100);
const LOOK_FOR: Duration = Duration::from_millis(20);

/// What the process was asked to do, flags and file together.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where objects come from.
    pub source: SourceOptions,
    /// The engine's socket.
    pub engine: PathBuf,
    /// The configuration file.
    pub config_file: Option<PathBuf>,
    /// Flags, which come before what the file says.
    pub overrides: Overrides,
    /// Of the tables segment.
    pub segment: SegmentConfig,
    /// Where to serve health, metrics and receipts.
    pub serve: ServeOptions,
}

/// Where objects come from: one source at a time.
#[derive(Clone, Debug)]
pub enum SourceOptions {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// An API server. The node's name is taken from the configuration.
    Api(kube::Options),
}

enum Source {
    Files(Files),
    Api(Intake),
}

/// Options that flags give and the configuration file may give too. An empty or absent one leaves the file's in force.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--node`.
    pub node: Option<String>,
    /// `--nodeport-addresses` and `--service-cidr`.
    pub cluster: crate::compile::node::NodeOptions,
}

impl Overrides {
    /// Puts the flags into a configuration.
    pub fn apply(&self, mut config: Config) -> Config {
        config.node = self.node.clone().or(config.node);
        if !self.cluster.nodeport_addresses.is_empty() {
            config.nodeport_addresses.clone_from(&self.cluster.nodeport_addresses);
        }
        if !self.cluster.service_cidr.is_empty() {
            config.service_cidr.clone_from(&self.cluster.service_cidr);
        }
        if !self.cluster.cluster_cidr.is_empty() {
            config.cluster_cidr.clone_from(&self.cluster.cluster_cidr);
        }
        config.detect_local_mode =
            self.cluster.detect_local_mode.unwrap_or(config.detect_local_mode);
        config.masquerade_all |= self.cluster.masquerade_all;
        config
    }
}

/// Why the process can't go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The manifests can't be read at all.
    #[error(transparent)]
    Manifests(#[from] files::Error),
    /// The configuration file has faults at start.
    #[error("{0}")]
    Config(String),
    /// Part of the process has ended that never should.
    #[error("{0}: the engine goes on with what it has")]
    Broken(String),
    /// The operating system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// The process, between two events.
pub struct Control {
    options: Options,
    source: Source,
    store: Store,
    config: Reading,
    conflicts: BTreeSet<Conflict>,
    contested: BTreeSet<String>,
    /// And since when.
    engine: Option<(Engine, Instant)>,
    mirror: Mirror,
    /// This node's object, as the world knows it.
    node: Option<Node>,
    /// This node's object has been there.
    node_seen: bool,
    /// Of the engine, the kernel, the configuration and the node; `None` when one of them has changed since it was made.
    world: Option<Arc<World>>,
    compiler: Compiler,
    publisher: Publisher,
    unsettled: bool,
    /// Until when what was heard is kept back.
    settling: Option<Instant>,
    board: Arc<Board>,
    /// healthCheckNodePorts by Service; two Services may ask for one port, the first by name has it.
    health_ports: BTreeMap<ServiceName, (u16, (usize, usize))>,
    inbox: Inbox,
    /// For threads that start later.
    outbox: Outbox,
    _server: Server,
}

impl Control {
    /// Reads everything once and starts watching. `outbox` is for the signal handler.
    pub fn start(options: Options) -> Result<(Control, Outbox), RunError> {
        let system = |what| move |source| RunError::System { what, source };
        let (inbox, outbox) = inbox().map_err(system("eventfd"))?;
        if let Some(path) = options.config_file.clone() {
            let dir = path
                .parent()
                .filter(|dir| !dir.as_os_str().is_empty())
                .unwrap_or(Path::new("."))
                .to_owned();
            watch_dir(&dir, &outbox, |_| Some(Event::Config))
                .map_err(system("watching the configuration"))?;
        }
        let mut config = Reading::default();
        config.read(&options);
        let (source, health) = match &options.source {
            SourceOptions::Manifests(dir) => {
                // Watching begins before the first look, so that no change falls between the two.
                watch_dir(dir, &outbox, |paths| Some(Event::Manifests(paths)))
                    .map_err(system("watching the manifests"))?;
                (Source::Files(Files::new(dir)), None)
            }
            SourceOptions::Api(api) => {
                let api = kube::Options { node: config.config.node.clone(), ..api.clone() };
                let (intake, health) =
                    kube::start(api, outbox.clone()).map_err(system("the API server's thread"))?;
                (Source::Api(intake), Some(health))
            }
        };
        let board = Board::new(health);
        let server = serve::start(Arc::clone(&board), &options.serve)
            .map_err(system("the thread that serves health"))?;
        let publisher = Publisher::new(&options.engine, options.segment.clone());
        let mut control = Control {
            source,
            store: Store::new(),
            config,
            conflicts: BTreeSet::new(),
            contested: BTreeSet::new(),
            engine: None,
            mirror: Mirror::Off,
            node: None,
            node_seen: false,
            world: None,
            compiler: Compiler::new(),
            publisher,
            unsettled: false,
            settling: None,
            board,
            health_ports: BTreeMap::new(),
            inbox,
            outbox: outbox.clone(),
            _server: server,
            options,
        };
        if let Source::Files(files) = &mut control.source {
            let outcome = files.look(&BTreeSet::new(), &mut control.store)?;
            control.take(outcome);
            tracing::info!(objects = control.store.rows().count(), "read");
        }
        Ok((control, outbox))
    }

    /// Runs until a stop event.
    pub fn run(mut self) -> Result<(), RunError> {
        while self.turn()? {}
        Ok(())
    }

    /// One turn: waits for something, and deals with it. False when the process should end.
    pub fn turn(&mut self) -> Result<bool, RunError> {
        self.connect()?;
        // Before everything has been read there is nothing to give to an engine.
        let mut limit = match self.publisher.reconnect_in() {
            Some(wait) if self.is_complete() => wait,
            _ => HOUSEKEEPING,
        };
        if self.unsettled {
            limit = limit.min(UNSETTLED);
        }
        if self.publisher.acknowledged() < self.publisher.published().0
            && self.publisher.published().1.elapsed() < LOOK_FOR
        {
            limit = limit.min(LOOK);
        }
        if let Some(until) = self.settling {
            limit = limit.min(until.saturating_duration_since(Instant::now()));
        }
        let waited = self.inbox.wait(self.publisher.socket(), limit);
        let (events, readable) =
            waited.map_err(|source| RunError::System { what: "poll", source })?;
        if events.contains(&Event::Stop) {
            return Ok(false);
        }
        if readable && let Err(error) = self.publisher.receive() {
            tracing::warn!("{error}");
        }
        self.publisher.look_at_workers();
        let quiet = events.is_empty();
        let (mut look, mut config, mut hint) = (self.unsettled, false, BTreeSet::new());
        let (mut heard, mut mirrored) = (false, false);
        for event in events {
            match event {
                Event::Manifests(paths) => {
                    look = true;
                    hint.extend(paths);
                }
                Event::Objects(batch) => {
                    heard = true;
                    self.hear(batch);
                }
                Event::Kernel(changes) => mirrored |= self.take_kernel(changes),
                Event::Config => config = true,
                Event::Broken(why) => return Err(RunError::Broken(why)),
                Event::Stop => {}
            }
        }
        if look {
            self.look(&hint);
        }
        if config {
            self.world = None;
            self.config.read(&self.options);
        }
        let heard = (heard || self.settling.is_some()) && !self.settles();
        // While a Service is given a moment, so is the kernel.
        mirrored &= self.settling.is_none();
        let late = self.publisher.is_connected() && !self.publisher.is_handed_over();
        if look
            || config
            || heard
            || mirrored
            || (quiet && (late || self.publisher.has_refused_rows()))
        {
            self.publish();
        }
        self.publisher.reclaim();
        self.note();
        Ok(true)
    }

    fn connect(&mut self) -> Result<(), RunError> {
        if self.publisher.reconnect_in() != Some(Duration::ZERO) || !self.is_complete() {
            return Ok(());
        }
        match self.publisher.connect() {
            Ok(engine) => {
                tracing::info!(
                    engine = %self.options.engine.display(),
                    interfaces = engine.interfaces.len(),
                    mode = ?engine.mode,
                    "connected"
                );
                self.mirror
                    .need(&engine, &self.outbox)
                    .map_err(|source| RunError::System { what: "netlink", source })?;
                (self.engine, self.world) = (Some((engine, Instant::now())), None);
                self.publish();
            }
            Err(error) => tracing::debug!("{error}: trying again"),
        }
        Ok(())
    }

    /// Whether everything has been read once: a restart never takes away what was there.
    fn is_complete(&self) -> bool {
        match &self.source {
            Source::Files(_) => true,
            Source::Api(intake) => intake.is_complete(),
        }
    }

    fn hear(&mut self, batch: Batch) {
        let Source::Api(intake) = &mut self.source else { return };
        let was_complete = intake.is_complete();
        let received = batch.received;
        let taken = intake.take(batch, &mut self.store);
        {
            let mut receipts = self.board.receipts();
            for key in &taken.heard {
                receipts.heard(key.clone(), received, self.store.row(key).is_some());
            }
        }
        for refusal in &taken.new {
            tracing::warn!("{refusal}");
        }
        for refusal in &taken.mended {
            tracing::info!("no longer so: {refusal}");
        }
        for notice in &taken.notices {
            tracing::info!("{notice}");
        }
        if intake.is_complete() && !was_complete {
            tracing::info!(objects = self.store.rows().count(), "read");
        }
    }

    /// Whether to wait a little longer before what was heard is compiled.
    fn settles(&mut self) -> bool {
        let now = Instant::now();
        let empties = self.compiler.would_empty(&self.store);
        match self.settling {
            _ if !empties => self.settling = None,
            None => self.settling = Some(now + SETTLE),
            Some(until) if until <= now => self.settling = None,
            Some(_) => {}
        }
        self.settling.is_some()
    }

    fn look(&mut self, hint: &BTreeSet<PathBuf>) {
        let Source::Files(files) = &mut self.source else { return };
        match files.look(hint, &mut self.store) {
            Ok(outcome) => self.take(outcome),
            // The directory may be replaced just now; what was read from it stays in force.
            Err(error) => tracing::warn!("{error}: what was read before stays in force"),
        }
    }

    fn take(&mut self, outcome: Outcome) {
        for problem in &outcome.new {
            tracing::warn!("{problem}");
        }
        for problem in &outcome.mended {
            tracing::info!("no longer so: {problem}");
        }
        for notice in &outcome.notices {
            tracing::info!("{notice}");
        }
        self.unsettled = outcome.unsettled;
        let (now, mut receipts) = (Instant::now(), self.board.receipts());
        for key in outcome.heard {
            let there = self.store.row(&key).is_some();
            receipts.heard(key, now, there);
        }
    }

    fn compile(&mut self) -> Vec<crate::Change> {
        let node =
            self.config.config.node.as_deref().and_then(|name| self.store.node(name)).cloned();
        let config = &self.config.config;
        let behind = |key: &Key| config.has_interface_of(key);
        if self.node != node
            || self.store.changed().ranges
            || (!config.pods.is_empty() && self.store.changed().policy.iter().any(behind))
        {
            (self.node, self.world) = (node, None);
        }
        let world = match &self.world {
            Some(world) => Arc::clone(world),
            None => {
                let (world, problems) = self.surroundings();
                self.config.say(problems, ConfigProblem::is_about_interfaces);
                Arc::clone(self.world.insert(Arc::new(world)))
            }
        };
        self.note_health_ports();
        let changes = self.compiler.update(&mut self.store, &world);
        let conflicts: BTreeSet<Conflict> = self.compiler.conflicts().collect();
        for Conflict { frontend: (addr, port, protocol), owner, refused } in
            conflicts.difference(&self.conflicts)
        {
            tracing::warn!(
                "service {refused}: {addr} port {port} protocol {protocol} belongs to service {owner}, which keeps it"
            );
        }
        self.conflicts = conflicts;
        let contested: BTreeSet<String> = self
            .compiler
            .contested_addresses()
            .map(|(addr, names)| format!("{addr} is closed: pods {names} all have it in status.podIPs, and policies treat them differently"))
            .collect();
        contested.difference(&self.contested).for_each(|said| tracing::warn!("{said}"));
        self.contested = contested;
        changes
    }

    fn publish(&mut self) {
        // Without an engine's interfaces, or the kernel's where it needs that, there is nothing to compile against.
        if self.publisher.is_connected() && self.has_world() {
            let changes = self.compile();
            if self.publisher.is_handed_over() {
                self.hand_out(changes);
            } else {
                // All of it goes out as one generation.
                let all = self.compiler.all();
                if self.hand_out(all) {
                    self.board.receipts().restarted(self.publisher.published().0);
                }
            }
        } else {
            let compiled = |name: &ServiceName| {
                self.compiler.has_rows_of(name) || self.health_ports.contains_key(name)
            };
            self.store.forget_gone(compiled, |key| self.compiler.knows(key));
        }
    }

    /// True when the engine has them.
    fn hand_out(&mut self, changes: Vec<crate::Change>) -> bool {
        let rows = changes.len();
        match self.publisher.publish(changes) {
            None => return false,
            Some(Ok(published)) => {
                if rows > 0 {
                    tracing::info!(generation = published.generation, rows, "published");
                }
                let mut short: BTreeSet<ServiceName> = BTreeSet::new();
                for row in &published.refused {
                    tracing::error!("{}: will be tried again", row.error);
                    if matches!(row.change, crate::Change::Policy(_)) {
                        self.compiler.stage_policies_again();
                    }
                    if let crate::Change::Service(key, _) = &row.change {
                        short.extend(service_of(key));
                    }
                }
                let refused = |key: &Key| match &self.store.row(key).map(|row| &row.desired) {
                    Some(Desired::Service(_)) => short.contains(&name(key, &key.name)),
                    Some(Desired::EndpointSlice(slice)) => {
                        short.contains(&name(key, &slice.service))
                    }
                    _ => false,
                };
                let mut receipts = self.board.receipts();
                receipts.compiled(published.generation, &self.store, refused);
            }
            Some(Err(error)) => {
                tracing::warn!("{error}");
                return false;
            }
        }
        true
    }
}

fn name(key: &Key, name: &str) -> ServiceName {
    ServiceName { namespace: key.namespace.clone(), name: name.into() }
}

/// The Service of a row's key, `namespace/name:port` or `namespace/name`, with `/v6` behind it in IPv6.
fn service_of(key: &str) -> Option<ServiceName> {
    let (namespace, rest) = key.split_once('/')?;
    let name = rest.split([':', '/']).next()?;
    Some(ServiceName { namespace: namespace.into(), name: name.into() })
}

fn watch_dir(
    dir: &Path,
    outbox: &Outbox,
    event: impl Fn(BTreeSet<PathBuf>) -> Option<Event> + Send + 'static,
) -> io::Result<()> {
    let outbox = outbox.clone();
    watch::spawn(dir.to_owned(), move |paths| event(paths).is_none_or(|event| outbox.send(event)))
}
