//! Being let in: the released binary against an API server with TLS and authentication, by every way that a kubeconfig or a pod has.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use millrace_apiserver::{ApiServer, Authority, Identity};
use millrace_control::{
    inbox::inbox,
    reflect::kube::{self, Access},
};
use millrace_tables::session::Contract;
use serde_json::json;

use crate::{
    common::TempDir,
    engine::{FakeEngine, socket, wait},
    process::Process,
};

/// A server that asks who is there, an engine, and what the tables have of the one Service.
struct Cluster {
    dir: TempDir,
    server: ApiServer,
    authority: Authority,
    engine: FakeEngine,
}

impl Cluster {
    fn new() -> Cluster {
        let dir = TempDir::new();
        let server = ApiServer::start().unwrap();
        let authority = Authority::new("millrace test CA").unwrap();
        server.secure(&authority, &["127.0.0.1"]).unwrap();
        let engine = FakeEngine::start(&socket(dir.path()), Contract::ours());
        let cluster = Cluster { dir, server, authority, engine };
        cluster.serve("172.30.0.1");
        cluster
    }

    /// The Service with this address.
    fn serve(&self, addr: &str) {
        self.server.delete("Service", "shop", "web");
        self.server.apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": addr, "ports": [{"port": 80}]}}));
    }

    fn reaches(&self, addr: &str, control: &Process) {
        let wanted = [format!("{addr}:80=")];
        wait(
            || self.engine.frontends() == wanted,
            || {
                format!(
                    "waited for {wanted:?}, have {:?}\n{}",
                    self.engine.frontends(),
                    control.log()
                )
            },
        );
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        self.dir.replace(name, text);
        path
    }

    /// Writes a kubeconfig with these words about cluster and user; answers where.
    fn kubeconfig(&self, cluster: &str, user: &str) -> PathBuf {
        let address = self.server.address();
        self.file(
            "kubeconfig",
            &format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
                 clusters: [{{name: c, cluster: {{server: 'https://{address}', {cluster}}}}}]\n\
                 users: [{{name: u, user: {{{user}}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n"
            ),
        )
    }

    /// The authority in the kubeconfig itself.
    fn inline_authority(&self) -> String {
        format!("certificate-authority-data: {}", base64(&self.authority.pem()))
    }

    fn control(&self, kubeconfig: &Path) -> Process {
        let path = kubeconfig.to_string_lossy();
        Process::start_with(self.dir.path(), &["--kubeconfig", &path, "--node", "node-a"])
    }

    /// Whoever was let in before has to ask again.
    fn hang_up(&self) {
        self.server.end_watches();
    }
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63] as char;
            out.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

#[test]
fn a_client_certificate_in_the_kubeconfig_or_beside_it() {
    let cluster = Cluster::new();
    let Identity { certificate, key } = cluster.authority.client("millrace").unwrap();
    let user = format!(
        "client-certificate-data: {}, client-key-data: {}",
        base64(&certificate),
        base64(&key)
    );
    let control = cluster.control(&cluster.kubeconfig(&cluster.inline_authority(), &user));
    cluster.reaches("172.30.0.1", &control);
    drop(control);
    // Paths are taken from where the kubeconfig is.
    cluster.file("ca.crt", &cluster.authority.pem());
    cluster.file("tls.crt", &certificate);
    cluster.file("tls.key", &key);
    let user = "client-certificate: tls.crt, client-key: tls.key";
    let control = cluster.control(&cluster.kubeconfig("certificate-authority: ca.crt", user));
    cluster.serve("172.30.0.2");
    cluster.reaches("172.30.0.2", &control);
    assert_eq!(cluster.server.turned_away(), 0);
}

#[test]
fn a_token_that_is_turned_down_is_said_and_tried_again() {
    let cluster = Cluster::new();
    cluster.server.set_tokens(&["other"]);
    let control =
        cluster.control(&cluster.kubeconfig(&cluster.inline_authority(), "token: secret"));
    control.wait_for_log("Unauthorized");
    assert!(!control.log().contains("secret"), "a token in the log");
    assert!(cluster.engine.frontends().is_empty());
    cluster.server.set_tokens(&["secret"]);
    cluster.reaches("172.30.0.1", &control);
    // Revoked while watches go on, then given again with another kubeconfig in the same place.
    cluster.server.set_tokens(&["new"]);
    cluster.kubeconfig(&cluster.inline_authority(), "token: new");
    cluster.hang_up();
    cluster.serve("172.30.0.2");
    cluster.reaches("172.30.0.2", &control);
}

#[test]
fn a_token_file_is_read_anew_when_it_was_rotated() {
    let cluster = Cluster::new();
    // As an editor leaves it.
    cluster.file("token", "first\n");
    cluster.server.set_tokens(&["first"]);
    let control =
        cluster.control(&cluster.kubeconfig(&cluster.inline_authority(), "tokenFile: token"));
    cluster.reaches("172.30.0.1", &control);
    cluster.file("token", "second");
    cluster.server.set_tokens(&["second"]);
    cluster.hang_up();
    cluster.serve("172.30.0.2");
    cluster.reaches("172.30.0.2", &control);
    // Gone for a while: said, and got over.
    fs::remove_file(cluster.dir.path().join("token")).unwrap();
    cluster.server.set_tokens(&["third"]);
    cluster.hang_up();
    control.wait_for_log("token file");
    cluster.file("token", "third\n");
    cluster.serve("172.30.0.3");
    cluster.reaches("172.30.0.3", &control);
}

/// A credential plugin that says what is in `credential`, and notes each call.
fn plugin(cluster: &Cluster, body: &str) -> String {
    let script = cluster.file(
        "plugin",
        &format!(
            "#!/bin/sh\necho \"$KUBERNETES_EXEC_INFO\" >>{0}/calls\n{body}\n",
            cluster.dir.path().display()
        ),
    );
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: '{}', interactiveMode: IfAvailable}}",
        script.display()
    )
}

