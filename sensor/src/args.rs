//! The command line: what was typed, nothing decided. Refuses to read files, environment or defaults of the configuration.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::unit::Span;
use crate::config::{BackendChoice, EventName, OutputFormat, Overrides};

/// Printed at the end of `--help`.
pub const HELP_EXIT_CODES: &str = "\
Exit codes:
   0  ok                          5  load failed
   2  usage or configuration      6  already running
   3  privilege                  70  internal
   4  kernel unsupported         74  output

Environment: SENSOR_LOG (as --log-level, which overrides it), NO_COLOR, CREDENTIALS_DIRECTORY;
in containers HOST_ROOT and NODE_NAME (docs/kubernetes.md).";

/// Watches what happens on this host: processes, files, connections, kernel modules.
///
/// Without a subcommand it runs: on a terminal a live view, else JSON lines.
#[derive(Clone, Debug, Parser)]
#[command(name = "sensor", version, after_help = HELP_EXIT_CODES)]
pub struct Args {
    /// What to do; without it, `run`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Flags of `run`, which may be given without naming it.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Subcommands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Watch this host and report events (the default).
    Run(RunArgs),
    /// Tell what works on this host, which hook each event type would use, and what to do about the rest.
    Doctor {
        /// As JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Tell how the running sensor stands: rates, account, spool, sinks.
    Status {
        /// As JSON instead of tables.
        #[arg(long)]
        json: bool,
        /// The sensor of this scope instead of the whole host's.
        #[arg(long, value_name = "PATH")]
        scope_cgroup: Option<PathBuf>,
    },
    /// Have the running sensor read its filter rules again, all or nothing.
    Reload {
        /// The sensor of this scope instead of the whole host's.
        #[arg(long, value_name = "PATH")]
        scope_cgroup: Option<PathBuf>,
    },
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at the filter rules.
    #[command(subcommand)]
    Filter(FilterCommand),
    /// Write the kernel's records to a file, to be replayed later.
    Record(RecordArgs),
    /// Send recorded kernel records through the pipeline again; needs no privilege.
    Replay(ReplayArgs),
    /// Print what stands in telemetry packets and in segments of the spool; needs no privilege.
    Decode(DecodeArgs),
    /// Print which data leaves this host with the loaded configuration: every item, what for, what is withheld, where to, how long.
    DataProvision {
        /// As JSON instead of Markdown.
        #[arg(long)]
        json: bool,
    },
    /// Set this program up as a service of systemd, on hosts without a package of it: program, unit, configuration, folders.
    Install(InstallArgs),
    /// Take away what `install` made; configuration, spool and events stay.
    Uninstall(UninstallArgs),
}

/// What can be done with the configuration.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check it: `ok`, or every error with file, line, column and key (exit code 2).
    Check,
    /// Print it as it is in effect, as TOML.
    Show {
        /// With where each value comes from: file, line and column, a flag, or the default.
        #[arg(long)]
        origin: bool,
    },
    /// Print the JSON schema of the configuration file.
    Schema,
}

/// What can be done with the filter rules.
#[derive(Clone, Debug, Subcommand)]
pub enum FilterCommand {
    /// Check rules: `ok`, or every error with file, line, column and key (exit code 2).
    Check {
        /// A file of rules (`[[rule]]` tables); without it, the rules of the configuration.
        file: Option<PathBuf>,
    },
    /// Print each rule in order, with what it matches and where it runs.
    Explain {
        /// A file of rules (`[[rule]]` tables); without it, the rules of the configuration.
        file: Option<PathBuf>,
    },
    /// Say which rule decides about an event, and how.
    Test {
        /// The event: a line of the sensor's own JSON output, or `-` to read lines from standard input.
        #[arg(long, value_name = "JSON")]
        event: OsString,
        /// A file of rules (`[[rule]]` tables); without it, the rules of the configuration.
        file: Option<PathBuf>,
    },
}

/// Flags of everything that takes records from the kernel.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct CaptureArgs {
    /// Event types to report, separated by commas.
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',')]
    pub events: Option<Vec<EventName>>,
    /// Record, read and show nothing outside this cgroup (a directory of cgroup v2).
    #[arg(long, value_name = "PATH")]
    pub scope_cgroup: Option<PathBuf>,
    /// Stop after this time, such as 10s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Kind of hooks to use: auto takes the best that this kernel allows, per event type.
    #[arg(long, value_name = "KIND", value_enum)]
    pub backend: Option<BackendChoice>,
    /// Print rates and the ledger to standard error every few seconds.
    #[arg(long)]
    pub stats: bool,
    /// Log what the eBPF programs log; needs the object that `cargo xtask build-ebpf --log` makes, which is looked for beside
    /// this program and in its build folder unless FILE names it.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub ebpf_log: Option<Option<PathBuf>>,
}

/// Flags of `run`.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct RunArgs {
    /// Flags of everything that takes records from the kernel.
    #[command(flatten)]
    pub capture: CaptureArgs,
    /// How events are written: auto is pretty on a terminal, else json.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub format: Option<OutputFormat>,
}

/// Flags of `record`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct RecordArgs {
    /// File to write; it must not exist yet.
    pub file: PathBuf,
    /// Flags of everything that takes records from the kernel.
    #[command(flatten)]
    pub capture: CaptureArgs,
}

