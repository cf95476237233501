//! One place for conversations, each a TCP connection or a UDP request, from its beginning to its end.

use crate::cli::Tcp;
use crate::report::Mode;
use smoltcp::iface::{Context, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::IpEndpoint;
use std::net::IpAddr;
use std::time::Duration;

/// Bytes of a socket's buffer in each direction.
const BUFFER: usize = 16 * 1024;
/// What requests are made of, again and again.
pub(super) const REQUEST: [u8; 1024] = [b'm'; 1024];

/// What has become of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing new.
    Nothing,
    /// The server has accepted; over UDP, has answered.
    Established,
    /// It came to its proper end.
    Finished,
    /// The other side reset or refused it.
    Reset,
    /// It took too long.
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Free,
    Opening,
    Talking,
    Closing,
    /// Answered: what is left is to say so.
    Answered,
}

/// A place.
pub struct Conversation {
    handle: SocketHandle,
    udp: bool,
    stage: Stage,
    begun: Duration,
    server: Option<IpEndpoint>,
    /// Bytes of the request that were sent, and that are left.
    done: u64,
    to_send: u64,
    to_receive: u64,
    sent: u64,
    received: u64,
    last: tcp::State,
}

impl Conversation {
    /// A free place.
    pub fn new(mode: Mode, sockets: &mut SocketSet<'static>) -> Self {
        let udp = mode == Mode::Udp;
        let handle = if udp { sockets.add(udp_socket()) } else { sockets.add(tcp_socket()) };
        Self {
            handle,
            udp,
            stage: Stage::Free,
            begun: Duration::ZERO,
            server: None,
            done: 0,
            to_send: 0,
            to_receive: 0,
            sent: 0,
            received: 0,
            last: tcp::State::Closed,
        }
    }

    /// Whether there is none in it.
    pub fn is_free(&self) -> bool {
        self.stage == Stage::Free
    }

    /// When it began.
    pub fn begun(&self) -> Duration {
        self.begun
    }