fn credential(status: &serde_json::Value) -> String {
    json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}).to_string()
}

#[test]
fn a_credential_plugin_gives_tokens_and_certificates() {
    let cluster = Cluster::new();
    let file = cluster.file("credential", &credential(&json!({"token": "first"})));
    let user = plugin(&cluster, &format!("cat {}", file.display()));
    cluster.server.set_tokens(&["first"]);
    let control = cluster.control(&cluster.kubeconfig(&cluster.inline_authority(), &user));
    cluster.reaches("172.30.0.1", &control);
    let calls = || fs::read_to_string(cluster.dir.path().join("calls")).unwrap();
    // A client of kube's asks three times as it is made; what counts is that it is one for all kinds.
    assert!(calls().lines().count() <= 3, "{}", calls());
    assert!(calls().contains("\"interactive\":false"), "{}", calls());
    // Another token, with an end that is near.
    let soon = "2020-01-01T00:00:00Z";
    cluster
        .file("credential", &credential(&json!({"token": "second", "expirationTimestamp": soon})));
    cluster.server.set_tokens(&["second"]);
    cluster.hang_up();
    cluster.serve("172.30.0.2");
    cluster.reaches("172.30.0.2", &control);
    let Identity { certificate, key } = cluster.authority.client("millrace").unwrap();
    let status = json!({"clientCertificateData": certificate, "clientKeyData": key});
    cluster.file("credential", &credential(&status));
    cluster.server.set_tokens(&[]);
    cluster.hang_up();
    cluster.serve("172.30.0.3");
    cluster.reaches("172.30.0.3", &control);
    // One that fails: its own words.
    cluster.server.secure(&Authority::new("another").unwrap(), &["127.0.0.1"]).unwrap();
    plugin(&cluster, "echo 'no such account' >&2; exit 3");
    cluster.hang_up();
    control.wait_for_log("no such account");
}

