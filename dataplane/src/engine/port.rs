//! The devices that the engine drives, each in its network namespace: their queues and their steering.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use millrace_tables::session;
use millrace_xsk::{BusyPoll, Mode, Pool, Socket, SocketConfig, Umem};
use tracing::{info, warn};

use super::{EngineError, umem};
use crate::config::{Config, Driver, ZeroCopy};
use crate::driver::xsk::XskQueue;
use crate::kernel::{self, Namespace, Trunk};
use crate::netdev::Netdev;
use crate::steer::{self, Steering};

/// Age of the last beat from which frames fall to the kernel.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// A device.
pub struct Port<'a> {
    /// Its name, where it is.
    pub name: &'a str,
    /// What the kernel says of it.
    pub netdev: Netdev,
    zero_copy: ZeroCopy,
    /// Where it is, if not in our own namespace: the engine's end of the trunk.
    inside: Option<&'a Namespace>,
    /// What control is told of: of a trunk it is the other end that it sees.
    told_index: u32,
}

/// The devices of the configuration.
pub fn uplinks<'a>(config: &'a Config, workers: usize) -> Result<Vec<Port<'a>>, EngineError> {
    let mut ports = Vec::new();
    for interface in &config.interfaces {
        let netdev = Netdev::read(&interface.name)?;
        let queues = netdev.rx_queues.min(netdev.tx_queues);
        if (queues as usize) < workers {
            return Err(EngineError::Queues { name: interface.name.clone(), queues, workers });
        }
        if netdev.rx_queues as usize > workers {
            // There the answers to a flow that the engine has translated would come past it, to a kernel that knows nothing of it.
            if config.mode == session::Mode::ServiceProxy {
                let queues = netdev.rx_queues;
                let name = interface.name.clone();
                return Err(EngineError::MoreQueues { name, queues, workers });
            }
            warn!(
                interface = interface.name,
                queues = netdev.rx_queues,
                workers,
                "more queues than workers: packets on the others go to the kernel; `ethtool -L {} combined {workers}` \
                 brings all to the engine",
                interface.name
            );
        }
        let zero_copy = match interface.driver {
            Driver::Xsk { zero_copy } => zero_copy,
            Driver::Pcap { .. } => ZeroCopy::Auto,
        };
        let told_index = netdev.index;
        ports.push(Port { name: &interface.name, netdev, zero_copy, inside: None, told_index });
    }
    Ok(ports)
}

impl<'a> Port<'a> {
    /// The engine's end of the trunk.
    pub fn of_trunk(trunk: &'a Trunk) -> Port<'a> {
        Port {
            name: kernel::INSIDE,
            netdev: trunk.netdev(),
            zero_copy: ZeroCopy::Never,
            inside: Some(trunk.inside()),
            told_index: trunk.kernel_end().0,
        }
    }

    /// The index of it that others know.
    pub fn told_index(&self) -> u32 {
        self.told_index
    }

    /// Runs `work` where the device is.
    fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, EngineError> + Send,
    ) -> Result<T, EngineError> {
        match self.inside {
            None => work(),
            Some(inside) => inside.run(work).map_err(EngineError::Io)?,
        }
    }

    /// Attaches the steering program.
    pub fn steer(
        &self,
        sockets: &[(u32, BorrowedFd<'_>)],
        mode: session::Mode,
    ) -> Result<Steering, EngineError> {
        let mode = match mode {
            // All that comes out of the kernel's end is for the engine.
            _ if self.inside.is_some() => steer::Mode::Router,
            session::Mode::Router => steer::Mode::Router,
            session::Mode::ServiceProxy => steer::Mode::ServiceProxy,
        };
        let options = steer::Options {
            mode,
            mac: self.netdev.mac,
            queues: self.netdev.rx_queues,
            stale_after: STALE_AFTER,
        };
        self.run(|| Ok(Steering::attach(self.name, self.netdev.index, sockets, &options)?))
    }

    fn bind(&self, config: &Config, queue: u32, umem: &Arc<Umem>) -> Result<Socket, EngineError> {
        let mode = match self.zero_copy {
            ZeroCopy::Always => Mode::ZeroCopy,
            ZeroCopy::Never => Mode::Copy,
            ZeroCopy::Auto => Mode::Auto,
        };
        let busy_poll =
            config.busy_poll_us.map(|microseconds| BusyPoll { microseconds, budget: 64 });
        let socket = self.run(|| {
            let device = millrace_xsk::Interface::named(self.name)?;
            let settings = SocketConfig { mode, busy_poll, ..SocketConfig::new(device, queue) };
            Ok(Socket::bind(&settings, umem)?)
        })?;
        let how = if socket.is_zero_copy() { "zero-copy" } else { "copy" };
        info!(interface = self.name, queue, mode = how, "queue opened");
        Ok(socket)
    }
}

/// One UMEM, and for each worker its queue on each device and the frames that are left.
pub fn open_queues(
    config: &Config,
    ports: &[Port<'_>],
) -> Result<(Vec<Vec<XskQueue>>, Vec<Pool>), EngineError> {
    let (workers, interfaces) = (config.cpus.len(), ports.len());
    let per_worker = config.frames / workers as u32;
    // Half of its frames may wait in fill rings; the other half is for what is under way.
    let fill = (per_worker / (2 * interfaces as u32)).min(2048);
    if fill < 16 {
        let least = 32 * (workers * interfaces) as u32;
        return Err(EngineError::Frames { frames: config.frames, workers, interfaces, least });
    }
    let (umem, frames) = Umem::new(&umem(config))?;
    let mut all = Pool::new(&umem, frames);
    let (mut queues, mut pools) = (Vec::new(), Vec::new());
    for worker in 0..workers {
        let mut pool = if worker + 1 == workers {
            all.split(all.len())
        } else {
            all.split(per_worker as usize)
        };
        let mut of_worker = Vec::new();
        for port in ports {
            let socket = port.bind(config, worker as u32, &umem)?;
            of_worker.push(XskQueue::new(socket, fill, &mut pool));
        }
        queues.push(of_worker);
        pools.push(pool);
    }
    Ok((queues, pools))
}

/// How packets come from device `port`, by the queues of all workers.
pub fn mode(queues: &[Vec<XskQueue>], port: usize) -> &'static str {
    let of_port = || queues.iter().filter_map(|of_worker| of_worker.get(port));
    mode_of(of_port().map(XskQueue::is_zero_copy))
}

fn mode_of(zero_copy: impl Iterator<Item = bool> + Clone) -> &'static str {
    let mut both = zero_copy.clone();
    match (both.clone().any(|zero_copy| zero_copy), both.any(|zero_copy| !zero_copy)) {
        (true, true) => "mixed",
        (true, false) => "zero-copy",
        (false, true) => "copy",
        (false, false) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::mode_of;

    #[test]
    fn a_device_is_in_the_mode_that_all_its_queues_are_in() {
        let of = |queues: &[bool]| mode_of(queues.iter().copied());
        assert_eq!(of(&[true, true]), "zero-copy");
        assert_eq!(of(&[false]), "copy");
        assert_eq!(of(&[true, false]), "mixed");
        assert_eq!(of(&[]), "");
    }
}
