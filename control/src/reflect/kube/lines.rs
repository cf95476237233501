//! Bytes as they come → lines. A watch is one JSON value a line.

/// Longer than any object that an API server stores (etcd's limit is 1.5 MiB, of protobuf).
const LONGEST: usize = 32 << 20;

/// The end of what has come, while it is no whole line yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

/// A line that never ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Lines {
    /// Takes bytes in, and gives out every line that they complete.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        mut line: impl FnMut(&[u8]),
    ) -> Result<(), TooLong> {
        let mut begin = 0;
        for end in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at) {
            let piece = bytes.get(begin..end).unwrap_or_default();
            if self.rest.is_empty() {
                line(piece);
            } else {
                self.rest.extend_from_slice(piece);
                line(&self.rest);
                self.rest.clear();
            }
            begin = end + 1;
        }
        self.rest.extend_from_slice(bytes.get(begin..).unwrap_or_default());
        if self.rest.len() > LONGEST { Err(TooLong) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_wherever_the_bytes_are_cut() {
        let text = b"one\ntwo and more\n\nfour\nunfinished";
        for size in 1..text.len() + 1 {
            let (mut lines, mut out) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                lines.take(piece, |line| out.push(line.to_vec())).unwrap();
            }
            assert_eq!(out, [&b"one"[..], b"two and more", b"", b"four"], "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; 1 << 20];
        let taken = (0..40).map(|_| lines.take(&piece, |_| {})).filter(Result::is_ok).count();
        assert_eq!(taken, 32);
    }
}