#[test]
fn a_credential_plugin_that_hangs_is_named_and_run_once() {
    let cluster = Cluster::new();
    let user = plugin(&cluster, "exec sleep 60");
    let path = cluster.kubeconfig(&cluster.inline_authority(), &user);
    let options = kube::Options {
        plugin: Duration::from_millis(200),
        first_wait: Duration::from_millis(10),
        longest_wait: Duration::from_millis(20),
        ..kube::Options::new(Access::Kubeconfig(path), None)
    };
    let (inbox, outbox) = inbox().unwrap();
    let (_, health) = kube::start(options, outbox).unwrap();
    let faults = || {
        health.kinds().map(|(_, kind)| kind.faults.load(std::sync::atomic::Ordering::Relaxed)).min()
    };
    wait(|| faults() >= Some(3), || format!("{:?} faults", faults()));
    let calls = fs::read_to_string(cluster.dir.path().join("calls")).unwrap();
    assert_eq!(calls.lines().count(), 1, "{calls}");
    drop(inbox);
}

#[test]
fn an_authority_that_is_not_the_servers_is_no_way_in_until_it_is_mended() {
    let cluster = Cluster::new();
    cluster.server.set_tokens(&["secret"]);
    let other = Authority::new("another CA").unwrap();
    cluster.file("ca.crt", &other.pem());
    let path = cluster.kubeconfig("certificate-authority: ca.crt", "token: secret");
    let control = cluster.control(&path);
    control.wait_for_log("invalid peer certificate");
    assert_eq!(cluster.engine.frontends(), [""; 0]);
    cluster.file("ca.crt", &cluster.authority.pem());
    cluster.reaches("172.30.0.1", &control);
    // The server's authority is exchanged, and the file follows.
    cluster.server.secure(&other, &["127.0.0.1"]).unwrap();
    cluster.hang_up();
    cluster.serve("172.30.0.2");
    cluster.file("ca.crt", &other.pem());
    cluster.reaches("172.30.0.2", &control);
    // A certificate of the right authority, for another name.
    cluster.server.secure(&other, &["apiserver.example"]).unwrap();
    cluster.hang_up();
    control.wait_for_log("not valid for");
    cluster.kubeconfig(
        "certificate-authority: ca.crt, tls-server-name: apiserver.example",
        "token: secret",
    );
    cluster.serve("172.30.0.3");
    cluster.reaches("172.30.0.3", &control);
}

/// As in a pod: the service account's files at their place, which a mount namespace of the process's own has.
#[test]
fn a_pod_is_let_in_by_its_service_account() {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("MILLRACE_PRIVILEGED").is_none(),
            "MILLRACE_PRIVILEGED is set, but there is no root"
        );
        println!("SKIP: a mount namespace needs root");
        return;
    }
    let cluster = Cluster::new();
    cluster.server.set_tokens(&["first"]);
    let account = cluster.dir.path().join("account");
    fs::create_dir(&account).unwrap();
    fs::write(account.join("token"), "first").unwrap();
    fs::write(account.join("ca.crt"), cluster.authority.pem()).unwrap();
    fs::write(account.join("namespace"), "kube-system").unwrap();
    let log = cluster.dir.path().join("log");
    let mounts = "set -e; mount -t tmpfs none /run; mkdir -p /run/secrets/kubernetes.io/serviceaccount; \
                  mount --bind \"$0\" /run/secrets/kubernetes.io/serviceaccount; exec \"$@\"";
    let child = Command::new("unshare")
        .args(["--mount", "sh", "-c", mounts, account.to_str().unwrap()])
        .arg(env!("CARGO_BIN_EXE_millrace-control"))
        .args(["--engine", socket(cluster.dir.path()).to_str().unwrap(), "--node", "node-a"])
        .args(["--healthz-bind-address", "127.0.0.1:0", "--metrics-bind-address", "127.0.0.1:0"])
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", cluster.server.address().port().to_string())
        .env("RUST_LOG", "debug")
        .stderr(fs::File::create(&log).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let control = Process::of(child, log);
    cluster.reaches("172.30.0.1", &control);
    // kubelet puts another token there.
    fs::write(account.join("token"), "second").unwrap();
    cluster.server.set_tokens(&["second"]);
    cluster.hang_up();
    cluster.serve("172.30.0.2");
    cluster.reaches("172.30.0.2", &control);
}
