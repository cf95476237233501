//! A tables segment as a file: one generation, for `--tables FILE` and for reports.
//!
//! The file has the segment's size and its holes. It is read into a sealed memfd, not mapped: a file could be truncated under
//! its reader.

use crate::{
    error::Error,
    layout::{self, header},
    shm::{Seals, Segment, WORD},
    tables::{Snapshot, Tables},
    trie,
    writer::Writer,
};
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

/// Bytes copied at a time.
const CHUNK: usize = 1 << 20;

/// Calls `each` with every piece of `file` that has data, and its offset.
fn data(
    file: &File,
    bytes: u64,
    mut each: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut end = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(end)) {
            Ok(start) if start < bytes => start,
            Ok(_) | Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        end = seek(file, SeekFrom::Hole(start))?.min(bytes);
        let mut at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let got = file.read_at(&mut buffer[..want], at)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            each(&buffer[..got], at)?;
            at += got as u64;
        }
    }
}

impl Tables {
    /// Writes the generation of `snapshot` (which has to be of these tables) to a file, replacing it whole.
    pub fn write_image(&self, snapshot: &Snapshot<'_>, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::File { path: path.display().to_string(), source };
        let copy = || -> io::Result<()> {
            let from = File::from(self.segment().fd().try_clone_to_owned()?);
            let bytes = (self.segment().words().len() * WORD) as u64;
            let beside = path.with_extension("partial");
            let to = File::create(&beside)?;
            to.set_len(bytes)?;
            data(&from, bytes, |piece, at| to.write_all_at(piece, at))?;
            // A generation published meanwhile isn't whole in the file.
            to.write_all_at(
                &u64::from(snapshot.root().raw()).to_ne_bytes(),
                (header::ROOT * WORD) as u64,
            )?;
            to.sync_all()?;
            std::fs::rename(beside, path)
        };
        copy().map_err(failed)
    }

    /// Reads an image into memory of its own. Checked as a segment from another process is.
    pub fn open_image(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File { path: path.display().to_string(), source };
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut magic = [0; WORD];
        file.read_exact_at(&mut magic, 0).map_err(failed)?;
        let found = u64::from_ne_bytes(magic);
        if found != layout::MAGIC {
            return Err(Error::Magic { what: "tables", found, want: layout::MAGIC });
        }
        if !bytes.is_multiple_of(4096) || bytes > trie::MAX_BYTES {
            return Err(Error::Size { bytes, want: 4096 });
        }
        let segment = Segment::create(
            "millrace-image",
            usize::try_from(bytes).unwrap_or(0),
            Seals::OneWriter,
        )?;
        let words = segment.words();
        data(&file, bytes, |piece, at| {
            // Extents and chunks are whole pages, so pieces are whole words but for a read that was cut short,
            // whose rest then comes with the next piece: refuse that rather than shift the words.
            if piece.len() % WORD != 0 || at % WORD as u64 != 0 {
                return Err(io::Error::other("read in pieces that are no whole words"));
            }
            for (index, word) in piece.chunks_exact(WORD).enumerate() {
                let value = word.try_into().map_or(0, u64::from_ne_bytes);
                if let Some(place) = words.get(at as usize / WORD + index) {
                    place.store(value, Ordering::Relaxed);
                }
            }
            Ok(())
        })
        .map_err(failed)?;
        Self::over(Arc::new(segment))
    }
}

impl Writer {
    /// Writes the published generation to a file.
    pub fn write_image(&self, path: &Path) -> Result<(), Error> {
        let tables = self.tables();
        tables.write_image(&tables.snapshot(), path)
    }
}
