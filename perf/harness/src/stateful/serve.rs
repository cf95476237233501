//! The server of the connection tests: the kernel's TCP and UDP, and the least that answers.
//!
//! One thread and epoll. A TCP connection gets back what it sent and is closed when the client has closed; a UDP datagram is sent back.

use rustix::event::epoll;
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Connections accepted in one go.
const AT_ONCE: usize = 64;

enum Socket {
    Listener(TcpListener),
    Datagrams(UdpSocket),
}

/// Serves these ports of all addresses until stopped; says on standard error when it is ready.
pub fn run(ports: &[u16], stop: &AtomicBool) -> Result<(), String> {
    let failed = |e: io::Error| e.to_string();
    let ring = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| e.to_string())?;
    let mut sockets = Vec::new();
    for port in ports {
        let any = (Ipv4Addr::UNSPECIFIED, *port);
        let named = |e: io::Error| format!("port {port}: {e}");
        let listener = TcpListener::bind(any).map_err(named)?;
        listener.set_nonblocking(true).map_err(failed)?;
        // The standard library's backlog is 128: a burst of connections would overflow it.
        rustix::net::listen(&listener, 65_535).map_err(|e| e.to_string())?;
        let datagrams = UdpSocket::bind(any).map_err(named)?;
        datagrams.set_nonblocking(true).map_err(failed)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&datagrams, 4 << 20)
            .map_err(|e| e.to_string())?;
        sockets.extend([Socket::Listener(listener), Socket::Datagrams(datagrams)]);
    }
    for (number, socket) in sockets.iter().enumerate() {
        let fd = match socket {
            Socket::Listener(listener) => listener.as_fd(),
            Socket::Datagrams(datagrams) => datagrams.as_fd(),
        };
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&ring, fd, data, epoll::EventFlags::IN).map_err(|e| e.to_string())?;
    }
    eprintln!("millrace-perf: serving");
    let mut open: HashMap<u64, TcpStream> = HashMap::new();
    let mut next = sockets.len() as u64;
    let mut buffer = vec![0; 64 * 1024];
    let mut events = Vec::with_capacity(256);
    let wait = rustix::time::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        match epoll::wait(&ring, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.to_string()),
        }
        for event in &events {
            let number = event.data.u64();
            match sockets.get(number as usize) {
                Some(Socket::Datagrams(datagrams)) => echo(datagrams, &mut buffer),
                Some(Socket::Listener(listener)) => {
                    for (stream, _) in (0..AT_ONCE).map_while(|_| listener.accept().ok()) {
                        let _ = stream.set_nonblocking(true);
                        let _ = stream.set_nodelay(true);
                        let data = epoll::EventData::new_u64(next);
                        if epoll::add(&ring, &stream, data, epoll::EventFlags::IN).is_ok() {
                            open.insert(next, stream);
                            next += 1;
                        }
                    }
                }
                None => {
                    let over =
                        open.get_mut(&number).is_none_or(|stream| !talk(stream, &mut buffer));
                    // Closing it takes it out of the set.
                    if over {
                        open.remove(&number);
                    }
                }
            }
        }
    }
    Ok(())
}

fn echo(datagrams: &UdpSocket, buffer: &mut [u8]) {
    for _ in 0..AT_ONCE {
        let Ok((len, from)) = datagrams.recv_from(buffer) else { return };
        let _ = datagrams.send_to(buffer.get(..len).unwrap_or_default(), from);
    }
}

/// Sends back what has come; false when it is over.
fn talk(stream: &mut TcpStream, buffer: &mut [u8]) -> bool {
    match stream.read(buffer) {
        Ok(0) => false,
        Ok(len) => stream.write_all(buffer.get(..len).unwrap_or_default()).is_ok(),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    #[test]
    fn what_is_sent_comes_back_over_both_and_the_end_is_answered() {
        // A port that is free for both just now.
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let server = std::thread::spawn(move || run(&[port], &flag));
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stream.write_all(b"request").unwrap();
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"request");
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut answer).unwrap(), 0);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(b"question", ("127.0.0.1", port)).unwrap();
        let mut answer = [0; 16];
        assert_eq!(socket.recv_from(&mut answer).unwrap().0, 8);
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap().unwrap();
    }
}