/// Flags of `replay`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct ReplayArgs {
    /// File that `sensor record` wrote.
    pub file: PathBuf,
    /// Event types to report, separated by commas.
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',')]
    pub events: Option<Vec<EventName>>,
    /// How events are written: auto is pretty on a terminal, else json.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub format: Option<OutputFormat>,
    /// Send what it tells to the sinks of the configuration, too, through the spool of its state directory, which no running sensor may use.
    #[arg(long)]
    pub deliver: bool,
    /// Print the ledger to standard error at the end.
    #[arg(long)]
    pub stats: bool,
}

/// Flags of `decode`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct DecodeArgs {
    /// Packets one after another, or a segment of the spool; `-`: standard input.
    pub file: PathBuf,
    /// How it is printed, a line each.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub format: DecodeFormat,
}

/// Flags of `install`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct InstallArgs {
    /// Folder that stands for /, such as that of an image.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Only print what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of `uninstall`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct UninstallArgs {
    /// Folder that stands for /, such as that of an image.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Take away configuration, spool and events as well.
    #[arg(long)]
    pub purge: bool,
    /// Only print what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// How packets are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DecodeFormat {
    /// Every event, as `sensor --format json` prints it.
    #[default]
    Json,
    /// Every event in the Elastic Common Schema.
    Ecs,
    /// Every event in the Open Cybersecurity Schema Framework.
    Ocsf,
    /// Every packet without its events: header, digest, ledger, tombstones, blind interval.
    Packet,
}

fn duration(typed: &str) -> Result<Duration, crate::config::unit::UnitError> {
    typed.parse::<Span>().map(Span::duration)
}

/// Reads the command line.
///
/// # Errors
/// What clap makes of a wrong command line, `--help` and `--version`: print it with [`clap::Error::print`] and exit with
/// [`clap::Error::exit_code`] (2, or 0 for the latter two).
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Args, clap::Error> {
    let args = Args::try_parse_from(words)?;
    if args.command.is_some() && args.run != RunArgs::default() {
        return Err(Args::command().error(
            ErrorKind::ArgumentConflict,
            "flags of `run` stand after the subcommand, not before it",
        ));
    }
    Ok(args)
}

impl Args {
    /// What the flags override in the configuration.
    pub fn overrides(&self) -> Overrides {
        match &self.command {
            None => self.run.overrides(),
            Some(Command::Run(run)) => run.overrides(),
            Some(Command::Record(record)) => record.capture.overrides(),
            Some(Command::Replay(replay)) => Overrides {
                events: replay.events.clone(),
                format: replay.format,
                ..Overrides::default()
            },
            Some(
                Command::Doctor { .. }
                | Command::Status { .. }
                | Command::Reload { .. }
                | Command::Config(_)
                | Command::Filter(_)
                | Command::Decode(_)
                | Command::DataProvision { .. }
                | Command::Install(_)
                | Command::Uninstall(_),
            ) => Overrides::default(),
        }
    }
}

impl RunArgs {
    /// What these flags override in the configuration.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            format: self.format,
            ..self.capture.overrides()
        }
    }
}

impl CaptureArgs {
    /// What these flags override in the configuration.
    pub fn overrides(&self) -> Overrides {
        Overrides {
            events: self.events.clone(),
            scope_cgroup: self.scope_cgroup.clone(),
            backend: self.backend,
            ..Overrides::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_of_run_work_without_and_with_its_name() {
        for line in [
            "sensor --events exec,file_create --duration 10s --format json --backend syscall-exit",
            "sensor run --events exec,file_create --duration 10s --format json --backend syscall-exit",
        ] {
            let args = parse(words(line)).unwrap();
            let over = args.overrides();
            let names: Vec<String> = over
                .events
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(names, ["exec", "file_create"]);
            assert_eq!(over.format, Some(OutputFormat::Json));
            assert_eq!(over.backend, Some(BackendChoice::SyscallExit));
        }
        let args = parse(words("sensor --duration 10s")).unwrap();
        assert_eq!(args.run.capture.duration, Some(Duration::from_secs(10)));
    }

    #[test]
    fn the_object_with_logs_may_be_named() {
        for (line, expected) in [
            ("sensor --stats", None),
            ("sensor --ebpf-log --stats", Some(None)),
            ("sensor --ebpf-log=x.o --stats", Some(Some("x.o".into()))),
        ] {
            let args = parse(words(line)).unwrap();
            assert_eq!(args.run.capture.ebpf_log, expected, "{line}");
            assert!(args.run.capture.stats, "{line}");
        }
    }

    #[test]
    fn config_and_log_level_stand_anywhere() {
        for line in [
            "sensor --config x.toml doctor --json",
            "sensor doctor --json --config x.toml",
        ] {
            let args = parse(words(line)).unwrap();
            assert_eq!(args.config, Some(PathBuf::from("x.toml")));
            assert!(matches!(args.command, Some(Command::Doctor { json: true })));
        }
    }

    #[test]
    fn wrong_lines_are_usage_errors() {
        for (line, told) in [
            ("sensor --events nonsense", "exec"),
            ("sensor --events", "--events"),
            ("sensor --duration 10", "unit"),
            ("sensor --backend magic", "syscall-exit"),
            ("sensor --stats doctor", "after the subcommand"),
            ("sensor record", "FILE"),
            ("sensor nonsense", "unrecognized subcommand"),
            ("sensor --format xml", "ocsf"),
        ] {
            let error = parse(words(line)).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(told), "{line}: {error}");
        }
        assert_eq!(
            parse(words("sensor --help")).expect_err("help").exit_code(),
            0
        );
        assert_eq!(
            parse(words("sensor --version"))
                .expect_err("version")
                .exit_code(),
            0
        );
    }
}
