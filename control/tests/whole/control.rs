//! The main loop, called turn by turn.

use millrace_control::{
    inbox::Event,
    run::{Control, Options, Overrides, RunError, SourceOptions},
    serve::ServeOptions,
};
use millrace_tables::SegmentConfig;

use crate::common::TempDir;

fn options(dir: &TempDir) -> Options {
    Options {
        source: SourceOptions::Manifests(dir.path().into()),
        engine: dir.path().join("engine.sock"),
        config_file: None,
        overrides: Overrides::default(),
        segment: SegmentConfig::default(),
        serve: ServeOptions::default(),
    }
}

#[test]
fn a_broken_thread_ends_the_process_with_an_error_and_a_stop_without() {
    let dir = TempDir::new();
    let (mut control, outbox) = Control::start(options(&dir)).unwrap();
    outbox.send(Event::Broken("following the API server: it panicked".into()));
    let error = loop {
        match control.turn() {
            Ok(true) => continue,
            other => break other,
        }
    };
    assert!(
        matches!(&error, Err(RunError::Broken(why)) if why.contains("it panicked")),
        "{error:?}"
    );
    outbox.send(Event::Stop);
    assert!(!control.turn().unwrap());
}
