//! The command line. Refuses to decide anything.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use uuid::Uuid;

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
