//! TCP: transfers whose every byte is compared by SHA-256, and HTTP.

use super::Server;
use crate::common::netns::Namespace;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A connection that hears nothing for this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const BLOCK: usize = 64 << 10;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    Up = 0,
    /// Server to client.
    Down = 1,
}

/// Serves transfers on `address` in `namespace` until dropped.
pub fn serve_transfers(namespace: &Namespace, address: SocketAddr) -> Server {
    serve(namespace, address, |mut stream| {
        let mut request = [0; 9];
        stream.read_exact(&mut request)?;
        let length = u64::from_be_bytes(request[1..].try_into().unwrap());
        let digest = if request[0] == Direction::Up as u8 {
            receive(&mut stream, length)?
        } else {
            send(&mut stream, length)?
        };
        stream.write_all(&digest)
    })
}

/// Moves `length` bytes over one connection; fails unless both ends hashed the same.
pub fn transfer(address: SocketAddr, direction: Direction, length: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    patient(&stream)?;
    let mut request = vec![direction as u8];
    request.extend(length.to_be_bytes());
    stream.write_all(&request)?;
    let here = match direction {
        Direction::Up => send(&mut stream, length)?,
        Direction::Down => receive(&mut stream, length)?,
    };
    let mut there = [0; 32];
    stream.read_exact(&mut there)?;
    if here == there {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{direction:?}: the bytes that arrived are not those that were sent"
    )))
}

/// Answers every HTTP request with `body` until dropped.
pub fn serve_http(namespace: &Namespace, address: SocketAddr, body: &'static str) -> Server {
    serve(namespace, address, move |mut stream| {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && request.len() < 8192 {
            stream.read_exact(&mut byte)?;
            request.push(byte[0]);
        }
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    })
}

/// One GET; answers the body.
pub fn get(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    patient(&stream)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::Error::other(format!("not an HTTP answer: {answer:?}")))
}

fn serve(
    namespace: &Namespace,
    address: SocketAddr,
    answer: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> Server {
    let listener = namespace.run(|| TcpListener::bind(address)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let answer = Arc::new(answer);
    let thread = namespace.spawn(move || {
        while !until.load(Ordering::Relaxed) {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                // The client sees a broken connection and fails its test.
                if let Err(why) = patient(&stream).and_then(|()| answer(stream)) {
                    eprintln!("server at {address}: {why}");
                }
            });
        }
    });
    Server::new(stop, thread)
}

fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Sends bytes that don't repeat within a transfer (a reordered or doubled block changes the hash).
fn send(stream: &mut TcpStream, length: u64) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = [0; BLOCK];
    let mut left = length;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let part = &block[..BLOCK.min(usize::try_from(left).unwrap_or(BLOCK))];
        hash.update(part);
        stream.write_all(part)?;
        left -= part.len() as u64;
    }
    Ok(hash.finalize().into())
}

fn receive(stream: &mut TcpStream, length: u64) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut block = [0; BLOCK];
    let mut left = length;
    while left > 0 {
        let want = BLOCK.min(usize::try_from(left).unwrap_or(BLOCK));
        let got = stream.read(&mut block[..want])?;
        if got == 0 {
            return Err(io::Error::other(format!("the connection ended {left} bytes early")));
        }
        hash.update(&block[..got]);
        left -= got as u64;
    }
    Ok(hash.finalize().into())
}
