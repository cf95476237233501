//! The configuration file while the process runs.
//!
//! Decides which of a later version's words take effect at once, and says each problem once. Leaves to [`crate::config`] what the words
//! mean.

use std::collections::BTreeSet;

use super::Options;
use crate::config::{Config, Problem};

/// The configuration in force, and what has been said about it.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) config: Config,
    /// It has been read once.
    begun: bool,
    problems: BTreeSet<Problem>,
}

impl Reading {
    /// Reads the file, and puts the flags into what it says.
    pub(super) fn read(&mut self, options: &Options) {
        let Some(path) = &options.config_file else {
            self.config = options.overrides.apply(Config::default());
            return;
        };
        let (config, problems) = Config::read(path, &self.config);
        let mut config = options.overrides.apply(config);
        // The source follows this Node since the start: another name waits for the next one, as another source does.
        if self.begun {
            config.node = self.config.node.take();
        }
        self.begun = true;
        self.config = config;
        self.say(problems, |problem| !problem.is_about_interfaces());
    }

    /// Logs the problems that are new; `of` tells which of the known ones this source speaks for.
    pub(super) fn say(&mut self, problems: Vec<Problem>, of: impl Fn(&Problem) -> bool) {
        let now: BTreeSet<Problem> = problems.into_iter().collect();
        for problem in now.difference(&self.problems) {
            tracing::warn!("{problem}");
        }
        self.problems.retain(|problem| !of(problem));
        self.problems.extend(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        run::{Overrides, SourceOptions},
        serve::ServeOptions,
    };
    use millrace_tables::SegmentConfig;

    #[test]
    fn another_node_waits_for_the_next_start_and_the_rest_does_not() {
        let file =
            std::env::temp_dir().join(format!("millrace-reading-{}.toml", std::process::id()));
        let options = Options {
            source: SourceOptions::Manifests("/nowhere".into()),
            engine: "/nowhere".into(),
            config_file: Some(file.clone()),
            overrides: Overrides::default(),
            segment: SegmentConfig::default(),
            serve: ServeOptions::default(),
        };
        let mut reading = Reading::default();
        let mut read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            reading.read(&options);
            (reading.config.node.clone(), reading.config.masquerade_all)
        };
        let node = || Some("node-a".to_owned());
        assert_eq!(read("node = 'node-a'"), (node(), false));
        assert_eq!(read("node = 'node-b'\nmasquerade_all = true"), (node(), true));
        assert_eq!(read(""), (node(), false));
        std::fs::remove_file(&file).unwrap();
        let mut nameless = Reading::default();
        std::fs::write(&file, "").unwrap();
        nameless.read(&options);
        std::fs::write(&file, "node = 'node-b'").unwrap();
        nameless.read(&options);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(nameless.config.node, None);
    }
}
