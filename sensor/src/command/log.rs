//! The daemon's own log: structured lines on standard error. Where that is the journal of systemd, each line has the priority by
//! which `journalctl --priority` selects, and no time and colours of its own. What repeats is cut short.

use std::collections::HashMap;
use std::fmt;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{Compact, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::sink::view::Console;

/// What is logged unless something else is asked for.
const DEFAULT: &str = "info";
/// Lines that one place of the code may write within [`SPAN`].
const BURST: u32 = 50;
/// See [`BURST`].
const SPAN: Duration = Duration::from_secs(10);
/// What the programs themselves log (`--ebpf-log`) comes from one place.
const PROGRAMS: &str = "log";

/// Starts logging: by `level` if given, else by the environment variable `SENSOR_LOG`.
///
/// # Errors
/// What is wrong with the level or the variable.
pub fn start(level: Option<&str>) -> Result<(), ParseError> {
    let variable = std::env::var("SENSOR_LOG").ok();
    let directives = level.or(variable.as_deref()).unwrap_or(DEFAULT);
    let filter = EnvFilter::builder().parse(directives)?;
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(RateLimit::default());
    let lines = tracing_subscriber::fmt::layer().with_writer(|| Console);
    if into_journal() {
        registry
            .with(lines.with_ansi(false).event_format(Journal::default()))
            .init();
    } else {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        registry
            .with(lines.with_ansi(colours).with_target(false))
            .init();
    }
    Ok(())
}

/// Whether standard error is the stream to the journal that the service manager made: `JOURNAL_STREAM` of systemd.exec(5) names its
/// device and inode.
fn into_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let stat = rustix::fs::fstat(std::io::stderr());
    named
        .zip(stat.ok())
        .is_some_and(|(named, stat)| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Lines for the journal: `<4>WARN text key=value`, as sd-daemon(3) has them.
struct Journal(Format<Compact, ()>);

impl Default for Journal {
    fn default() -> Self {
        Self(
            Format::default()
                .without_time()
                .with_target(false)
                .compact(),
        )
    }
}

/// Priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// A place that writes more than [`BURST`] lines of level info and above within [`SPAN`] is silent until the span is over; then it is
/// told how many lines were left out. Its memory is bounded by the number of such places in the program.
#[derive(Default)]
struct RateLimit(Mutex<HashMap<Identifier, Bucket>>);

/// Lines of one place.
struct Bucket {
    began: Instant,
    written: u32,
    left_out: u64,
}

/// What is to become of a line.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Write,
    /// After so many were left out.
    WriteAfter(u64),
    LeaveOut,
}

impl RateLimit {
    fn judge(&self, metadata: &Metadata<'_>, now: Instant) -> Verdict {
        if *metadata.level() > Level::INFO || metadata.target() == PROGRAMS {
            return Verdict::Write;
        }
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(metadata.callsite()).or_insert(Bucket {
            began: now,
            written: 0,
            left_out: 0,
        });
        let mut before = 0;
        if now.saturating_duration_since(bucket.began) >= SPAN {
            before = bucket.left_out;
            *bucket = Bucket {
                began: now,
                written: 0,
                left_out: 0,
            };
        }
        if bucket.written >= BURST {
            bucket.left_out += 1;
            return Verdict::LeaveOut;
        }
        bucket.written += 1;
        if before > 0 {
            Verdict::WriteAfter(before)
        } else {
            Verdict::Write
        }
    }
}

impl<S: Subscriber> Layer<S> for RateLimit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        match self.judge(metadata, Instant::now()) {
            Verdict::Write => true,
            Verdict::LeaveOut => false,
            Verdict::WriteAfter(lines) => {
                tracing::warn!(
                    lines,
                    place = metadata.file().unwrap_or("?"),
                    line = metadata.line(),
                    "lines like the next one were left out"
                );
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::Arc;

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(limit: RateLimit, log: impl FnOnce()) -> Vec<String> {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(Journal::default());
        let subscriber = tracing_subscriber::registry().with(limit).with(lines);
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_for_the_journal_have_a_priority_and_no_time() {
        let lines = written(RateLimit::default(), || {
            tracing::error!(error = "gone", "no disk");
            tracing::warn!("one");
            tracing::info!(count = 3, "ready");
        });
        assert_eq!(
            lines,
            [
                "<3>ERROR no disk error=\"gone\"",
                "<4> WARN one",
                "<6> INFO ready count=3"
            ]
        );
    }

    #[test]
    fn what_repeats_is_cut_short_and_counted() {
        let limit = RateLimit::default();
        let lines = written(limit, || {
            for count in 0..BURST + 20 {
                tracing::info!(count, "again");
            }
            tracing::info!("another place");
        });
        assert_eq!(u32::try_from(lines.len()).unwrap(), BURST + 1, "{lines:#?}");
        assert!(lines.last().unwrap().contains("another place"));
    }

    #[test]
    fn after_the_span_it_is_told_how_many_were_left_out() {
        let limit = RateLimit::default();
        let lines = written(limit, || {
            let place = || tracing::info!("again");
            for _ in 0..BURST + 7 {
                place();
            }
        });
        assert_eq!(u32::try_from(lines.len()).unwrap(), BURST);
        // The same by its own clock.
        let limit = RateLimit::default();
        let metadata = tracing::callsite!(name: "place", kind: tracing::metadata::Kind::EVENT, level: Level::INFO, fields: message);
        let metadata = tracing::Callsite::metadata(metadata);
        let begin = Instant::now();
        for _ in 0..BURST {
            assert_eq!(limit.judge(metadata, begin), Verdict::Write);
        }
        for _ in 0..7 {
            assert_eq!(limit.judge(metadata, begin), Verdict::LeaveOut);
        }
        assert_eq!(limit.judge(metadata, begin + SPAN), Verdict::WriteAfter(7));
        assert_eq!(limit.judge(metadata, begin + SPAN), Verdict::Write);
    }
}
