//! DIR-24-8 (Gupta, Lin, McKeown, 1998), the plain version: what the FIB's times are compared with.

use millrace_tables::synthetic::Route;

/// An entry with this bit leads to a group of 256 in the second table.
const LONG: u16 = 1 << 15;

pub struct Dir24 {
    short: Vec<u16>,
    long: Vec<u16>,
}

impl Dir24 {
    /// From IPv4 routes with leaves below 2^15.
    pub fn build(routes: &[Route]) -> Self {
        let mut sorted: Vec<_> = routes.to_vec();
        sorted.sort_by_key(|route| route.len);
        let mut table = Self { short: vec![0; 1 << 24], long: Vec::new() };
        for Route { bits, len, leaf } in sorted {
            let addr = (bits >> 96) as u32;
            if len <= 24 {
                let first = (addr >> 8) as usize;
                table.short[first..first + (1 << (24 - len))].fill(leaf as u16);
                continue;
            }
            let entry = &mut table.short[(addr >> 8) as usize];
            if *entry & LONG == 0 {
                let group = table.long.len() / 256;
                table.long.extend([*entry; 256]);
                *entry = LONG | group as u16;
            }
            let first = usize::from(*entry & !LONG) * 256 + (addr & 0xff) as usize;
            table.long[first..first + (1 << (32 - len))].fill(leaf as u16);
        }
        table
    }

    pub fn bytes(&self) -> usize {
        2 * (self.short.len() + self.long.len())
    }

    #[inline]
    pub fn lookup(&self, addr: u32) -> u16 {
        let entry = self.short[(addr >> 8) as usize];
        if entry & LONG == 0 {
            return entry;
        }
        self.long[usize::from(entry & !LONG) * 256 + (addr & 0xff) as usize]
    }

    /// The loop alone: the processor overlaps the misses of independent addresses by itself.
    pub fn lookup_many(&self, addrs: &[u32], leaves: &mut [u16]) {
        for (leaf, &addr) in leaves.iter_mut().zip(addrs) {
            *leaf = self.lookup(addr);
        }
    }
}
