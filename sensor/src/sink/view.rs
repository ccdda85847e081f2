//! The live view on a terminal that somebody sits at: lines that scroll as they do elsewhere, a bottom line that is written anew
//! in place, and keys. Only the bottom line is ever taken back, so that what the terminal keeps of the past stays whole.
//!
//! One thread of its own ([`Role::View`]) writes and reads. Writing never waits: a terminal that takes nothing leaves rows in
//! the sink's queue, which is bounded, and keys are heard all the same. While who watches has paused, rows wait here, bounded
//! too; what finds no room is lost as [`VIEW_PAUSED`]. The terminal's modes are given back when the thread ends, also by a
//! panic, and when [`Screen`] is dropped.
//!
//! [`Role::View`]: crate::confine::Role::View

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use sensor_proto::v1::EventType;

use crate::confine::{Confinement, Role};
use crate::format::pretty::{Look, Pretty, Row, Style};
use crate::sink::{Listener, NoRows, Notice, OUTPUT_CLOSED, Shared, SinkHandle, ring, stdout};

mod console;
mod key;
mod state;
mod status;
mod terminal;

pub use console::Console;
use key::Keys;
use state::{Act, State};
pub use status::Facts;
use status::{Counts, HINTS, PROMPT_HINTS, help, words};
use terminal::Terminal;

/// Cause of loss: there was no room while who watches had paused, or they left meanwhile.
pub const VIEW_PAUSED: &str = "view_paused";

/// What waits while paused.
const PAUSE_BYTES: usize = 4 << 20;
/// What is written at once.
const PIECE_BYTES: usize = 32 << 10;
/// Lines of the log that wait.
const LOG_BYTES: usize = 256 << 10;
/// The bottom line is looked at so often, and whether the terminal is still ours.
const TICK: Duration = Duration::from_secs(1);
/// What follows an Escape within this time belongs to it.
const ESCAPE_TIME: Duration = Duration::from_millis(50);
/// How long the terminal may take for the last of what was written, and the thread for giving it back.
const LAST_MOMENT: Duration = Duration::from_millis(500);
/// With less there is no bottom line.
const LEAST_WIDTH: usize = 8;
const LEAST_HEIGHT: usize = 2;
/// To the first column, and nothing from there on: of the bottom line nothing is left, over how many rows it may have been
/// folded by a resize, since the cursor stays at its beginning.
const ERASE: &[u8] = b"\r\x1b[J";

/// Whether somebody sits at a terminal that can do this: standard input and output are terminals, and TERM is not `dumb`.
#[must_use]
pub fn possible() -> bool {
    rustix::termios::isatty(rustix::stdio::stdin()) && stdout::is_terminal() && stdout::capable()
}

/// What others ask of the thread.
#[derive(Debug, Default)]
struct Asked {
    facts: Facts,
    /// The terminal is to be given back for a while.
    hide: bool,
    /// The thread has done that, or has ended.
    hidden: bool,
    /// The terminal's modes are to be set again.
    again: bool,
    /// Lines of the log, to be shown above the bottom line.
    log: Vec<u8>,
    /// Bytes of the log for which there was no room.
    log_left_out: u64,
}

#[derive(Debug)]
struct Front {
    asked: Mutex<Asked>,
    changed: Condvar,
    bell: Arc<OwnedFd>,
    terminal: Terminal,
    left: AtomicBool,
}

impl Front {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        ring(&self.bell);
    }

    /// The thread writes nothing any more.
    fn end(&self) {
        let mut asked = self.lock();
        asked.hidden = true;
        let log = std::mem::take(&mut asked.log);
        drop(asked);
        self.changed.notify_all();
        self.terminal.release();
        // Where standard error is gone as well, nobody is there to be told.
        drop(io::Write::write_all(&mut io::stderr(), &log));
    }
}

/// The view, as the main thread sees it. Gives the terminal back when it is dropped.
#[derive(Debug)]
pub struct Screen(Arc<Front>);

impl Screen {
    /// Tells what the bottom line is to say.
    pub fn tell(&self, facts: Facts) {
        self.0.lock().facts = facts;
        self.0.ring();
    }

