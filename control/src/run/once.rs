//! Manifests → rows, once and without an engine.

use std::{path::Path, sync::Arc};

use millrace_tables::{InterfaceSpec, ServiceSpec};

use super::RunError;
use crate::{
    compile::{Compiler, interfaces},
    config::Config,
    reflect::files,
    store::Store,
    world::World,
};

/// Compiles everything once, without an engine: what an image file holds.
pub fn once(
    manifests: &Path,
    config: &Config,
    interfaces: Vec<InterfaceSpec>,
) -> Result<Once, RunError> {
    let mut store = Store::new();
    let problems = files::read_dir(manifests, &mut store)?;
    let (world, config_problems) = interfaces::world(interfaces, config, &store);
    let world = Arc::new(world);
    let mut compiler = Compiler::new();
    compiler.update(&mut store, &world);
    let problems = problems
        .iter()
        .map(ToString::to_string)
        .chain(config_problems.iter().map(ToString::to_string))
        .collect();
    Ok(Once { compiler, world, problems })
}

/// What [`once`] brings.
#[derive(Debug)]
pub struct Once {
    /// Holds the rows.
    pub compiler: Compiler,
    /// What they were compiled against.
    pub world: Arc<World>,
    /// What is not in force.
    pub problems: Vec<String>,
}

impl Once {
    /// The service rows by key.
    pub fn services(&self) -> &std::collections::BTreeMap<String, Arc<ServiceSpec>> {
        self.compiler.services()
    }
}
