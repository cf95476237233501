//! `millrace explain`: what would happen to a packet, and why.
//!
//! Offline, objects from files (or a script) are compiled into tables by control's own code and packets
//! run through the engine's own pipeline in this process ([`sandbox`]). Live, the same pipeline runs on a
//! running engine's tables and a copy of nothing else: it sees no flow of the engine and leaves none behind.

mod answer;
mod flow;
mod narrate;
mod policy;
mod packet;
mod sandbox;
mod script;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use millrace_control::compile::node::NodeOptions;
use millrace_control::run::Overrides;
use millrace_control::{
    Compiler, Refusal, Store, World, apply, compile, config, engine_file, reflect,
};
use millrace_tables::writer::Readers;
use millrace_tables::{InterfaceSpec, RouteSpec, SegmentConfig, Tables, Writer};
use millrace_wire::Addr;
use serde_json::{Value, json};

use crate::live;
use answer::Answer;
use flow::{Ask, BadLine};
use sandbox::Sandbox;
use script::{Line, Show};

/// What can be asked.
#[derive(Args)]
pub struct Options {
    /// PROTOCOL SOURCE:PORT DESTINATION:PORT, such as: tcp 203.0.113.2:40000 172.30.0.41:80
    #[arg(num_args = 3, value_names = ["PROTOCOL", "SOURCE", "DESTINATION"], conflicts_with_all = ["flows", "script"])]
    flow: Vec<String>,
    /// Where it enters: uplink, uplink:NAME, host, pod:NAMESPACE/NAME or interface:NAME
    #[arg(long, requires = "flow")]
    from: Option<String>,
    /// Kubernetes objects as YAML or JSON files; without, a running engine is asked
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// The engine's configuration, whose interfaces packets enter and leave by
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Control's configuration, for its routes and neighbors
    #[arg(long, value_name = "FILE", requires = "config")]
    control_config: Option<PathBuf>,
    /// The Node object whose packets are explained; beside --config only whose endpoints are local
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    options: NodeOptions,
    /// One flow a line, as JSON; - reads standard input
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "script")]
    flows: Option<PathBuf>,
    /// A history, line by line on one engine: objects, delete, flow, advance, show; - reads standard input
    #[arg(long, value_name = "FILE.jsonl")]
    script: Option<PathBuf>,
    /// Print JSON also on a terminal
    #[arg(long)]
    json: bool,
}

/// Answers everything asked. False if a line could not be answered.
pub fn run(options: &Options, socket: &Path) -> Result<bool, String> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let offline =
        options.manifests.is_some() || options.script.is_some() || options.config.is_some();
    if !offline && options.node.is_some() {
        return Err(
            "--node needs --manifests DIR or --script FILE, where the Node object is".into()
        );
    }
    let mut source = if offline { Source::files(options)? } else { Source::live(socket)? };
    if let Some(path) = &options.script {
        return history(path, options, &mut source, &mut out);
    }
    if let Some(path) = &options.flows {
        let mut good = true;
        for line in lines(path)? {
            let answer = match Ask::parse(&line?) {
                Ok(ask) => source.fresh_answer(&ask)?,
                Err(bad) => refuse(bad),
            };
            good &= print(&mut out, &answer)?;
        }
        return Ok(good);
    }
    let [protocol, src, dst] = options.flow.as_slice() else {
        return Err("nothing was asked: give PROTOCOL SOURCE DESTINATION, --flows FILE or --script FILE (see --help)".into());
    };
    let answer = match flow::from_words(protocol, src, dst, options.from.as_deref()) {
        Ok(flow) => source.fresh_answer(&Ask::Forward(flow))?,
        Err(error) => refuse(BadLine { id: Value::Null, error }),
    };
    if options.json || !std::io::stdout().is_terminal() {
        return print(&mut out, &answer);
    }
    out.write_all(readable(&answer).as_bytes()).map_err(|e| e.to_string())?;
    Ok(matches!(answer, Answer::Outcomes { .. }))
}

