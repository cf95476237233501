//! Programs at the two ends of a measurement: one that offers load, one that answers it.
//!
//! Run by [`Program::run_live`] an offer sends 4 to 5 million frames a second from one CPU, or exactly as many as it is told to. Cost
//! a frame: some 40 instructions, and the clock where it is paced.

use super::*;

/// Bytes of an offered frame: the smallest that Ethernet allows, without its FCS.
pub const FRAME: usize = 60;

/// A load of UDP over IPv4: which frames, and how many a second.
///
/// Flow 0 is `frame`. Flow `f`, chosen by chance, has its destination address plus `f % services`, its source port xor the low 16
/// bits of `f`, and its source address xor the high 16 bits. Of addresses only the low 16 bits differ.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The frame of flow 0, [balanced](Offer::balance). Every byte up to the end of the UDP header is written anew for each packet: the
    /// kernel takes its pages up again as the last receiver left them.
    pub frame: [u8; FRAME],
    /// How many destination addresses there are: at least one.
    pub services: u16,
    /// Flows are the numbers whose bits are all in here: `0xff` for 256, `u32::MAX` for hardly ever the same twice.
    pub flows: u32,
    /// Frames a second; `None` is as many as this CPU can.
    pub rate: Option<f64>,
}

/// Where in the frame the words are that the program writes, and which make up for them in the checksums.
const SOURCE_LOW: i16 = 28;
const DESTINATION_LOW: i16 = 32;
const SOURCE_PORT: i16 = 34;
const IDENTIFICATION: i16 = 18;
const PAYLOAD: i16 = 42;

/// After a pause of more than this nothing is made up for: no burst.
const SLACK_NS: i32 = 50_000;

impl Offer {
    /// Sets two words of a frame whose addresses and ports are there, and whose checksums are still to be made: the IPv4
    /// identification and the first word of the payload make up for the words that differ between flows, so that the same checksums hold for
    /// all.
    pub fn balance(frame: &mut [u8; FRAME]) {
        let addresses = sum(word(frame, DESTINATION_LOW), word(frame, SOURCE_LOW));
        let all = sum(addresses, word(frame, SOURCE_PORT));
        for (at, sum) in [(IDENTIFICATION, addresses), (PAYLOAD, all)] {
            frame[at as usize..at as usize + 2].copy_from_slice(&(!sum).to_be_bytes());
        }
    }
}

fn word(frame: &[u8; FRAME], at: i16) -> u16 {
    u16::from_be_bytes([frame[at as usize], frame[at as usize + 1]])
}

