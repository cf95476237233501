//! Where a result goes.

use crate::results::Certificate;
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where results go.
#[derive(Args, Clone, Debug)]
pub struct Output {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Write the result to this file
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// No progress
    #[arg(long, short)]
    pub quiet: bool,
}

impl Output {
    /// Fails where the result could not be written: better before it is measured than after.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(path) = &self.output else { return Ok(()) };
        if path.is_dir() {
            return Err(format!("--output {}: it is a folder", path.display()));
        }
        let part = part_of(path);
        let error = |e: std::io::Error| format!("--output {}: {e}", path.display());
        std::fs::File::create(&part).map_err(error)?;
        std::fs::remove_file(&part).map_err(error)
    }

    pub(super) fn put(&self, certificate: &Certificate) -> Result<(), String> {
        let text = serde_json::to_string_pretty(certificate).map_err(|e| e.to_string())? + "\n";
        let written = self.output.as_deref().map_or(Ok(()), |path| write(path, &text));
        // What took hours is not lost for a disk that has become full meanwhile.
        let said = match self.json || written.is_err() {
            true => say(&text),
            false => say(&crate::table::of(certificate)),
        };
        match (written, said) {
            (Err(why), Ok(())) => Err(format!("{why}; the result is on standard output instead")),
            (Err(why), Err(also)) => Err(format!("{why}; {also}")),
            (Ok(()), said) => said,
        }
    }
}

/// Prints it, or says why it can't.
fn say(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| format!("standard output: {e}"))
}

/// Writes a file whole: a reader never sees half of it.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    let error = |e: std::io::Error| format!("{}: {e}", path.display());
    let part = part_of(path);
    let written = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written.map_err(error)
}

fn part_of(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}