fn refuse(bad: BadLine) -> Answer {
    Answer::Error { id: bad.id, error: bad.error }
}

/// Prints one line. False for an error.
fn print(out: &mut impl Write, answer: &Answer) -> Result<bool, String> {
    write_line(out, answer)?;
    Ok(matches!(answer, Answer::Outcomes { .. }))
}

fn write_line(out: &mut impl Write, value: &impl serde::Serialize) -> Result<(), String> {
    let line = serde_json::to_string(value).map_err(|e| e.to_string())?;
    // Who reads answers one by one does not wait for a buffer to fill.
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| e.to_string())
}

/// The lines of a file that are not blank.
fn lines(path: &Path) -> Result<impl Iterator<Item = Result<String, String>>, String> {
    let name = path.display().to_string();
    let reader: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).map_err(|e| format!("{name}: {e}"))?))
    };
    let lines = reader.lines().map(move |line| line.map_err(|e| format!("{name}: {e}")));
    Ok(lines.filter(|line| !line.as_ref().is_ok_and(|text| text.trim().is_empty())))
}

fn readable(answer: &Answer) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = match answer {
        Answer::Error { error, .. } => writeln!(text, "{error}"),
        Answer::Outcomes { outcomes, steps, generation, .. } => {
            for step in steps {
                let _ = writeln!(text, "{:<10} {}", step.stop, step.said);
            }
            for outcome in outcomes {
                let _ = write!(text, "\n{}", outcome.verdict);
                let parts = [
                    ("", outcome.reply.map(str::to_owned)),
                    ("", outcome.reason.clone()),
                    ("by ", outcome.by.clone()),
                    ("service ", outcome.service.clone()),
                    ("to ", outcome.dst.clone()),
                    ("from ", outcome.src.clone()),
                    ("out of ", outcome.out.clone()),
                    ("via ", outcome.next_hop.clone()),
                ];
                for (label, value) in parts {
                    let _ = value.map(|value| write!(text, "  {label}{value}"));
                }
            }
            writeln!(text, "\n(tables of generation {generation})")
        }
    };
    text
}

/// Where the tables come from.
enum Source<'a> {
    /// Compiled here.
    Files(Box<Files<'a>>),
    /// A running engine's.
    Live { tables: Arc<Tables>, interfaces: Vec<InterfaceSpec>, _session: Box<live::Engine> },
}

struct Files<'a> {
    options: &'a Options,
    store: Store,
    compiler: Compiler,
    writer: Writer,
    world: Arc<World>,
    tables: Arc<Tables>,
    /// Addresses of the node that no object tells of, and flows do.
    own: Vec<Addr>,
}

impl<'a> Source<'a> {
    fn files(options: &'a Options) -> Result<Self, String> {
        if options.config.is_none() && options.node.is_none() {
            return Err("say whose packets these are: --node NAME, or --config with the engine's configuration".into());
        }
        let mut store = Store::new();
        if let Some(dir) = &options.manifests {
            let problems = reflect::files::read_dir(dir, &mut store).map_err(|e| e.to_string())?;
            for problem in problems {
                eprintln!("millrace: {problem}");
            }
        }
        let config = SegmentConfig { seed: Some(0), ..SegmentConfig::default() };
        let mut writer = Writer::create(&config).map_err(|e| e.to_string())?;
        writer.set_readers(Readers::Nobody);
        let tables = writer.tables();
        let (compiler, world) = (Compiler::new(), Arc::default());
        let own = Vec::new();
        let mut files = Files { options, store, compiler, writer, world, tables, own };
        // A script may bring the Node itself.
        match files.compile() {
            Err(_) if options.script.is_some() => {}
            result => result?,
        }
        Ok(Self::Files(Box::new(files)))
    }