/// In one's complement.
fn sum(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

impl Program {
    /// A load that leaves through `interface` when it is run by [`Program::run_live`].
    ///
    /// # Errors
    /// [`Error::Permission`], or what the kernel answers.
    pub fn offer(interface: &Interface, offer: &Offer) -> Result<Program, Error> {
        let mut code = Code::default();
        code.add(MOVE_REGISTER, 6, 1, 0, 0);
        // The program holds the map from here on.
        let _clock = match offer.rate {
            None => None,
            Some(rate) => Some(code.pace(rate)?),
        };
        code.flow(offer);
        code.add(MOVE, 1, 0, 0, interface.index() as i32);
        code.add(MOVE, 2, 0, 0, 0);
        code.add(CALL, 0, 0, 0, BPF_FUNC_REDIRECT);
        code.add(EXIT, 0, 0, 0, 0);
        Program::load(&code.finish())
    }

    /// Sends UDP over IPv4 (without options) back where it came from: MACs, addresses and ports swapped. The rest is dropped.
    ///
    /// # Errors
    /// [`Error::Permission`], or what the kernel answers.
    pub fn reflect() -> Result<Program, Error> {
        let mut code = Code::default();
        code.add(LOAD_WORD, 2, 1, XDP_MD_DATA, 0);
        code.add(LOAD_WORD, 3, 1, XDP_MD_DATA_END, 0);
        code.add(MOVE_REGISTER, 4, 2, 0, 0);
        code.add(ADD, 4, 0, 0, 42);
        code.drop_if(JUMP_GREATER, 4, 3, 0);
        code.add(LOAD_HALF, 4, 2, 12, 0);
        code.drop_if(JUMP_NOT_EQUAL, 4, 0, i32::from(0x0800_u16.to_be()));
        for (load, store, one, other) in [
            (LOAD_WORD, STORE_WORD, 0, 6),
            (LOAD_HALF, STORE_HALF, 4, 10),
            (LOAD_WORD, STORE_WORD, 26, 30),
            (LOAD_HALF, STORE_HALF, 34, 36),
        ] {
            code.add(load, 4, 2, one, 0);
            code.add(load, 5, 2, other, 0);
            code.add(store, 2, 5, one, 0);
            code.add(store, 2, 4, other, 0);
        }
        code.add(MOVE, 0, 0, 0, XDP_TX);
        code.add(EXIT, 0, 0, 0, 0);
        Program::load(&code.finish())
    }
}

/// Instructions, and which of them jump to the end, where the packet is dropped.
#[derive(Default)]
struct Code {
    instructions: Vec<Instruction>,
    to_drop: Vec<usize>,
}

impl Code {
    fn add(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction::new(code, destination, source, offset, immediate));
    }

    fn drop_if(&mut self, code: u8, destination: u8, source: u8, immediate: i32) {
        self.to_drop.push(self.instructions.len());
        self.add(code, destination, source, 0, immediate);
    }

    fn finish(mut self) -> Vec<Instruction> {
        let end = self.instructions.len();
        for &at in &self.to_drop {
            self.instructions[at].offset = (end - at - 1) as i16;
        }
        self.add(MOVE, 0, 0, 0, XDP_DROP);
        self.add(EXIT, 0, 0, 0, 0);
        self.instructions
    }

    /// Drops what comes before its time. The clock, in 256ths of a nanosecond, says when the next may go.
    fn pace(&mut self, rate: f64) -> Result<OwnedFd, Error> {
        let attributes =
            MapCreate { kind: BPF_MAP_TYPE_ARRAY, key_size: 4, value_size: 8, max_entries: 1 };
        let clock = make(BPF_MAP_CREATE, &attributes)
            .map_err(|source| refused("making a BPF map", source))?;
        let interval = (256e9 / rate).clamp(1.0, f64::from(i32::MAX)) as i32;
        self.add(CALL, 0, 0, 0, BPF_FUNC_KTIME_GET_NS);
        self.add(SHIFT_LEFT, 0, 0, 0, 8);
        // r2 = the clock's address, an instruction of two
        self.add(LOAD_WIDE, 2, BPF_PSEUDO_MAP_VALUE, 0, clock.as_raw_fd());
        self.add(0, 0, 0, 0, 0);
        self.add(LOAD_LONG, 1, 2, 0, 0);
        self.drop_if(JUMP_LESS, 0, 1, 0);
        self.add(ADD, 0, 0, 0, -256 * SLACK_NS);
        self.add(JUMP_GREATER_OR_EQUAL, 1, 0, 1, 0);
        self.add(MOVE_REGISTER, 1, 0, 0, 0);
        self.add(ADD, 1, 0, 0, interval);
        self.add(STORE_LONG, 2, 1, 0, 0);
        Ok(clock)
    }

    /// Chooses a flow and writes the frame's headers.
    fn flow(&mut self, offer: &Offer) {
        self.add(CALL, 0, 0, 0, BPF_FUNC_GET_PRANDOM_U32);
        self.add(AND, 0, 0, 0, offer.flows.cast_signed());
        // r7 = data
        self.add(LOAD_WORD, 7, 6, XDP_MD_DATA, 0);
        self.add(LOAD_WORD, 3, 6, XDP_MD_DATA_END, 0);
        self.add(MOVE_REGISTER, 4, 7, 0, 0);
        self.add(ADD, 4, 0, 0, FRAME as i32);
        self.drop_if(JUMP_GREATER, 4, 3, 0);
        let word = |at| i32::from(word(&offer.frame, at));
        let (words, _) = offer.frame[..PAYLOAD as usize + 2].as_chunks();
        for (at, bytes) in words.iter().enumerate() {
            self.add(STORE_IMMEDIATE, 7, 0, 4 * at as i16, i32::from_ne_bytes(*bytes));
        }
        // r1 = destination, r2 = source, r3 = port, as they stand in the frame
        self.add(MOVE_REGISTER, 1, 0, 0, 0);
        self.add(MODULO, 1, 0, 0, i32::from(offer.services.max(1)));
        self.add(ADD, 1, 0, 0, word(DESTINATION_LOW));
        self.add(MOVE_REGISTER, 2, 0, 0, 0);
        self.add(SHIFT_RIGHT, 2, 0, 0, 16);
        self.add(XOR, 2, 0, 0, word(SOURCE_LOW));
        self.add(MOVE_REGISTER, 3, 0, 0, 0);
        self.add(XOR, 3, 0, 0, word(SOURCE_PORT));
        for (register, at) in [(1, DESTINATION_LOW), (2, SOURCE_LOW), (3, SOURCE_PORT)] {
            self.add(TO_BIG_ENDIAN, register, 0, 0, 16);
            self.add(STORE_HALF, 7, register, at, 0);
        }
        // r4 = their one's complement sum: of the addresses for the IPv4 header, of all for UDP
        self.add(MOVE_REGISTER, 4, 1, 0, 0);
        for (register, at) in [(2, IDENTIFICATION), (3, PAYLOAD)] {
            self.add(ADD_REGISTER, 4, register, 0, 0);
            self.add(MOVE_REGISTER, 5, 4, 0, 0);
            self.add(SHIFT_RIGHT, 5, 0, 0, 16);
            self.add(AND, 4, 0, 0, 0xffff);
            self.add(ADD_REGISTER, 4, 5, 0, 0);
            self.add(MOVE_REGISTER, 5, 4, 0, 0);
            self.add(XOR, 5, 0, 0, -1);
            self.add(STORE_HALF, 7, 5, at, 0);
        }
    }
}

