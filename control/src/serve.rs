//! Health, metrics and receipts over HTTP, from a thread of its own.
//!
//! | where | what | for |
//! |---|---|---|
//! | `--healthz-bind-address` | `/healthz`, `/livez` | load balancers, probes (KEP-3836) |
//! | each `healthCheckNodePort` | any path | cloud load balancers |
//! | `--metrics-bind-address` | `/metrics` | Prometheus |
//! | the socket beside the engine's | all of these and `/receipts` | `millrace show` |
//!
//! Needs the [`Board`] that the main thread keeps up to date. Answers are made in [`answer`] and [`metrics`], which know nothing of
//! sockets. A port that is taken is tried again: during a hand-over it is kube-proxy's for a while.

pub mod answer;
pub mod ask;
mod metrics;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{receipts::Receipts, reflect::kube::Health};
use answer::Surface;

/// A port that is taken is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// Connections at once to each address, and how long each may take.
const MOST: usize = 64;
const LONGEST: Duration = Duration::from_secs(10);

/// Where to listen. Names and defaults are kube-proxy's, except that nothing is listened on with manifests.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct ServeOptions {
    /// Where /healthz and /livez are served [default with an API server: 0.0.0.0:10256; otherwise nowhere].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub healthz_bind_address: Option<SocketAddr>,
    /// Where /metrics is served [default with an API server: 127.0.0.1:10249; otherwise nowhere].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_bind_address: Option<SocketAddr>,
    /// Socket for `millrace show … --receipts` [default: control.sock beside the engine's socket].
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
}

/// What a healthCheckNodePort tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceHealth {
    /// The Service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Distinct addresses of ready endpoints on this node, IPv4 and IPv6.
    pub local: (usize, usize),
}

/// What the main thread has written down.
#[derive(Clone, Debug)]
pub struct Status {
    /// The main thread was here last.
    pub beat: Instant,
    /// All objects have been read once.
    pub complete: bool,
    /// An engine is connected.
    pub connected: bool,
    /// The generation published last, and when.
    pub published: (u64, Instant),
    /// The generation that every worker uses.
    pub acknowledged: u64,
    /// Since when the workers have been behind without taking up anything newer; `None` when they use what was published last.
    pub behind_since: Option<Instant>,
    /// When that was last so for everything published.
    pub updated: SystemTime,
    /// This node is neither deleted nor about to be.
    pub node_eligible: bool,
    /// Objects by kind.
    pub objects: BTreeMap<&'static str, usize>,
    /// Refused parts of objects.
    pub refused: usize,
    /// Rows that the tables have no room for.
    pub refused_rows: usize,
    /// By port.
    pub services: BTreeMap<u16, ServiceHealth>,
    /// Addresses that health check node ports answer on; all when empty.
    pub addresses: Vec<IpAddr>,
}

impl Default for Status {
    fn default() -> Status {
        let now = Instant::now();
        Status {
            beat: now,
            complete: false,
            connected: false,
            published: (0, now),
            acknowledged: 0,
            behind_since: None,
            updated: SystemTime::UNIX_EPOCH,
            node_eligible: true,
            objects: BTreeMap::new(),
            refused: 0,
            refused_rows: 0,
            services: BTreeMap::new(),
            addresses: Vec::new(),
        }
    }
}

impl Status {
    /// Writes down what is published and what every worker uses. Publications alone don't make workers look well that hang:
    /// only a newer generation in use begins the time anew.
    pub fn note_generations(&mut self, published: (u64, Instant), acknowledged: u64, now: Instant) {
        let moved = acknowledged != self.acknowledged;
        (self.published, self.acknowledged) = (published, acknowledged);
        self.behind_since = match self.behind_since {
            _ if acknowledged >= published.0 => None,
            Some(since) if !moved => Some(since),
            _ => Some(now),
        };
    }
}

/// What both threads see.
#[derive(Debug)]
pub struct Board {
    status: Mutex<Status>,
    receipts: Mutex<Receipts>,
    health: Option<Arc<Health>>,
    ports: watch::Sender<Vec<u16>>,
}

impl Board {
    /// `health` of the API server's source, where there is one.
    pub fn new(health: Option<Arc<Health>>) -> Arc<Board> {
        Arc::new(Board {
            status: Mutex::new(Status::default()),
            receipts: Mutex::new(Receipts::default()),
            health,
            ports: watch::Sender::new(Vec::new()),
        })
    }

    /// Changes what is written down.
    pub fn write(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status();
        change(&mut status);
        let ports: Vec<u16> = status.services.keys().copied().collect();
        drop(status);
        self.ports.send_if_modified(|old| std::mem::replace(old, ports.clone()) != ports);
    }