    fn live(socket: &Path) -> Result<Self, String> {
        let engine = live::Engine::open(socket)?;
        let tables = Arc::clone(&engine.tables);
        let interfaces = tables.snapshot().interfaces().map(|row| InterfaceSpec {
            id: row.id,
            kind: row.kind,
            mac: row.mac,
            mtu: row.mtu,
            name: row.name,
            addresses: row.addresses,
        });
        Ok(Self::Live { interfaces: interfaces.collect(), tables, _session: Box::new(engine) })
    }

    fn tables(&self) -> &Arc<Tables> {
        match self {
            Self::Files(files) => &files.tables,
            Self::Live { tables, .. } => tables,
        }
    }

    fn sandbox(&self, flows: u32) -> Result<Sandbox, String> {
        let mut sandbox = match self {
            Self::Files(files) => Sandbox::new(files.world.interfaces.values(), flows)?,
            Self::Live { interfaces, .. } => Sandbox::new(interfaces.iter(), flows)?,
        };
        sandbox.begin(self.tables())?;
        Ok(sandbox)
    }

    /// Answers on an engine that has seen nothing, so that lines don't depend on one another.
    fn fresh_answer(&mut self, ask: &Ask) -> Result<Answer, String> {
        if let Self::Files(files) = self {
            files.learn(ask)?;
        }
        let flows = match ask {
            Ask::Forward(flow) => flow.count,
            Ask::Reverse { .. } => 1,
        };
        Ok(self.sandbox(flows)?.answer(ask, self.tables()))
    }
}

impl Files<'_> {
    /// What the node's own stack sends from is the node's: a bridge has an address in the pods' range, and its Node doesn't say so. True when
    /// the tables are other ones now.
    fn learn(&mut self, ask: &Ask) -> Result<bool, String> {
        let (Ask::Forward(flow), Some(node)) = (ask, self.options.node.as_deref()) else {
            return Ok(false);
        };
        if self.options.config.is_some() || !matches!(flow.from, flow::From::Host) {
            return Ok(false);
        }
        let src = Addr::from(flow.src);
        let Some(node) = self.store.node(node) else { return Ok(false) };
        let is_bridge = node.pod_cidrs.iter().any(|range| range.contains(&flow.src))
            && !self.own.contains(&src)
            && !self.world.places.contains_key(&src)
            && !self.store.pods().any(|(_, pod)| pod.addresses.contains(&src));
        if is_bridge {
            self.own.push(src);
            self.compile()?;
        }
        Ok(is_bridge)
    }

    /// Brings the tables up to date with the store.
    fn compile(&mut self) -> Result<(), String> {
        let mut world = match (&self.options.node, &self.options.config) {
            (_, Some(path)) => self.router_world(path)?,
            (Some(node), None) => {
                compile::node::world(&self.store, node, &self.options.options, Some(&self.world))
                    .map_err(|e| e.to_string())?
            }
            (None, None) => return Err("neither --node nor --config".into()),
        };
        let own = self.own.iter().map(|addr| (addr.to_ip().into(), RouteSpec::Local));
        world.routes.extend(own);
        let world = Arc::new(world);
        let changes = self.compiler.update(&mut self.store, &world);
        self.world = world;
        for error in apply(&mut self.writer, changes) {
            eprintln!("millrace: {}", error.error);
        }
        self.writer.publish().map(drop).map_err(|e| e.to_string())
    }

    fn router_world(&self, path: &Path) -> Result<World, String> {
        let interfaces = engine_file::interfaces(path).map_err(|e| e.to_string())?;
        let empty = config::Config::default();
        let (config, problems) = match &self.options.control_config {
            Some(path) => config::Config::read(path, &empty),
            None => (empty, Vec::new()),
        };
        let flags =
            Overrides { node: self.options.node.clone(), cluster: self.options.options.clone() };
        let config = flags.apply(config);
        let (world, more) = compile::interfaces::world(interfaces, &config, &self.store);
        for problem in problems.iter().chain(&more) {
            eprintln!("millrace: {problem}");
        }
        Ok(world)
    }
}

