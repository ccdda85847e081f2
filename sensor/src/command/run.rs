//! `sensor [run]`.

use crate::args::CaptureArgs;
use crate::command::Streams;
use crate::config::{self, SettingsSource, Sources};
use crate::exit::ExitStatus;
use crate::filter::Filter;
use crate::ledger::Ledger;
use crate::loader::{LoadError, LogObject};
use crate::run::{self, Request, RunError, Summary};

/// Watches the host; prints the account at the end.
pub fn run(args: &CaptureArgs, sources: &Sources, streams: &mut Streams<'_>) -> ExitStatus {
    let mut settings_fault = None;
    let (loaded, filter) = match load(sources) {
        Ok(both) => both,
        // Settings that were good once may not be any more (other rules of the same id): the host's own rules count then.
        Err(fault) => match load(&with(sources, SettingsSource::None)) {
            Ok(both) => {
                tracing::error!(%fault, "the central node's filter settings are left out");
                settings_fault = Some(fault);
                both
            }
            Err(_same) => return streams.refuse(&fault),
        },
    };
    let object = match log_object(args) {
        Ok(object) => object,
        Err(error) => return finish(Err(error.into()), false, streams),
    };
    let request = Request {
        config: &loaded.config,
        duration: args.duration,
        stats: args.stats,
        settings_fault,
        object,
    };
    let reload = |settings| {
        let (anew, filter) = load(&with(sources, settings))?;
        let keys = anew.differing_keys(&loaded);
        if !keys.is_empty() {
            tracing::warn!(
                keys = %keys.join(", "),
                "only filter rules are read again, the rest needs a restart"
            );
        }
        Ok(filter)
    };
    let ended = run::live(&request, filter, &reload, &mut |ledger: &Ledger| {
        streams.complain(&ledger.to_string());
    });
    finish(ended, args.stats, streams)
}

fn with(sources: &Sources, settings: SettingsSource) -> Sources {
    Sources {
        settings,
        ..sources.clone()
    }
}

/// The object with logs, if that is asked for.
pub(super) fn log_object(args: &CaptureArgs) -> Result<Option<LogObject>, LoadError> {
    args.ebpf_log
        .as_ref()
        .map(|named| LogObject::read(named.as_deref()))
        .transpose()
}

/// The configuration and its rules, or everything that is wrong with them.
pub(super) fn load(sources: &Sources) -> Result<(config::Loaded, Filter), String> {
    let loaded = config::load(sources).map_err(|errors| errors.to_string())?;
    let filter = Filter::from_config(&loaded).map_err(|errors| errors.to_string())?;
    Ok((loaded, filter))
}

/// Prints the account and what went wrong, and says how to exit.
pub(super) fn finish(
    ended: Result<Summary, RunError>,
    stats: bool,
    streams: &mut Streams<'_>,
) -> ExitStatus {
    let summary = match ended {
        Ok(summary) => summary,
        Err(error) => {
            streams.complain(&format!("sensor: {}", chain(&error)));
            return error.status();
        }
    };
    streams.complain(&format!(
        "ran {:.1} s\n{}",
        summary.ran.as_secs_f64(),
        summary.ledger
    ));
    for open in summary.ledger.imbalances(Some(0)) {
        streams.complain(&format!("account not closed: {open}"));
    }
    if stats {
        streams.complain(&format!("ledger {}", summary.ledger.to_json(Some(0))));
    }
    match summary.fault {
        None => ExitStatus::Ok,
        Some(error) => {
            streams.complain(&format!("sensor: {}", chain(&error)));
            error.status()
        }
    }
}

/// An error with all its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        // A transparent error says the same as its cause.
        if !text.ends_with(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}