    /// The terminal has another size.
    pub fn resized(&self) {
        self.0.ring();
    }

    /// Whether who watches wants to leave.
    #[must_use]
    pub fn left(&self) -> bool {
        self.0.left.load(Ordering::Relaxed)
    }

    /// Gives the terminal back for a while; waits until that is done, for half a second at most.
    pub fn hide(&self) {
        let mut asked = self.0.lock();
        asked.hide = true;
        self.0.ring();
        let until = Instant::now() + LAST_MOMENT;
        while !asked.hidden {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            asked = self
                .0
                .changed
                .wait_timeout(asked, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(asked);
        self.0.terminal.release();
    }

    /// The process was stopped and goes on: the terminal's modes may be another's by now.
    pub fn again(&self) {
        self.0.lock().again = true;
        self.0.ring();
    }

    /// Takes the terminal again.
    pub fn show(&self) {
        self.0.lock().hide = false;
        self.0.ring();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.hide();
        console::close();
    }
}

/// Starts the view; rows wait in a queue of so many bytes.
///
/// # Errors
/// When a descriptor cannot be had, or the thread cannot be started.
pub fn spawn(
    capacity_bytes: usize,
    listener: Listener,
    confinement: &Confinement,
) -> io::Result<(SinkHandle, Screen)> {
    let bell = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
    start(
        Terminal::open()?,
        stdout::look(true),
        bell,
        capacity_bytes,
        listener,
        confinement,
    )
}

fn start(
    terminal: Terminal,
    look: Look,
    bell: Arc<OwnedFd>,
    capacity_bytes: usize,
    listener: Listener,
    confinement: &Confinement,
) -> io::Result<(SinkHandle, Screen)> {
    let front = Arc::new(Front {
        asked: Mutex::default(),
        changed: Condvar::new(),
        bell: Arc::clone(&bell),
        terminal,
        left: AtomicBool::new(false),
    });
    let seen = Arc::clone(&front);
    let confinement = confinement.clone();
    let handle = SinkHandle::spawn_rows(
        "sink-view",
        capacity_bytes,
        (bell, look.ascii),
        move |shared| {
            confinement.enter(Role::View);
            let end = End(&seen, shared);
            View::new(end.0, shared, listener, Pretty::new(look)).run();
        },
    )?;
    console::open(&front);
    Ok((handle, Screen(front)))
}

/// Tells that the thread has ended, however it did.
struct End<'e>(&'e Front, &'e Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
        self.1.ended();
    }
}

/// The thread's own.
struct View<'v> {
    front: &'v Front,
    shared: &'v Shared,
    listener: Listener,
    pretty: Pretty,
    state: State,
    keys: Keys,
    /// Rows that are not written yet, the oldest first.
    rows: VecDeque<Row>,
    row_bytes: usize,
    /// Bytes for the terminal, and how many of them it has.
    out: Vec<u8>,
    written: usize,
    /// Events whose lines are in [`Self::out`].
    in_out: BTreeMap<EventType, u64>,
    /// The bottom line as it stands on the terminal; empty: there is none.
    bar: Vec<u8>,
    /// The bottom line has to be written again, whether or not it says something else.
    stale: bool,
    /// The terminal's modes are ours.
    taken: bool,
    hidden: bool,
    /// Keys cannot be had.
    deaf: bool,
    /// The help is to be told.
    help: bool,
    /// So many events were lost while paused, which is to be told.
    gap: u64,
    facts: Facts,
    counts: Counts,
    /// Events since the last tick.
    since: u64,
    ticked: Instant,
    size: (Option<usize>, Option<usize>),
}

/// Whether the thread goes on.
enum Next {
    On,
    End,
}

