//! `millrace show`: the tables and the state of a running engine, as a table or as JSON.
//!
//! One file below for each thing that can be shown: it reads, sorts and names; how a table is laid out is
//! decided here. Everything comes from shared memory of another process, so nothing about it is relied on.

pub mod conntrack;
mod counters;
mod interfaces;
mod ledger;
mod neighbors;
mod policies;
mod receipts;
mod routes;
pub mod services;
mod workers;

#[cfg(test)]
mod fixture;

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use millrace_dataplane::clock::{Nanos, SECOND};
use millrace_wire::Addr;
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
    /// With conntrack: how many flows there are, and none of them
    #[arg(long)]
    totals: bool,
    /// With services: which version of each object is in which generation, and since when in every worker's hands
    #[arg(long)]
    receipts: bool,
    /// The control process's socket, for receipts [default: control.sock beside the engine's]
    #[arg(long, value_name = "PATH", requires = "receipts")]
    control_socket: Option<PathBuf>,
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
    /// Policies, with the flows that they allowed and denied
    Policies,
}

/// Columns that text for people is wrapped at.
const WIDTH: u16 = 100;

/// What is printed: paragraphs for people, and the same for programs.
struct View {
    parts: Vec<Part>,
    json: Value,
}

/// A paragraph.
enum Part {
    /// A table. `prose`: its last column is sentences, which may be wrapped; other tables never are, so that
    /// each cell can be searched for.
    Grid { headers: &'static [&'static str], rows: Vec<Vec<String>>, prose: bool },
    /// A line.
    Note(String),
}

/// Prints what was asked for.
pub fn run(options: &Options, socket: &Path) -> Result<(), String> {
    if options.receipts {
        let What::Services = options.what else {
            return Err("--receipts goes with services".into());
        };
        let path = options.control_socket.clone();
        return print(
            &receipts::view(&path.unwrap_or_else(|| socket.with_file_name("control.sock")))?,
            options,
        );
    }
    if options.totals && !matches!(options.what, What::Conntrack) {
        return Err("--totals goes with conntrack".into());
    }
    let engine = Engine::open(socket)?;
    let view = match options.what {
        What::Services => services::view(&engine),
        What::Routes => routes::view(&engine),
        What::Neighbors => neighbors::view(&engine)?,
        What::Interfaces => interfaces::view(&engine),
        What::Workers => workers::view(&engine),
        What::Counters => counters::view(&engine),
        What::Conntrack => conntrack::view(&engine, options.totals)?,
        What::Policies => policies::view(&engine)?,
    };
    print(&view, options)
}

fn print(view: &View, options: &Options) -> Result<(), String> {
    let text = if options.json {
        serde_json::to_string_pretty(&view.json).map_err(|e| e.to_string())?
    } else {
        view.text()
    };
    match writeln!(std::io::stdout(), "{text}") {
        // A reader that has seen enough (`| head`) is no error.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(()),
    }
}

impl View {
    fn text(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(Part::text).collect();
        parts.join("\n\n")
    }
}

impl Part {
    fn text(&self) -> String {
        let (headers, rows, prose) = match self {
            Self::Note(line) => return printable(line),
            Self::Grid { headers, rows, prose } => (*headers, rows, *prose),
        };
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(headers);
        for row in rows {
            table.add_row(row.iter().map(|cell| printable(cell)));
        }
        let arrangement =
            if prose { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.set_content_arrangement(arrangement).set_width(WIDTH);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            let mut cells = rows.iter().filter_map(|row| row.get(index));
            // A column of numbers reads from the right.
            if !rows.is_empty() && cells.all(|cell| cell == NONE || cell.parse::<i64>().is_ok()) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.trim_fmt()
    }
}

/// An empty cell.
const NONE: &str = "-";

/// `value`, or an empty cell.
fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// Names come from other processes: what could steer a terminal is shown as `?`.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

/// `203.0.113.2:40000`, `[2001:db8::1]:80`.
fn endpoint(addr: Addr, port: u16) -> String {
    std::net::SocketAddr::new(addr.to_ip(), port).to_string()
}

/// Whole seconds, rounded down, as Kubernetes prints durations: `30s`, `1m30s`, `1h0m5s`.
fn seconds(time: Nanos) -> String {
    let whole = time / SECOND;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn durations_read_like_kubernetes_durations() {
        let cases = [
            (0, "0s"),
            (999_999_999, "0s"),
            (30 * SECOND, "30s"),
            (60 * SECOND, "1m0s"),
            (90 * SECOND + 1, "1m30s"),
            (3605 * SECOND, "1h0m5s"),
            (432_000 * SECOND, "120h0m0s"),
        ];
        for (time, text) in cases {
            assert_eq!(seconds(time), text);
        }
    }

    #[test]
    fn numbers_align_right_and_nothing_frames_them() {
        let rows = [["eth0", "5", "1"], ["veth12", "1000", "-"]];
        let rows =
            rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        let grid = Part::Grid { headers: &["INTERFACE", "RX", "MAC"], rows, prose: false };
        let note = Part::Note("two interfaces".into());
        let view = View { parts: vec![grid, note], json: Value::Null };
        let text =
            "INTERFACE    RX  MAC\neth0          5    1\nveth12     1000    -\n\ntwo interfaces";
        assert_eq!(view.text(), text);
    }

    #[test]
    fn sentences_are_wrapped_at_a_hundred_columns_and_addresses_never() {
        let sentence = "A neighbor discovery message with a hop limit other than 255. ".repeat(4);
        let rows = vec![vec!["eth0".to_owned(), sentence]];
        let prose = Part::Grid { headers: &["INTERFACE", "MEANING"], rows, prose: true }.text();
        assert!(
            prose.lines().count() > 3 && prose.lines().all(|line| line.len() <= usize::from(WIDTH)),
            "{prose}"
        );

        let long = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".to_owned();
        let rows = vec![vec![long.clone(), long.clone(), long.clone()]];
        let plain = Part::Grid { headers: &["A", "B", "C"], rows, prose: false }.text();
        assert_eq!(plain.lines().nth(1), Some(format!("{long}  {long}  {long}").as_str()));
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let rows = vec![vec!["evil\u{1b}[2J\r".to_owned()]];
        let text = Part::Grid { headers: &["SERVICE"], rows, prose: false }.text();
        assert_eq!(text, "SERVICE\nevil?[2J?");
    }

    #[test]
    fn endpoints_of_both_families_are_unambiguous() {
        assert_eq!(endpoint(Addr::from_v4([10, 0, 1, 7]), 8080), "10.0.1.7:8080");
        assert_eq!(
            endpoint(Addr::from("fd00::1".parse::<std::net::Ipv6Addr>().unwrap()), 80),
            "[fd00::1]:80"
        );
    }
}
