//! The driver for files: frames are read from one capture and written to another.
//!
//! Time is the captures' own: [`next_time`](PcapQueue::next_time) says when the next frame was seen, the
//! run hands that over as `now`, and what is sent carries it. The same files give the same bytes in every
//! run. Reads and writes are buffered system calls: this driver is for tests and diagnosis, not for speed.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_xsk::{Frame, Pool, TxOffload, Umem};
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{Endianness, TsResolution};

use super::{Burst, Queue, QueueStatistics};
use crate::clock::Nanos;

/// Why a capture can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// The file can't be opened, made or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Not a capture of Ethernet frames in the classic format.
    #[error(
        "{path}: {why}; it must be a classic pcap file of Ethernet frames (editcap -F pcap converts others)"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// An interface made of files.
pub struct PcapQueue {
    umem: Arc<Umem>,
    reader: Option<(PathBuf, PcapReader<BufReader<File>>)>,
    ahead: Option<(Nanos, Vec<u8>)>,
    writer: Option<PcapWriter<BufWriter<File>>>,
    write_path: PathBuf,
    staged: Vec<Frame>,
    now: Nanos,
    invalid: u64,
    error: Option<PcapError>,
}

impl PcapQueue {
    /// Opens the files; without `read` nothing comes in, without `write` what is sent is thrown away.
    pub fn open(
        umem: Arc<Umem>,
        read: Option<&Path>,
        write: Option<&Path>,
    ) -> Result<Self, PcapError> {
        let mut resolution = TsResolution::MicroSecond;
        let reader = match read {
            None => None,
            Some(path) => {
                let file = File::open(path)
                    .map_err(|source| PcapError::Io { path: path.into(), source })?;
                let reader =
                    PcapReader::new(BufReader::new(file)).map_err(|e| format_error(path, e))?;
                if reader.header().datalink != DataLink::ETHERNET {
                    return Err(format_error(
                        path,
                        format!("holds {:?}", reader.header().datalink),
                    ));
                }
                resolution = reader.header().ts_resolution;
                Some((path.to_owned(), reader))
            }
        };
        let writer = match write {
            None => None,
            Some(path) => {
                let file = File::create(path)
                    .map_err(|source| PcapError::Io { path: path.into(), source })?;
                let header = PcapHeader {
                    version_major: 2,
                    version_minor: 4,
                    ts_correction: 0,
                    ts_accuracy: 0,
                    snaplen: 1 << 18,
                    datalink: DataLink::ETHERNET,
                    ts_resolution: resolution,
                    endianness: Endianness::Little,
                };
                let writer = PcapWriter::with_header(BufWriter::new(file), header)
                    .map_err(|e| format_error(path, e))?;
                Some(writer)
            }
        };
        let mut queue = Self {
            umem,
            reader,
            ahead: None,
            writer,
            write_path: write.map(Path::to_owned).unwrap_or_default(),
            staged: Vec::new(),
            now: 0,
            invalid: 0,
            error: None,
        };
        queue.read_ahead();
        Ok(queue)
    }

    /// When the next frame was captured; none at the end of input.
    pub fn next_time(&self) -> Option<Nanos> {
        self.ahead.as_ref().map(|(time, _)| *time)
    }

    /// Sets the time until which frames have come, and that frames sent from here on carry.
    pub fn set_now(&mut self, now: Nanos) {
        self.now = now;
    }

    /// Writes everything out. The first error of reading or writing, if there was one, is reported here.
    pub fn finish(mut self) -> Result<(), PcapError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if let Some(writer) = self.writer.take() {
            let path = self.write_path;
            writer.into_writer().flush().map_err(|source| PcapError::Io { path, source })?;
        }
        Ok(())
    }

    /// Takes the next packet of the file. A file that breaks off ends there, with an error at the end.
    fn read_ahead(&mut self) {
        self.ahead = None;
        let Some((path, reader)) = &mut self.reader else { return };
        match reader.next_packet() {
            None => {}
            Some(Ok(packet)) => {
                let time = Nanos::try_from(packet.timestamp.as_nanos()).unwrap_or(Nanos::MAX);
                self.ahead = Some((time, packet.data.into_owned()));
                return;
            }
            Some(Err(why)) => {
                let error = format_error(path, why);
                self.error.get_or_insert(error);
            }
        }
        self.reader = None;
    }

    fn write(&mut self, frame: &Frame) {
        let Some(writer) = &mut self.writer else { return };
        let mut bytes = Vec::with_capacity(frame.total_len());
        self.umem.for_each_segment(frame, |segment| bytes.extend_from_slice(segment));
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let packet = PcapPacket::new_owned(Duration::from_nanos(self.now), length, bytes);
        if let Err(why) = writer.write_packet(&packet) {
            let error = format_error(&self.write_path, why);
            self.error.get_or_insert(error);
        }
    }
}

fn format_error(path: &Path, why: impl ToString) -> PcapError {
    PcapError::Format { path: path.into(), why: why.to_string() }
}

impl Queue for PcapQueue {
    /// One frame a call, and only if its time has come: frames of several interfaces keep their order.
    fn receive(&mut self, pool: &mut Pool, burst: &mut Burst) {
        if burst.is_full() || self.next_time().is_none_or(|time| time > self.now) {
            return;
        }
        let bytes = self.ahead.take().map(|(_, bytes)| bytes).unwrap_or_default();
        match self.umem.store(&bytes, pool) {
            Some(frame) => burst.push(frame),
            None => self.invalid += 1,
        }
        self.read_ahead();
    }

    fn transmit(&mut self, frame: Frame, _offload: TxOffload) -> Result<(), Frame> {
        self.staged.push(frame);
        Ok(())
    }

    fn flush(&mut self, pool: &mut Pool) {
        for frame in std::mem::take(&mut self.staged) {
            self.write(&frame);
            pool.put(frame);
        }
    }

    fn statistics(&self) -> QueueStatistics {
        QueueStatistics { rx_invalid: self.invalid, ..QueueStatistics::default() }
    }

    fn finished(&self) -> bool {
        self.ahead.is_none()
    }
}
