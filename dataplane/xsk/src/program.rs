//! XDP programs of a few instructions: redirect all to the sockets, or drop all. For tests and benches, which need no
//! BPF compiler that way; the engine's own program decides what is ours and lives in `dataplane/ebpf`.
//!
//! Decides: native mode or an error, never generic mode. Needs CAP_BPF and CAP_NET_ADMIN (or root). The program goes
//! when its [`Link`] is dropped or the process ends.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use crate::{error::Error, interface::Interface};

mod traffic;

pub use traffic::{FRAME, Offer};

/// An XSKMAP: queue number → socket.
#[derive(Debug)]
pub struct SocketMap(OwnedFd);

impl SocketMap {
    /// A map for the queues 0 to `queues` − 1.
    ///
    /// # Errors
    /// [`Error::Permission`], or what the kernel answers.
    pub fn new(queues: u32) -> Result<SocketMap, Error> {
        let attributes = MapCreate {
            kind: BPF_MAP_TYPE_XSKMAP,
            key_size: 4,
            value_size: 4,
            max_entries: queues,
        };
        let made = make(BPF_MAP_CREATE, &attributes);
        made.map(SocketMap).map_err(|source| refused("making an XSKMAP", source))
    }

    /// Sends packets of the queue to the socket, which must be bound to that queue of the program's interface. A
    /// socket that is closed leaves the map by itself.
    ///
    /// # Errors
    /// What the kernel answers: E2BIG for a queue the map has no place for, EOPNOTSUPP for a socket that is not bound.
    pub fn insert(&self, queue: u32, socket: impl AsFd) -> Result<(), Error> {
        let value = socket.as_fd().as_raw_fd();
        let attributes = MapElement {
            map: self.0.as_raw_fd() as u32,
            padding: 0,
            key: std::ptr::from_ref(&queue) as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        };
        let done = bpf(BPF_MAP_UPDATE_ELEM, &attributes);
        done.map(drop).map_err(|source| refused("putting a socket into the XSKMAP", source))
    }
}

impl AsFd for SocketMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A loaded XDP program that takes multi-buffer packets (`xdp.frags`).
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// `bpf_redirect_map(map, rx queue, XDP_PASS)`: to the queue's socket, or to the kernel where there is none.
    ///
    /// # Errors
    /// [`Error::Permission`], or what the kernel answers.
    pub fn redirect(map: &SocketMap) -> Result<Program, Error> {
        let fd = map.0.as_raw_fd();
        Program::load(&[
            // r2 = context->rx_queue_index
            Instruction::new(LOAD_WORD, 2, 1, XDP_MD_RX_QUEUE_INDEX, 0),
            // r1 = map, an instruction of two
            Instruction::new(LOAD_WIDE, 1, BPF_PSEUDO_MAP_FD, 0, fd),
            Instruction::new(0, 0, 0, 0, 0),
            Instruction::new(MOVE, 3, 0, 0, XDP_PASS),
            Instruction::new(CALL, 0, 0, 0, BPF_FUNC_REDIRECT_MAP),
            Instruction::new(EXIT, 0, 0, 0, 0),
        ])
    }

    /// `XDP_DROP` for every packet: a sink that costs the receiver next to nothing.
    ///
    /// # Errors
    /// [`Error::Permission`], or what the kernel answers.
    pub fn drop_all() -> Result<Program, Error> {
        Program::returning(XDP_DROP)
    }

    /// `XDP_PASS` for every packet: makes a veth's other end take redirected and sent packets in native mode.
    ///
    /// # Errors
    /// [`Error::Permission`], or what the kernel answers.
    pub fn pass_all() -> Result<Program, Error> {
        Program::returning(XDP_PASS)
    }

    /// Runs the program on `count` copies of `frame` and does with each what it says (`BPF_F_TEST_XDP_LIVE_FRAMES`), as fast as
    /// this CPU can: some 4 million a second. Each call costs some 20 ms beside.
    ///
    /// # Errors
    /// [`Error::Permission`], or what the kernel answers; EINTR for a signal.
    pub fn run_live(&self, frame: &[u8], count: u32) -> Result<(), Error> {
        let attributes = TestRun {
            program: self.0.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat: count,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            ..TestRun::default()
        };
        match bpf(BPF_PROG_TEST_RUN, &attributes) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(refused("running an XDP program", error))
            }
            _ => Ok(()),
        }
    }

    fn returning(action: i32) -> Result<Program, Error> {
        Program::load(&[
            Instruction::new(MOVE, 0, 0, 0, action),
            Instruction::new(EXIT, 0, 0, 0, 0),
        ])
    }

    fn load(instructions: &[Instruction]) -> Result<Program, Error> {
        let attributes = ProgramLoad {
            kind: BPF_PROG_TYPE_XDP,
            instruction_count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            flags: BPF_F_XDP_HAS_FRAGS,
            expected_attach_type: BPF_XDP,
            ..ProgramLoad::default()
        };
        let made = make(BPF_PROG_LOAD, &attributes);
        made.map(Program).map_err(|source| refused("loading an XDP program", source))
    }

    /// Attaches the program in native mode.
    ///
    /// # Errors
    /// [`Error::ProgramBusy`], [`Error::NoNativeXdp`], [`Error::MtuTooLarge`], [`Error::NoInterface`],
    /// [`Error::Permission`], or what the kernel answers.
    pub fn attach(&self, interface: &Interface) -> Result<Link, Error> {
        let attributes = LinkCreate {
            program: self.0.as_raw_fd() as u32,
            interface: interface.index(),
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        };
        make(BPF_LINK_CREATE, &attributes).map(Link).map_err(|source| {
            let name = interface.name().to_owned();
            match source.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => Error::ProgramBusy { interface: name },
                Some(libc::EOPNOTSUPP) => Error::NoNativeXdp { interface: name },
                Some(libc::ERANGE) => Error::MtuTooLarge { interface: name },
                Some(libc::ENODEV | libc::ENXIO) => Error::NoInterface { name },
                _ => refused(&format!("attaching an XDP program to {name}"), source),
            }
        })
    }
}

