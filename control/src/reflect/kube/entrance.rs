//! How to be let in: the configuration, tokens and certificates as they are now, and one client for all tasks.
//!
//! Decides when they are read anew: after a minute, and when the server could not be reached or has turned us away (401), so that rotated
//! tokens, certificates and authorities take effect by themselves. A credential plugin runs in a thread of its own, once for
//! all tasks, and is waited for with a limit: one that hangs stops nobody but those who need it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ::kube::{
    Client, Config,
    config::{ExecInteractiveMode, KubeConfigOptions, Kubeconfig},
};
use tokio::{
    sync::{Mutex, Notify},
    task::JoinHandle,
    time::timeout,
};

use super::{
    Access, Options,
    api::{Api, Fault, chain},
};

/// What was read is good for so long.
const FRESH: Duration = Duration::from_secs(60);
/// The one way to the API server.
pub(super) struct Entrance {
    access: Access,
    /// For a credential plugin to answer.
    plugin: Duration,
    state: Mutex<State>,
    /// Rings when the server answers again.
    answers: Notify,
}

#[derive(Default)]
struct State {
    open: Option<(Api, Instant)>,
    /// A client in the making: a plugin runs.
    pending: Option<Pending>,
}

struct Pending {
    server: String,
    since: Instant,
    client: JoinHandle<Result<Client, String>>,
}

impl Entrance {
    pub(super) fn new(options: &Options) -> Arc<Entrance> {
        let (access, plugin) = (options.access.clone(), options.plugin);
        Arc::new(Entrance { access, plugin, state: Mutex::default(), answers: Notify::new() })
    }

    /// The way in, read anew where that is due.
    pub(super) async fn open(&self) -> Result<Api, Fault> {
        let mut state = self.state.lock().await;
        if let Some((api, opened)) = &state.open
            && opened.elapsed() < FRESH
            && !api.is_in_doubt()
        {
            return Ok(api.clone());
        }
        let mut pending = match state.pending.take() {
            Some(pending) => pending,
            None => self.begin().await.map_err(Fault::failed)?,
        };
        let left = self.plugin.saturating_sub(pending.since.elapsed());
        let Ok(made) = timeout(left, &mut pending.client).await else {
            let (server, seconds) = (pending.server.clone(), pending.since.elapsed().as_secs());
            state.pending = Some(pending);
            return Err(Fault::failed(format!(
                "{server}: the credential plugin has not answered for {seconds} s"
            )));
        };
        let server = pending.server;
        let client = match made {
            Ok(Ok(client)) => client,
            Ok(Err(why)) => return Err(Fault::failed(format!("{server}: {why}"))),
            Err(error) => return Err(Fault::failed(format!("{server}: {error}"))),
        };
        let api = Api::new(client, server);
        state.open = Some((api.clone(), Instant::now()));
        Ok(api)
    }

    /// Says to all who wait that the server, which failed, answers again.
    pub(super) fn answered(&self) {
        self.answers.notify_waiters();
    }

    /// Until somebody says so.
    pub(super) async fn until_answered(&self) {
        self.answers.notified().await;
    }

    async fn begin(&self) -> Result<Pending, String> {
        let mut config = match &self.access {
            Access::InCluster => in_cluster()?,
            Access::Kubeconfig(path) => {
                let file = kubeconfig(path)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(|error| format!("kubeconfig {}: {}", path.display(), chain(&error)))?
            }
        };
        config.connect_timeout = Some(Duration::from_secs(10));
        // Waiting and trying again is decided in one place.
        config.default_retry = false;
        let auth = &mut config.auth_info;
        // As client-go does: the file goes before a token beside it, and a line's end is not part of the token.
        if let Some(path) = auth.token_file.take() {
            let token = std::fs::read_to_string(&path)
                .map_err(|error| format!("token file {path}: {error}"))?;
            let token = token.trim();
            if token.is_empty() {
                return Err(format!("token file {path}: is empty"));
            }
            auth.token = Some(token.to_owned().into());
        }
        // Nobody sits at our terminal. What the plugin complains about is part of the error then.
        if let Some(plugin) = &mut auth.exec
            && plugin.interactive_mode != Some(ExecInteractiveMode::Always)
        {
            plugin.interactive_mode = Some(ExecInteractiveMode::Never);
        }
        let server = config.cluster_url.to_string();
        let client = tokio::task::spawn_blocking(move || {
            Client::try_from(config).map_err(|error| chain(&error))
        });
        Ok(Pending { server, since: Instant::now(), client })
    }
}

/// Whether what was read last is still to be used; shared by all handles on one client.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt(Arc<AtomicBool>);

impl Doubt {
    pub(super) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) fn in_cluster() -> Result<Config, String> {
    Config::incluster().map_err(|error| {
        format!(
            "in-cluster configuration: {}: outside of a cluster give --kubeconfig FILE",
            chain(&error)
        )
    })
}

pub(super) fn kubeconfig(path: &Path) -> Result<Kubeconfig, String> {
    Kubeconfig::read_from(path)
        .map_err(|error| format!("kubeconfig {}: {}", path.display(), chain(&error)))
}