/// Runs a script, line by line on one engine.
fn history(
    path: &Path,
    options: &Options,
    source: &mut Source<'_>,
    out: &mut impl Write,
) -> Result<bool, String> {
    let mut sandbox = source.sandbox(1)?;
    let mut good = true;
    for line in lines(path)? {
        match Line::parse(&line?) {
            Err(bad) => good &= print(out, &refuse(bad))?,
            Ok(Line::Flow(ask)) => {
                if let Source::Files(files) = source
                    && files.learn(&ask)?
                {
                    sandbox.sync(&files.tables)?;
                }
                let answer = sandbox.answer(&ask, source.tables());
                good &= print(out, &answer)?;
            }
            Ok(Line::Advance(by)) => sandbox.advance(by),
            Ok(Line::Show(Show::Frontends)) => write_line(out, &frontends(source.tables()))?,
            Ok(Line::Show(Show::Conntrack)) => write_line(out, &connections(&sandbox)?)?,
            Ok(Line::Objects(objects)) => {
                let Source::Files(files) = source else {
                    return Err("a running engine's objects are its own".into());
                };
                let refused: Vec<Refusal> =
                    objects.into_iter().flat_map(|o| files.store.apply_json(o)).collect();
                for refusal in &refused {
                    write_line(out, &json!({ "refused": refusal }))?;
                }
                // Answered, and no fault of the question: a history may be about just that.
                update(files, &mut sandbox, options)?;
            }
            Ok(Line::Delete(gone)) => {
                let Source::Files(files) = source else {
                    return Err("a running engine's objects are its own".into());
                };
                for object in gone {
                    files.store.delete_named(&object.kind, &object.namespace, &object.name);
                }
                update(files, &mut sandbox, options)?;
            }
        }
    }
    Ok(good)
}

fn update(files: &mut Files<'_>, sandbox: &mut Sandbox, options: &Options) -> Result<(), String> {
    let before = files.world.interfaces.clone();
    match files.compile() {
        // The Node has not come yet: nothing is in force until it does.
        Err(_) if options.node.as_deref().is_some_and(|node| files.store.node(node).is_none()) => {
            return Ok(());
        }
        result => result?,
    }
    if files.world.interfaces != before {
        sandbox.set_interfaces(files.world.interfaces.values())?;
    }
    sandbox.sync(&files.tables)
}

/// `{"frontends":[…]}`, sorted.
fn frontends(tables: &Tables) -> Value {
    let snapshot = tables.snapshot();
    let mut rows: Vec<_> = crate::show::services::rows(snapshot)
        .into_iter()
        .map(|row| {
            let address: IpAddr = row.address;
            let key = (row.service.clone(), row.kind, address, row.port, row.protocol);
            let value = json!({
                "service": row.service, "type": row.kind, "address": address, "port": row.port,
                "protocol": row.protocol, "backends": row.backends,
            });
            (key, value)
        })
        .collect();
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    json!({ "frontends": rows.into_iter().map(|(_, value)| value).collect::<Vec<_>>() })
}

/// `{"conntrack":[…]}`, in the order of their first packets.
fn connections(sandbox: &Sandbox) -> Result<Value, String> {
    let table = sandbox.segment().view().conntrack().map_err(|e| e.to_string())?;
    let mut flows: Vec<_> = table.flows(sandbox.now()).collect();
    flows.sort_by_key(|flow| (std::cmp::Reverse(flow.age), flow.original.sport));
    // What depends on timeouts, which are configured, is left to `show`.
    const KEYS: [&str; 6] = ["protocol", "src", "dst", "backend", "snat", "age"];
    let rows = flows.iter().map(|flow| {
        let row = crate::show::conntrack::row(flow);
        KEYS.iter()
            .map(|key| ((*key).to_owned(), row[*key].clone()))
            .collect::<serde_json::Map<_, _>>()
    });
    Ok(json!({ "conntrack": rows.collect::<Vec<_>>() }))
}