// Opcodes beside those of the other programs.
/// `BPF_LDX | BPF_MEM | BPF_H`.
const LOAD_HALF: u8 = 0x69;
/// `BPF_LDX | BPF_MEM | BPF_DW`.
const LOAD_LONG: u8 = 0x79;
/// `BPF_ST | BPF_MEM | BPF_W`.
const STORE_IMMEDIATE: u8 = 0x62;
/// `BPF_STX | BPF_MEM | BPF_W`.
const STORE_WORD: u8 = 0x63;
/// `BPF_STX | BPF_MEM | BPF_H`.
const STORE_HALF: u8 = 0x6b;
/// `BPF_STX | BPF_MEM | BPF_DW`.
const STORE_LONG: u8 = 0x7b;
/// `BPF_ALU64 | BPF_ADD | BPF_X`.
const ADD_REGISTER: u8 = 0x0f;
/// `BPF_ALU64 | BPF_LSH | BPF_K`.
const SHIFT_LEFT: u8 = 0x67;
/// `BPF_ALU64 | BPF_RSH | BPF_K`.
const SHIFT_RIGHT: u8 = 0x77;
/// `BPF_ALU64 | BPF_MOD | BPF_K`.
const MODULO: u8 = 0x97;
/// `BPF_ALU64 | BPF_XOR | BPF_K`.
const XOR: u8 = 0xa7;
/// `BPF_ALU | BPF_END | BPF_TO_BE`.
const TO_BIG_ENDIAN: u8 = 0xdc;
/// `BPF_JMP | BPF_JGE | BPF_X`.
const JUMP_GREATER_OR_EQUAL: u8 = 0x3d;
/// `BPF_JMP | BPF_JNE | BPF_K`.
const JUMP_NOT_EQUAL: u8 = 0x55;
/// `BPF_JMP | BPF_JLT | BPF_X`.
const JUMP_LESS: u8 = 0xad;

// `include/uapi/linux/bpf.h`.
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PSEUDO_MAP_VALUE: u8 = 2;
const BPF_FUNC_KTIME_GET_NS: i32 = 5;
const XDP_TX: i32 = 3;