    /// Bytes sent and received since the last call.
    pub fn take_bytes(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.sent), std::mem::take(&mut self.received))
    }

    /// Begins one; false if the stack refuses.
    pub fn begin(
        &mut self,
        sockets: &mut SocketSet<'static>,
        context: &mut Context,
        arguments: &Tcp,
        from: (IpAddr, u16),
        now: Duration,
    ) -> bool {
        let server = IpEndpoint::from(arguments.server);
        let local = IpEndpoint::new(from.0.into(), from.1);
        let begun = if self.udp {
            let socket = sockets.get_mut::<udp::Socket>(self.handle);
            *socket = udp_socket();
            socket.bind(local).is_ok()
        } else {
            let socket = sockets.get_mut::<tcp::Socket>(self.handle);
            // A fresh one: what the last left behind (its time-wait) is not waited for.
            *socket = tcp_socket();
            socket.connect(context, server, local).is_ok()
        };
        self.stage = if self.udp { Stage::Talking } else { Stage::Opening };
        self.begun = now;
        self.server = Some(server);
        self.done = 0;
        self.to_send = request(arguments).1;
        self.to_receive = arguments.response;
        self.last = tcp::State::SynSent;
        if !begun {
            self.stage = Stage::Free;
        }
        begun
    }

    /// Goes on with it.
    pub fn step(
        &mut self,
        sockets: &mut SocketSet<'static>,
        arguments: &Tcp,
        now: Duration,
    ) -> Step {
        match self.stage {
            Stage::Free => Step::Nothing,
            Stage::Answered => self.end(Step::Finished),
            _ if now.saturating_sub(self.begun) > arguments.timeout => {
                self.give_up(sockets);
                self.end(Step::TimedOut)
            }
            _ if self.udp => self.step_udp(sockets.get_mut(self.handle), arguments),
            _ => self.step_tcp(sockets.get_mut(self.handle), arguments),
        }
    }

    fn end(&mut self, step: Step) -> Step {
        self.stage = Stage::Free;
        step
    }

    /// Ends it at once: the server is told by a reset.
    pub fn give_up(&mut self, sockets: &mut SocketSet<'static>) {
        if self.udp {
            sockets.get_mut::<udp::Socket>(self.handle).close();
        } else {
            sockets.get_mut::<tcp::Socket>(self.handle).abort();
        }
    }

    fn step_tcp(&mut self, socket: &mut tcp::Socket<'static>, arguments: &Tcp) -> Step {
        use tcp::State;
        let state = socket.state();
        let before = std::mem::replace(&mut self.last, state);
        if state == State::Closed {
            // The last acknowledgement ends it; anything else that closes it at once is a reset.
            let proper = self.stage == Stage::Closing
                && matches!(before, State::LastAck | State::TimeWait | State::Closing);
            return self.end(if proper { Step::Finished } else { Step::Reset });
        }
        if self.stage == Stage::Opening {
            if !matches!(state, State::SynSent | State::SynReceived) {
                self.stage = Stage::Talking;
                return Step::Established;
            }
            return Step::Nothing;
        }
        while self.to_send > 0 && socket.can_send() {
            match socket.send_slice(self.next_bytes(arguments)) {
                Ok(n) if n > 0 => {
                    self.done += n as u64;
                    self.to_send -= n as u64;
                    self.sent += n as u64;
                }
                _ => break,
            }
        }
        while socket.can_recv() {
            match socket.recv(|bytes| (bytes.len(), bytes.len() as u64)) {
                Ok(n) if n > 0 => {
                    self.received += n;
                    self.to_receive = self.to_receive.saturating_sub(n);
                }
                _ => break,
            }
        }
        match self.stage {
            // The server closed before it had answered all: it is closed here too, and that is its end.
            Stage::Talking
                if self.to_send == 0 && self.to_receive == 0 || state == State::CloseWait =>
            {
                socket.close();
                self.last = socket.state();
                self.stage = Stage::Closing;
                Step::Nothing
            }
            // The acknowledgement of the server's end is on its way by now: it was sent in the turn that came to this state.
            Stage::Closing if state == State::TimeWait && before == State::TimeWait => {
                self.end(Step::Finished)
            }
            _ => Step::Nothing,
        }
    }

    /// What of the request is next, as far as its bytes go before they begin again.
    fn next_bytes<'a>(&self, arguments: &'a Tcp) -> &'a [u8] {
        let (bytes, _) = request(arguments);
        let from = (self.done % bytes.len().max(1) as u64) as usize;
        let left = bytes.get(from..).unwrap_or_default();
        left.get(..usize::try_from(self.to_send).unwrap_or(usize::MAX)).unwrap_or(left)
    }

    fn step_udp(&mut self, socket: &mut udp::Socket<'static>, arguments: &Tcp) -> Step {
        if self.to_send > 0
            && let Some(server) = self.server
            && socket.send_slice(self.next_bytes(arguments), server).is_ok()
        {
            self.sent += self.to_send;
            self.to_send = 0;
        }
        while let Ok((bytes, _)) = socket.recv() {
            self.received += bytes.len() as u64;
            self.to_receive = self.to_receive.saturating_sub(bytes.len().max(1) as u64);
        }
        if self.to_send == 0 && self.to_receive == 0 {
            socket.close();
            self.stage = Stage::Answered;
            return Step::Established;
        }
        Step::Nothing
    }
}

/// A request's bytes, which begin again where it is longer, and its length.
pub(super) fn request(arguments: &Tcp) -> (&[u8], u64) {
    match &arguments.send {
        Some(text) => (&text.0, text.0.len() as u64),
        None => (&REQUEST, arguments.request),
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket
}

fn udp_socket() -> udp::Socket<'static> {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    udp::Socket::new(buffer(), buffer())
}
