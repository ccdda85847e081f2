//! The command line. Refuses to decide anything.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use sensor_proto::v1::EventType;
use uuid::Uuid;

use crate::query::Position;

/// Where the store is, unless said otherwise.
const DATA: &str = "/var/lib/central-node";

/// Shown under `--help`.
const AFTER: &str = "Exit codes:
   0  all went as asked
   2  the command line, the configuration or a file named by it is wrong
   6  another node serves from this store
  70  a fault of the node itself; its store is damaged or newer
  74  output could not be written, or the address cannot be listened on";

/// The central node: takes telemetry packets from agents, keeps them, answers questions.
#[derive(Debug, Parser)]
#[command(name = "central-node", version, after_help = AFTER, max_term_width = 120)]
pub struct Args {
    /// What to log: a level, or `target=level,..`; beats SENSOR_LOG.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Takes packets until SIGINT or SIGTERM.
    Serve(ServeArgs),
    /// Shows who delivers: last seen, lag, completeness, conflicts.
    Agents(AgentsArgs),
    /// Finds events: the newest that match, as JSON lines or as a table.
    Query(QueryArgs),
    /// Writes events in the order of arrival as JSON lines, each with its position, from which the next export goes on.
    Export(ExportArgs),
    /// Sets and shows the filter settings that agents get.
    Settings(SettingsArgs),
    /// Makes an authority, a server's and agents' certificates for a first try.
    Certificates(CertificatesArgs),
}

/// `serve`
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Configuration, TOML (docs/central-node.md).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on; port 0: one that the system picks.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// The data folder.
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
    /// The server's certificate with its chain, PEM.
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Authorities that agents' certificates are from, PEM.
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
}

/// `agents`
#[derive(Debug, clap::Args)]
pub struct AgentsArgs {
    /// The data folder.
    #[arg(long, value_name = "FOLDER", default_value = DATA)]
    pub data: PathBuf,
    /// Completeness from then on: a time (RFC 3339) or how long ago.
    #[arg(long, value_name = "TIME", default_value = "1d")]
    pub since: String,
    /// Completeness up to then; now, where absent.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Completeness of one event type.
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    pub event_type: Option<EventType>,
    /// These agents only.
    #[arg(long, value_name = "ID")]
    pub agent: Vec<Uuid>,
    /// One JSON object per line, with every finding.
    #[arg(long)]
    pub json: bool,
}

/// What events are looked for. Several values of one option: any of them; several options: all of them.
#[derive(Debug, clap::Args)]
pub struct Criteria {
    /// The data folder.
    #[arg(long, value_name = "FOLDER", default_value = DATA)]
    pub data: PathBuf,
    /// Happened then or later: a time (RFC 3339) or how long ago (`15m`, `2h`, `7d`).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Happened then or before.
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Agent id.
    #[arg(long, value_name = "ID")]
    pub agent: Vec<Uuid>,
    /// Name of the host.
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// Event type: exec, exit, file_create, connect, ...
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    pub event_type: Vec<EventType>,
    /// The acting process: its unique_pid, the path of its program, or its name; path and name may be patterns.
    #[arg(long, value_name = "PROCESS")]
    pub process: Vec<String>,
    /// Path of a file that the event is about; may be a pattern (`/etc/*`).
    #[arg(long, value_name = "PATH")]
    pub path: Vec<String>,
    /// MD5, SHA-1 or SHA-256.
    #[arg(long, value_name = "HEX")]
    pub hash: Vec<String>,
    /// Address of either end, or a network (`10.0.0.0/8`).
    #[arg(long, value_name = "ADDRESS")]
    pub address: Vec<String>,
    /// Port of either end.
    #[arg(long, value_name = "PORT")]
    pub port: Vec<u16>,
    /// User of the process: number or name; the name may be a pattern.
    #[arg(long, value_name = "USER")]
    pub user: Vec<String>,
}

/// `query`
#[derive(Debug, clap::Args)]
pub struct QueryArgs {
    /// What is looked for.
    #[command(flatten)]
    pub criteria: Criteria,
    /// The newest so many, in the order of their time; 0: all, in the order of arrival.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// A table for people instead of JSON lines.
    #[arg(long)]
    pub table: bool,
}

/// `export`
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// What is looked for.
    #[command(flatten)]
    pub criteria: Criteria,
    /// Goes on after the position of the last line of an export before.
    #[arg(long, value_name = "POSITION")]
    pub after: Option<Position>,
    /// At most so many events.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Waits for more.
    #[arg(long)]
    pub follow: bool,
}

/// `settings`
#[derive(Debug, clap::Args)]
pub struct SettingsArgs {
    /// The data folder.
    #[arg(long, global = true, value_name = "FOLDER", default_value = DATA)]
    pub data: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: SettingsCommand,
}

/// Subcommands of `settings`.
#[derive(Debug, Subcommand)]
pub enum SettingsCommand {
    /// Sets the filter rules: for an agent what was set last counts, for it alone or for all.
    Set {
        /// TOML with `[[filter.rule]]` tables as in sensor.toml.
        file: PathBuf,
        /// For this agent alone.
        #[arg(
            long,
            value_name = "ID",
            required_unless_present = "all",
            conflicts_with = "all"
        )]
        agent: Option<Uuid>,
        /// For all agents.
        #[arg(long)]
        all: bool,
    },
    /// Shows what was set, newest last.
    Show,
}

/// `certificates`
#[derive(Debug, clap::Args)]
pub struct CertificatesArgs {
    /// Folder for the files. An authority that is there signs; nothing is overwritten.
    #[arg(long, value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Names and addresses of the server.
    #[arg(long, value_name = "NAME", default_values = ["localhost", "127.0.0.1", "::1"])]
    pub server: Vec<String>,
    /// An agent's certificate: its agent id, or `new` for a random one.
    #[arg(long, value_name = "ID", value_parser = agent_id)]
    pub agent: Vec<Uuid>,
    /// How long they are valid.
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..))]
    pub days: u16,
}

fn event_type(text: &str) -> Result<EventType, String> {
    EventType::from_short_name(text)
        .filter(|found| *found != EventType::Unspecified)
        .ok_or_else(|| {
            "no event type: exec, exit, fork, file_create, connect, module_load, patch, aggregate"
                .to_owned()
        })
}

fn agent_id(text: &str) -> Result<Uuid, String> {
    if text == "new" {
        return Ok(Uuid::new_v4());
    }
    Uuid::try_parse(text).map_err(|error| error.to_string())
}

/// Reads the command line.
///
/// # Errors
/// What is wrong with it; `--help` and `--version`, too.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, clap::Error> {
    Args::try_parse_from(args)
}