impl<'v> View<'v> {
    fn new(front: &'v Front, shared: &'v Shared, listener: Listener, pretty: Pretty) -> Self {
        Self {
            front,
            shared,
            listener,
            pretty,
            state: State::default(),
            keys: Keys::default(),
            rows: VecDeque::new(),
            row_bytes: 0,
            out: Vec::new(),
            written: 0,
            in_out: BTreeMap::new(),
            bar: Vec::new(),
            stale: true,
            taken: false,
            hidden: false,
            deaf: false,
            help: false,
            gap: 0,
            facts: Facts::default(),
            counts: Counts::default(),
            since: 0,
            ticked: Instant::now(),
            size: (None, None),
        }
    }

    fn run(&mut self) {
        self.begin();
        loop {
            self.listen();
            self.tick();
            match self.step() {
                Ok(Next::On) => {}
                Ok(Next::End) => break,
                Err(error) => {
                    self.shared.lock().give_up(OUTPUT_CLOSED);
                    (self.listener)(Notice::Closed(error));
                    return;
                }
            }
            self.wait();
        }
        self.finish();
    }

    /// Takes the terminal if it is ours.
    fn begin(&mut self) {
        if self.taken || self.hidden || !self.front.terminal.foreground() {
            return;
        }
        match self.front.terminal.take() {
            Ok(()) => {
                self.taken = true;
                self.stale = true;
            }
            Err(error) => {
                tracing::debug!(%error, "keys are not heard");
                self.deaf = true;
            }
        }
    }

    /// Hears what others ask.
    fn listen(&mut self) {
        let mut asked = self.front.lock();
        self.facts.clone_from(&asked.facts);
        let (hide, again) = (asked.hide, std::mem::take(&mut asked.again));
        // As long as the terminal takes nothing, nothing is added to what it is to take.
        if self.out.is_empty() && !self.hidden {
            let log = take_lines(&mut asked.log);
            let left_out = std::mem::take(&mut asked.log_left_out);
            drop(asked);
            self.log(&log, left_out);
        } else {
            drop(asked);
        }
        if hide && !self.hidden {
            self.erase();
            // What is not written by then follows when the terminal is back.
            if let Err(error) = self.write() {
                tracing::debug!(%error, "the bottom line stays");
            }
            self.hidden = true;
            self.taken = false;
            self.front.terminal.release();
            self.front.lock().hidden = true;
            self.front.changed.notify_all();
        } else if !hide && self.hidden {
            self.hidden = false;
            self.front.lock().hidden = false;
            self.pretty.begin_anew();
            self.begin();
        } else if again {
            self.taken = false;
            self.begin();
        }
    }

    fn log(&mut self, lines: &[u8], left_out: u64) {
        if !lines.is_empty() {
            self.erase();
            self.out.extend_from_slice(lines);
            let lines = lines.split(|byte| *byte == b'\n').count();
            self.pretty.passed_over(lines.saturating_sub(1));
        }
        if left_out > 0 {
            self.erase();
            let text = format!("{left_out} bytes of the log had no room here");
            self.pretty.words(&[(Style::Dim, text)], &mut self.out);
        }
    }

    /// What is looked at by the clock.
    fn tick(&mut self) {
        let size = self.front.terminal.size();
        if size != self.size {
            self.size = size;
            let look = self.pretty.look();
            // The bottom line takes a row.
            (look.width, look.height) = (size.0, size.1.map(|rows| rows.saturating_sub(1)));
            self.stale = true;
        }
        let passed = self.ticked.elapsed();
        if passed >= TICK {
            let ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
            self.counts.per_second = self.since.saturating_mul(1_000) / ms;
            self.since = 0;
            self.ticked = Instant::now();
            self.begin();
        }
    }

    /// Takes rows, writes what can be written.
    fn step(&mut self) -> io::Result<Next> {
        self.hear()?;
        if self.front.left.load(Ordering::Relaxed) && self.state.paused {
            self.drop_rows();
        }
        let more = self.take();
        if more == NoRows::GivenUp {
            return Ok(Next::End);
        }
        if !self.hidden {
            self.compose();
            self.write()?;
        }
        let done = self.out.is_empty() && self.rows.is_empty();
        if done {
            self.shared.idle();
        }
        match more {
            NoRows::Closing if self.state.paused => {
                self.drop_rows();
                // Its queue, too.
                Ok(if self.out.is_empty() {
                    Next::End
                } else {
                    Next::On
                })
            }
            NoRows::Closing if done => Ok(Next::End),
            NoRows::Closing | NoRows::Yet | NoRows::GivenUp => Ok(Next::On),
        }
    }

