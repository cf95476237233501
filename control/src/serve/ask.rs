//! Asking a control process, from another one.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(5);
/// Receipts of far more objects than a cluster has.
const LARGEST: u64 = 256 << 20;

/// What the control process at `socket` answers to `GET path`.
pub fn ask(socket: &Path, path: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| {
        format!("{error} (is millrace-control running? its socket is {})", socket.display())
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: control\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(LARGEST).read_to_end(&mut answer).map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("control's answer is no HTTP")?;
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(format!("control answers {}: {body}", head.lines().next().unwrap_or_default())),
    }
}