/// An attached program; dropping it detaches.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Link {
    /// Detaches by a call of its own: closing the fd would not, as long as a child process that has not yet got to its
    /// exec holds a copy of it.
    fn drop(&mut self) {
        let attributes = LinkDetach { link: self.0.as_raw_fd() as u32 };
        // Fails only where the interface, and with it the attachment, is gone already.
        let _ = bpf(BPF_LINK_DETACH, &attributes);
    }
}

fn refused(what: &str, source: io::Error) -> Error {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            Error::Permission { what: "using BPF", capability: "CAP_BPF and CAP_NET_ADMIN" }
        }
        _ => Error::os(what, source),
    }
}

/// A command of `bpf(2)` that makes a kernel object.
fn make<T: Attributes>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: these commands return a new descriptor, closed on exec, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T: Attributes>(command: libc::c_long, attributes: &T) -> io::Result<RawFd> {
    let pointer = std::ptr::from_ref(attributes);
    // SAFETY: the kernel reads `size_of::<T>()` bytes of live attributes, and what their pointers lead to is alive:
    // the callers make them from values that they hold across this call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

/// One BPF instruction (`struct bpf_insn`, `include/uapi/linux/bpf.h`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the lower four bits, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(
        code: u8,
        destination: u8,
        source: u8,
        offset: i16,
        immediate: i32,
    ) -> Instruction {
        Instruction { code, registers: destination | source << 4, offset, immediate }
    }
}

// Opcodes, `include/uapi/linux/bpf_common.h` and `bpf.h`.
/// `BPF_LDX | BPF_MEM | BPF_W`.
const LOAD_WORD: u8 = 0x61;
/// `BPF_LD | BPF_IMM | BPF_DW`.
const LOAD_WIDE: u8 = 0x18;
/// `BPF_ALU64 | BPF_MOV | BPF_K`.
const MOVE: u8 = 0xb7;
/// `BPF_ALU64 | BPF_MOV | BPF_X`.
const MOVE_REGISTER: u8 = 0xbf;
/// `BPF_ALU64 | BPF_ADD | BPF_K`.
const ADD: u8 = 0x07;
/// `BPF_ALU64 | BPF_AND | BPF_K`.
const AND: u8 = 0x57;
/// `BPF_JMP | BPF_JGT | BPF_X`.
const JUMP_GREATER: u8 = 0x2d;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_JMP | BPF_EXIT`.
const EXIT: u8 = 0x95;

// The rest is of `include/uapi/linux/bpf.h`, but for the last, which is of `if_link.h`.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_PSEUDO_MAP_FD: u8 = 1;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const BPF_FUNC_GET_PRANDOM_U32: i32 = 7;
const BPF_FUNC_REDIRECT: i32 = 23;
const BPF_FUNC_REDIRECT_MAP: i32 = 51;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
/// Bytes from the start of `struct xdp_md` to each field.
const XDP_MD_DATA: i16 = 0;
const XDP_MD_DATA_END: i16 = 4;
const XDP_MD_RX_QUEUE_INDEX: i16 = 16;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// One of the structs of `union bpf_attr`, up to some field of it, without padding; the kernel takes the rest as
/// zero.
trait Attributes {}

impl Attributes for MapCreate {}
impl Attributes for MapElement {}
impl Attributes for ProgramLoad {}
impl Attributes for TestRun {}
impl Attributes for LinkCreate {}
impl Attributes for LinkDetach {}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(Default)]
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

#[derive(Default)]
#[repr(C)]
struct TestRun {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkDetach {
    link: u32,
}