    /// Rows from the queue, as long as there is room for them.
    fn take(&mut self) -> NoRows {
        loop {
            let room = if self.state.paused {
                true
            } else {
                self.rows.is_empty() && self.out.is_empty()
            };
            if !room {
                return NoRows::Yet;
            }
            match self.shared.take() {
                Ok(rows) => {
                    for row in rows {
                        self.since += 1;
                        self.keep(row);
                    }
                }
                Err(why) => return why,
            }
        }
    }

    fn keep(&mut self, row: Row) {
        let bytes = row.bytes();
        if self.state.paused && self.row_bytes.saturating_add(bytes) > PAUSE_BYTES {
            self.counts.passed += 1;
            let one = BTreeMap::from([(row.event_type(), 1)]);
            self.shared.dropped(&one, VIEW_PAUSED);
            return;
        }
        self.row_bytes += bytes;
        self.rows.push_back(row);
        self.counts.waiting = count(self.rows.len());
    }

    /// Who watches left while paused: what waited for them is not shown.
    fn drop_rows(&mut self) {
        let mut counts = BTreeMap::new();
        for row in self.rows.drain(..) {
            *counts.entry(row.event_type()).or_default() += 1;
        }
        self.row_bytes = 0;
        self.shared.dropped(&counts, VIEW_PAUSED);
    }

