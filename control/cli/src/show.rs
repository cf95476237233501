//! `millrace show`: the tables and the state of a running engine, as a table or as JSON.

pub mod conntrack;
mod counters;
mod interfaces;
mod neighbors;
mod routes;
pub mod services;
mod workers;

use std::path::Path;

use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::Value;

use crate::live::Engine;

/// What to show.
#[derive(Args)]
pub struct Options {
    /// Which table
    what: What,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Frontends and their backends
    Services,
    /// Prefixes and where they lead
    Routes,
    /// MAC addresses of stations on the link
    Neighbors,
    /// The engine's interfaces with their counters
    Interfaces,
    /// Worker threads
    Workers,
    /// The drop ledger: what became of every packet received
    Counters,
    /// Tracked connections
    Conntrack,
}

/// A table for people and the same for programs.
pub struct View {
    headers: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// Below the table.
    notes: Vec<String>,
    json: Value,
}

/// Prints what was asked for.
pub fn run(options: &Options, socket: &Path) -> Result<(), String> {
    let engine = Engine::open(socket)?;
    let view = match options.what {
        What::Services => services::view(&engine),
        What::Routes => routes::view(&engine),
        What::Neighbors => neighbors::view(&engine)?,
        What::Interfaces => interfaces::view(&engine),
        What::Workers => workers::view(&engine),
        What::Counters => counters::view(&engine),
        What::Conntrack => conntrack::view(&engine)?,
    };
    let text = if options.json {
        serde_json::to_string_pretty(&view.json).map_err(|e| e.to_string())?
    } else {
        view.text()
    };
    // A reader that has seen enough (`| head`) is no error.
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

impl View {
    fn text(&self) -> String {
        let mut table = Table::new();
        table.load_preset(NOTHING).set_header(&self.headers);
        for row in &self.rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        // A column of numbers reads from the right.
        for index in 0..self.headers.len() {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            let numeric = !self.rows.is_empty() && cells.clone().all(|cell| cell.parse::<u64>().is_ok());
            if let Some(column) = table.column_mut(index).filter(|_| numeric) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = table.trim_fmt();
        for note in &self.notes {
            text.push('\n');
            text.push_str(note);
        }
        text
    }
}
