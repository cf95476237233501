//! Conversations with servers of a real kernel.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Accepts, reads a request of 64 bytes, answers with 1,000, and waits for the end.
fn serve(listener: &TcpListener, stop: &AtomicBool) -> u64 {
    listener.set_nonblocking(true).unwrap();
    let mut served = 0;
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            served += 1;
            scope.spawn(move || {
                stream.set_nonblocking(false).unwrap();
                let mut request = [0; 64];
                stream.read_exact(&mut request).unwrap();
                assert_eq!(request, [b'm'; 64]);
                stream.write_all(&[1; 1000]).unwrap();
                assert_eq!(stream.read(&mut request).unwrap(), 0, "the client closes");
            });
        }
    });
    served
}

#[test]
fn tcp_connections_open_transfer_and_close_and_no_kernel_resets_any() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let wire = Wire::with_kernel();
    for (server, clients) in [
        ("10.0.0.2:80", "--address 10.0.0.11/24 --address 10.0.0.12/24"),
        ("[fd00::2]:80", "--address fd00::11/64"),
    ] {
        let listener = wire.right.run(|| TcpListener::bind(server).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || serve(&listener, &stopped));
        let rest = format!(
            "{clients} --server {server} --connections 200 --concurrent 8 --response 1000 --timeout 10s"
        );
        let report = report("tcp", &wire.ends(), &rest);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(thread.join().unwrap(), 200);
        let other = |name: &str| number(&report, &format!("/other/{name}"));
        for name in ["opened", "established", "finished"] {
            assert_eq!(other(name), 200, "{name}: {report:#}");
        }
        assert_eq!([other("reset"), other("timed_out")], [0, 0], "{report:#}");
        assert_eq!((other("sent_bytes"), other("received_bytes")), (200 * 64, 200 * 1000));
        assert!((1..=8).contains(&other("concurrent_max")));
        assert_eq!(number(&report, "/other/setup_time/count"), 200);
    }
    for namespace in [&wire.left, &wire.right] {
        assert_eq!(snmp(namespace, "Tcp", "OutRsts"), 0);
        assert_eq!(snmp(namespace, "Tcp", "EstabResets"), 0);
        assert_eq!(snmp(namespace, "Tcp", "InErrs"), 0);
    }
    // A port that nobody listens on resets, and that is said.
    let rest = "--address 10.0.0.11/24 --server 10.0.0.2:81 --connections 5 --concurrent 2";
    let refused = report("tcp", &wire.ends(), rest);
    assert_eq!(number(&refused, "/other/reset"), 5, "{refused:#}");
    assert_eq!(number(&refused, "/other/finished"), 0);
}

#[test]
fn udp_requests_get_their_answers() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let wire = Wire::with_kernel();
    let socket = wire.right.run(|| UdpSocket::bind("10.0.0.2:53").unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..len], from).unwrap();
            }
        }
    });
    let rest = "--address 10.0.0.11/24 --server 10.0.0.2:53 --connections 300 --concurrent 4 --request 100 --response 100 --timeout 10s";
    let report = report("udp", &wire.ends(), rest);
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    assert_eq!(number(&report, "/other/finished"), 300, "{report:#}");
    assert_eq!(number(&report, "/other/received_bytes"), 30_000);
}

/// Answers a line that asks for it with a page, and closes: as servers of HTTP do, which wait for the line's end.
const PAGE: &str = "
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'x' * 5000)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(('10.0.0.2', 8000), Handler)
print('ready', flush=True)
server.serve_forever()
";

#[test]
fn a_web_server_is_asked_for_its_page() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let wire = Wire::with_kernel();
    let script = Scratch::new("page.py", PAGE);
    let mut server = wire.right.command("python3");
    let mut server = server.arg(script.text()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(server.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let mut arguments = vec!["tcp".to_owned()];
    arguments.extend(wire.ends());
    let rest = "--address 10.0.0.11/24 --server 10.0.0.2:8000 --connections 20 --concurrent 4 --response 1m --timeout 10s --json --quiet";
    arguments.extend(rest.split_whitespace().map(str::to_owned));
    arguments.extend(["--send".to_owned(), r"GET /page HTTP/1.0\r\n\r\n".to_owned()]);
    let report = finish(start(&arguments));
    server.kill().unwrap();
    server.wait().unwrap();
    let other = |name: &str| number(&report, &format!("/other/{name}"));
    assert_eq!((other("finished"), other("timed_out")), (20, 0), "{report:#}");
    assert!(other("received_bytes") > 20 * 5000, "{report:#}");
    assert_eq!(other("sent_bytes"), 20 * b"GET /page HTTP/1.0\r\n\r\n".len() as u64);
}

/// An interface that goes away under conversations ends them with a report too.
#[test]
fn conversations_whose_interface_is_gone_are_reported() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let wire = Wire::with_kernel();
    let mut arguments = vec!["tcp".to_owned()];
    arguments.extend(wire.ends());
    let rest =
        "--address 10.0.0.11/24 --server 10.0.0.77:80 --duration 60s --per-second 20 --json-lines";
    arguments.extend(rest.split_whitespace().map(str::to_owned));
    let mut child = start(&arguments);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    lines.next().unwrap().unwrap();
    netns::ip(&["-n", wire.left.name(), "link", "del", "l0"]).unwrap();
    let last = lines.map(Result::unwrap).last().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let report = serde_json::from_str::<Value>(&last).unwrap()["report"].take();
    schema::check(&report);
    assert_eq!(report["ended"], "failed");
    assert!(number(&report, "/other/opened") >= 1);
    assert!(report["warnings"].to_string().contains("interface l0: "), "{}", report["warnings"]);
}