    /// Keys that were pressed.
    fn hear(&mut self) -> io::Result<()> {
        if !self.taken || self.deaf || !self.readable() {
            return Ok(());
        }
        // Another job may have the terminal by now; reading would stop the sensor.
        if !self.front.terminal.foreground() {
            self.taken = false;
            self.erase();
            return Ok(());
        }
        match self.front.terminal.read() {
            Ok(bytes) => {
                for byte in bytes {
                    if let Some(key) = self.keys.byte(byte) {
                        self.press(key);
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn readable(&self) -> bool {
        let mut input = [PollFd::from_borrowed_fd(
            self.front.terminal.input(),
            PollFlags::IN,
        )];
        let now = Timespec::default();
        rustix::event::poll(&mut input, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    fn press(&mut self, key: key::Key) {
        let paused = self.state.paused;
        match self.state.key(key) {
            Act::Nothing | Act::Status => {}
            Act::Anew => {
                let look = self.pretty.look();
                (look.tree, look.wide) = (self.state.tree, self.state.wide);
                self.pretty.begin_anew();
                self.counts.hidden = 0;
            }
            Act::Help => self.help = true,
            Act::Quit => {
                self.front.left.store(true, Ordering::Relaxed);
                (self.listener)(Notice::Left);
            }
        }
        if paused && !self.state.paused {
            self.gap = std::mem::take(&mut self.counts.passed);
        }
    }

    /// Removes the bottom line.
    fn erase(&mut self) {
        if !self.bar.is_empty() {
            self.out.extend_from_slice(ERASE);
            self.bar.clear();
        }
    }

    /// Fills [`Self::out`], once the terminal has taken what was in it, with what there is to write.
    fn compose(&mut self) {
        if self.written > 0 || self.out.len() >= PIECE_BYTES {
            return;
        }
        if std::mem::take(&mut self.help) {
            self.erase();
            for line in help(self.pretty.look().ascii) {
                self.pretty.words(&line, &mut self.out);
            }
        }
        while !self.state.paused && self.out.len() < PIECE_BYTES {
            let Some(row) = self.rows.pop_front() else {
                break;
            };
            self.row_bytes = self.row_bytes.saturating_sub(row.bytes());
            *self.in_out.entry(row.event_type()).or_default() += 1;
            if self.state.shows(&row) {
                self.erase();
                self.pretty.row(&row, &mut self.out);
            } else {
                self.counts.hidden += 1;
            }
        }
        if self.gap > 0 && !self.state.paused && self.rows.is_empty() {
            let text = format!(
                "{} events passed while paused and had no room ({VIEW_PAUSED})",
                std::mem::take(&mut self.gap)
            );
            self.erase();
            self.pretty.words(&[(Style::Bad, text)], &mut self.out);
        }
        self.counts.waiting = count(self.rows.len());
        self.compose_bar();
    }

    /// The bottom line, if it says something else than before, or is not there.
    fn compose_bar(&mut self) {
        let (Some(width), Some(height)) = self.size else {
            return;
        };
        if !self.taken || width < LEAST_WIDTH || height < LEAST_HEIGHT {
            self.erase();
            return;
        }
        let facts = Facts {
            lost: self.facts.lost.saturating_add(self.shared.lock().lost()),
            ..self.facts.clone()
        };
        let hints = if self.state.prompt.is_some() {
            PROMPT_HINTS
        } else {
            HINTS
        };
        let mut bar = Vec::new();
        let words = words(&self.state, &self.counts, &facts);
        self.pretty.bar(&words, hints, &mut bar);
        if bar != self.bar || self.stale {
            self.erase();
            if self.stale {
                self.out.extend_from_slice(ERASE);
            }
            self.stale = false;
            self.out.extend_from_slice(&bar);
            // At its beginning, where a resize finds it.
            self.out.push(b'\r');
            self.bar = bar;
        }
    }

    /// Writes as much as the terminal takes now.
    fn write(&mut self) -> io::Result<()> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.front.terminal.write(rest)? {
                0 => return Ok(()),
                count => self.written += count,
            }
        }
        self.out.clear();
        self.written = 0;
        let counts = std::mem::take(&mut self.in_out);
        self.shared.acked(&counts);
        Ok(())
    }

    /// Waits until there is something to do.
    fn wait(&mut self) {
        let full = !self.out.is_empty();
        let more = !self.state.paused && !self.rows.is_empty() && !full && !self.hidden;
        let due = TICK.saturating_sub(self.ticked.elapsed());
        let due = due.max(Duration::from_millis(1));
        let waits = self.keys.waits();
        let time = match (more, waits) {
            (true, _) => Duration::ZERO,
            (false, true) => due.min(ESCAPE_TIME),
            (false, false) => due,
        };
        let mut waiting = vec![PollFd::new(&*self.front.bell, PollFlags::IN)];
        if self.taken && !self.deaf {
            waiting.push(PollFd::from_borrowed_fd(
                self.front.terminal.input(),
                PollFlags::IN,
            ));
        }
        let output = self.front.terminal.output();
        if full && !self.hidden {
            waiting.push(PollFd::from_borrowed_fd(output, PollFlags::OUT));
        }
        let time = Timespec::try_from(time).ok();
        let ready = rustix::event::poll(&mut waiting, time.as_ref());
        if waits
            && ready == Ok(0)
            && let Some(key) = self.keys.settle()
        {
            self.press(key);
        }
        match rustix::io::read(&self.front.bell, &mut [0; 8]) {
            // One that was rung often is heard once, one that was not is silent.
            Ok(_) | Err(_) => {}
        }
    }

    /// Leaves the terminal as it was.
    fn finish(&mut self) {
        self.erase();
        let until = Instant::now() + LAST_MOMENT;
        while !self.out.is_empty() && Instant::now() < until {
            if self.write().is_err() {
                break;
            }
            if !self.out.is_empty() {
                let output = self.front.terminal.output();
                let mut waiting = [PollFd::from_borrowed_fd(output, PollFlags::OUT)];
                let time = Timespec::try_from(LAST_MOMENT).ok();
                if rustix::event::poll(&mut waiting, time.as_ref()).is_err() {
                    break;
                }
            }
        }
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Takes the whole lines out of a text.
fn take_lines(text: &mut Vec<u8>) -> Vec<u8> {
    let end = text.iter().rposition(|byte| *byte == b'\n');
    text.drain(..end.map_or(0, |end| end + 1)).collect()
}

#[cfg(test)]
mod tests;
