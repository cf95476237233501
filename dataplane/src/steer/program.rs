//! The steering program in the kernel, loaded and not yet attached to anything.
//!
//! Decides: how the compiled object is loaded and its maps filled. Leaves to [`super::Steering`]: the interface.

use super::maps::{self, Handles, MapFailure, Maps, Settings, Statistics};
use super::{Error, Options, explain_load};
use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

const NAME: &str = "millrace_steer";

/// The compiled program, 8-byte aligned as an ELF reader wants it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/millrace.bpf.o"));

/// What the program says about one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// To the queue's socket.
    Redirected,
    /// To the kernel: not ours.
    Passed,
    /// To the kernel: ours, but nobody has beaten lately.
    Stale,
    /// To the kernel: ours, but the queue has no socket.
    Unbound,
}

/// A loaded program with its own maps.
pub struct Program {
    loaded: Ebpf,
    pub(super) maps: Maps,
}

impl Program {
    /// Loads it with what it has to know; `interface` is for error messages.
    pub fn load(interface: &str, options: &Options) -> Result<Self, Error> {
        let load = |source| explain_load(interface, source);
        let map = |source| Error::Map { interface: interface.into(), source };
        let mut loader = EbpfLoader::new();
        let loaded = loader.map_max_entries(maps::XSKS, options.queues.max(1)).load(OBJECT);
        let mut loaded = loaded.map_err(load)?;
        let mut maps = Maps::adopt(Handles::take(&mut loaded).map_err(map)?).map_err(map)?;
        maps.set_settings(&Settings::from(options)).map_err(map)?;
        let mut program = Self { loaded, maps };
        program.xdp().and_then(|xdp| xdp.load()).map_err(|source| load(source.into()))?;
        Ok(program)
    }

    /// The maps that steer it.
    pub fn maps(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// Runs the program in the kernel on one frame (14 bytes or more) as if it came in on queue 0 of the
    /// namespace's loopback device (`BPF_PROG_TEST_RUN`); it goes nowhere, but is counted.
    pub fn decide(&mut self, frame: &[u8]) -> Result<Decision, DecideError> {
        let before = self.maps.statistics()?;
        let xdp = self.xdp()?;
        xdp.test_run(TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() })?;
        let after = self.maps.statistics()?;
        let grown = |count: fn(&Statistics) -> u64| count(&after) > count(&before);
        match (
            grown(|s| s.redirected),
            grown(|s| s.passed),
            grown(|s| s.stale),
            grown(|s| s.unbound),
        ) {
            (true, false, false, false) => Ok(Decision::Redirected),
            (false, true, false, false) => Ok(Decision::Passed),
            (false, false, true, false) => Ok(Decision::Stale),
            (false, false, false, true) => Ok(Decision::Unbound),
            _ => Err(DecideError::Disturbed),
        }
    }

    pub(super) fn xdp(&mut self) -> Result<&mut Xdp, ProgramError> {
        self.loaded.program_mut(NAME).ok_or(ProgramError::NotLoaded)?.try_into()
    }
}

/// Why the program said nothing about a frame.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// The kernel did not run it.
    #[error("running the steering program on a frame: {0}")]
    Run(#[from] ProgramError),
    /// Its counters could not be read.
    #[error(transparent)]
    Map(#[from] MapFailure),
    /// Other frames were counted at the same time: the program is attached.
    #[error("the steering program saw other frames meanwhile; ask one that is not attached")]
    Disturbed,
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
