//! `millrace-apiserver KUBECONFIG`: writes a kubeconfig that leads to it, and serves until standard input ends.
//!
//! For `deploy/e2e`, where there is no cluster to test on.

use std::{io::Read, process::ExitCode};

use millrace_apiserver::ApiServer;
use serde_json::json;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("millrace-apiserver: name the kubeconfig to write");
        return ExitCode::FAILURE;
    };
    let started = ApiServer::start().and_then(|server| {
        std::fs::write(&path, server.kubeconfig())?;
        Ok(server)
    });
    let server = match started {
        Ok(server) => server,
        Err(error) => {
            eprintln!("millrace-apiserver: {error}");
            return ExitCode::FAILURE;
        }
    };
    server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": ["10.96.0.0/16"]}}));
    // Whoever started it holds the other end, and lets go of it when it ends, however it ends.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(server);
    ExitCode::SUCCESS
}
