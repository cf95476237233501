//! What surrounds the services: the engine's interfaces, and the kernel's network where it needs that.
//!
//! Decides whether enough of it is known to compile against. A kernel is followed from the first engine on that works beside one.

use std::{io, time::Duration};

use millrace_tables::session::Mode;

use super::Control;
use crate::{
    compile::{interfaces, kernel},
    config::Problem,
    inbox::Outbox,
    kernel::{Change, Kernel},
    publish::Engine,
    reflect::netlink,
    world::World,
};

/// An engine makes a device for itself and greets us; that the kernel has told us of the device may be a moment behind. After so long
/// the world is made without it, and the device named.
const ARRIVAL: Duration = Duration::from_secs(2);

/// What is known of the kernel's network. An engine that owns its addresses needs none of it.
pub(super) enum Mirror {
    Off,
    /// Asked for; the first answer is on its way.
    Waiting,
    On(Box<Kernel>),
}

impl Mirror {
    /// Begins to follow the kernel where this engine needs it.
    pub(super) fn need(&mut self, engine: &Engine, outbox: &Outbox) -> io::Result<()> {
        if engine.mode == Mode::ServiceProxy && matches!(self, Mirror::Off) {
            netlink::start(outbox.clone())?;
            *self = Mirror::Waiting;
        }
        Ok(())
    }

    fn has_devices_of(&self, engine: &Engine) -> bool {
        let Mirror::On(kernel) = self else { return false };
        engine.interfaces.iter().all(|it| kernel.links.contains_key(&it.index))
    }
}

impl Control {
    /// Takes in what the kernel has said. False when it bears on nothing.
    pub(super) fn take_kernel(&mut self, changes: Vec<Change>) -> bool {
        if !matches!(self.mirror, Mirror::On(_)) {
            self.mirror = Mirror::On(Box::default());
            self.world = None;
        }
        let Mirror::On(kernel) = &mut self.mirror else { return false };
        let mut differs = false;
        for change in changes {
            differs |= kernel.take(change);
        }
        if differs {
            self.world = None;
        }
        self.world.is_none()
    }

    /// Whether what surrounds the services is known.
    pub(super) fn has_world(&self) -> bool {
        let Some((engine, since)) = &self.engine else { return false };
        match (&self.mirror, engine.mode) {
            (_, Mode::Router) => true,
            (Mirror::On(_), Mode::ServiceProxy) => {
                self.mirror.has_devices_of(engine) || since.elapsed() >= ARRIVAL
            }
            (Mirror::Off | Mirror::Waiting, Mode::ServiceProxy) => false,
        }
    }

    /// What surrounds the services, and what of the configuration and the kernel can't be used there.
    pub(super) fn surroundings(&self) -> (World, Vec<Problem>) {
        let (config, store) = (&self.config.config, &self.store);
        match (&self.engine, &self.mirror) {
            (Some((engine, _)), Mirror::On(mirror)) if engine.mode == Mode::ServiceProxy => {
                kernel::world(&engine.interfaces, mirror, config, store)
            }
            (Some((engine, _)), _) => {
                let specs = engine.interfaces.iter().map(|it| it.spec.clone()).collect();
                interfaces::world(specs, config, store)
            }
            (None, _) => interfaces::world(Vec::new(), config, store),
        }
    }
}