    /// What is written down.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The receipts.
    pub fn receipts(&self) -> MutexGuard<'_, Receipts> {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread. The socket's file goes when the answer is dropped.
pub fn start(board: Arc<Board>, options: &ServeOptions) -> io::Result<Server> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bound = Arc::new(AtomicBool::new(false));
    let unix = options.control_socket.clone().map(|path| (path, Arc::clone(&bound)));
    let tcp = [
        (options.healthz_bind_address, Surface::Health),
        (options.metrics_bind_address, Surface::Metrics),
    ];
    thread::Builder::new().name("serve".into()).spawn(move || {
        runtime.block_on(async move {
            for (address, surface) in tcp {
                if let Some(address) = address {
                    tokio::spawn(listen(address, surface, Arc::clone(&board)));
                }
            }
            if let Some((path, bound)) = unix {
                tokio::spawn(local(path, bound, Arc::clone(&board)));
            }
            service_ports(board).await;
        });
    })?;
    Ok(Server { socket: options.control_socket.clone(), bound })
}

/// What has to be cleaned up.
#[derive(Debug)]
pub struct Server {
    socket: Option<PathBuf>,
    /// It is ours.
    bound: Arc<AtomicBool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.socket
            && self.bound.load(Ordering::Relaxed)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Binds the socket, readable by our own user alone. One left behind by a predecessor is replaced.
fn unix(path: &Path) -> io::Result<UnixListener> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let error =
            io::Error::new(io::ErrorKind::AddrInUse, "another millrace-control listens here");
        return Err(named(error));
    }
    // Under another name until it is nobody else's.
    let hidden = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden).map_err(named)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600)).map_err(named)?;
    fs::rename(&hidden, path).map_err(named)?;
    Ok(listener)
}

async fn local(path: PathBuf, bound: Arc<AtomicBool>, board: Arc<Board>) {
    let mut said = false;
    let listener = loop {
        match unix(&path) {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        "control socket {error}: trying again every {} s",
                        AGAIN.as_secs()
                    );
                }
                sleep(AGAIN).await;
            }
        }
    };
    bound.store(true, Ordering::Relaxed);
    let room = Arc::new(Semaphore::new(MOST));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => serve(stream, None, Surface::Control, &board, &room),
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// A listener for each healthCheckNodePort that there is.
async fn service_ports(board: Arc<Board>) {
    let mut ports = board.ports.subscribe();
    let mut listeners: BTreeMap<u16, JoinHandle<()>> = BTreeMap::new();
    loop {
        let wanted = ports.borrow_and_update().clone();
        listeners.retain(|port, listener| {
            let keep = wanted.contains(port);
            if !keep {
                listener.abort();
            }
            keep
        });
        for port in wanted {
            listeners.entry(port).or_insert_with(|| {
                let any = SocketAddr::from(([0u16; 8], port));
                tokio::spawn(listen(any, Surface::Service(port), Arc::clone(&board)))
            });
        }
        if ports.changed().await.is_err() {
            return;
        }
    }
}

async fn listen(address: SocketAddr, surface: Surface, board: Arc<Board>) {
    let mut said = false;
    let listener = loop {
        match bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        "{surface} on {address}: {error}: trying again every {} s",
                        AGAIN.as_secs()
                    );
                }
                sleep(AGAIN).await;
            }
        }
    };
    if said {
        tracing::info!("{surface} on {address}: listening now");
    }
    let room = Arc::new(Semaphore::new(MOST));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let own = stream.local_addr().ok().map(|own| own.ip().to_canonical());
                serve(stream, own, surface, &board, &room);
            }
            // Out of descriptors, most likely.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// `[::]` takes IPv4, too; where there is no IPv6, `0.0.0.0`.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse && address.ip().is_unspecified() => {
            TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], address.port()))).await
        }
        other => other,
    }
}

/// Serves one connection. `own`: the address that was asked.
fn serve<S>(
    stream: S,
    own: Option<IpAddr>,
    surface: Surface,
    board: &Arc<Board>,
    room: &Arc<Semaphore>,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    // Full: the connection is closed, and whoever asks will ask again.
    let Ok(permit) = Arc::clone(room).try_acquire_owned() else { return };
    let board = Arc::clone(board);
    tokio::spawn(async move {
        let _permit = permit;
        let answer = service_fn(move |request: Request<Incoming>| {
            let answer =
                answer::answer(&board, surface, own, request.method(), request.uri().path());
            async move { Ok::<Response<Full<Bytes>>, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(LONGEST)
            .serve_connection(TokioIo::new(stream), answer);
        let _ = timeout(LONGEST, connection).await;
    });
}
