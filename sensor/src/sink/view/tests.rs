use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::sync::mpsc;

use nix::pty::{OpenptyResult, openpty};
use rustix::termios::{LocalModes, Winsize};
use sensor_proto::v1::event::Body;
use sensor_proto::v1::{Event, Exec, Exit, FileInfo, Process, ProcessRef};

use super::*;
use crate::sink::{Batch, total};

/// Whether something happens within this time is never a question of speed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal, somebody who sits at it, and the view.
struct Desk {
    master: std::fs::File,
    /// Keeps the terminal as it is when the view has let go of it.
    slave: OwnedFd,
    emulator: vt100::Parser,
    /// Everything that was written to the terminal.
    bytes: Vec<u8>,
    sink: Option<SinkHandle>,
    screen: Option<Screen>,
    notices: mpsc::Receiver<Notice>,
    sent: u32,
}

/// At least one: the emulator has no screen of no size.
fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).unwrap_or(NonZero::<u16>::MIN)
}

fn plain() -> Look {
    Look {
        color: false,
        ascii: false,
        tree: true,
        wide: false,
        width: None,
        height: None,
    }
}

fn row(pid: u32, name: &[u8], exits: bool) -> Row {
    let process = Process {
        unique_pid: vec![u8::try_from(pid % 251).unwrap(); 16],
        pid,
        image: Some(FileInfo {
            path: Some([b"/bin/", name].concat()),
            ..FileInfo::default()
        }),
        argv: vec![name.to_vec(), b"argument".to_vec()],
        ..Process::default()
    };
    let event = Event {
        process: Some(ProcessRef {
            unique_pid: Some(process.unique_pid.clone()),
            pid,
            ..ProcessRef::default()
        }),
        body: Some(if exits {
            Body::Exit(Exit {
                code: Some(0),
                ..Exit::default()
            })
        } else {
            Body::Exec(Exec::default())
        }),
        ..Event::default()
    };
    let view = crate::format::View {
        event: &event,
        process: Some(&process),
        lineage: &[],
        lineage_cut: false,
    };
    Row::of(&view, false)
}

impl Desk {
    fn new(columns: u16, rows: u16, look: Look) -> Self {
        Self::with(columns, rows, look, 8 << 20)
    }

    fn with(columns: u16, rows: u16, look: Look, capacity: usize) -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        let size = |columns, rows| Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&master, size(columns, rows)).unwrap();
        // As its own description of the terminal, which does not block.
        let path = nix::unistd::ttyname(&slave).unwrap();
        let open = |flags| {
            let flags = flags | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
            rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap()
        };
        let output = open(rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK);
        let terminal = Terminal::of(open(rustix::fs::OFlags::RDWR), output);
        let (tell, notices) = mpsc::channel();
        let listener: Listener = Box::new(move |notice| drop(tell.send(notice)));
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        let (sink, screen) = start(
            terminal,
            look,
            Arc::new(bell),
            capacity,
            listener,
            &Confinement::default(),
        )
        .unwrap();
        Self {
            master: master.into(),
            slave,
            emulator: vt100::Parser::new(cells(rows), cells(columns), 10_000),
            bytes: Vec::new(),
            sink: Some(sink),
            screen: Some(screen),
            notices,
            sent: 0,
        }
    }

    fn sink(&self) -> &SinkHandle {
        self.sink.as_ref().unwrap()
    }

    fn send(&mut self, rows: Vec<Row>) {
        let mut batch = Batch::default();
        for row in rows {
            batch.count(row.event_type());
            batch.row(row);
            self.sent += 1;
        }
        self.sink().send(batch);
    }

    /// Programs, each with its number.
    fn programs(&mut self, numbers: std::ops::Range<u32>) {
        self.send(numbers.map(|number| row(number, b"prog", false)).collect());
    }

    fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads what is there.
    fn read(&mut self) {
        let mut piece = [0; 4096];
        while let Ok(count) = self.master.read(&mut piece) {
            if count == 0 {
                break;
            }
            self.bytes.extend_from_slice(&piece[..count]);
            self.emulator.process(&piece[..count]);
        }
    }

    fn contents(&self) -> String {
        self.emulator.screen().contents()
    }

    /// Waits until the screen is as wanted.
    fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.read();
            if wanted(&self.contents()) {
                return;
            }
            assert!(
                Instant::now() < end,
                "waited in vain for {what}:\n{}",
                self.contents()
            );
            let mut waiting = [PollFd::new(&self.master, PollFlags::IN)];
            let time = Timespec::try_from(Duration::from_millis(20)).unwrap();
            rustix::event::poll(&mut waiting, Some(&time)).unwrap();
        }
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        self.read();
        self.emulator
            .screen_mut()
            .set_size(cells(rows), cells(columns));
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
        self.screen.as_ref().unwrap().resized();
    }

    fn modes(&self) -> LocalModes {
        rustix::termios::tcgetattr(&self.slave).unwrap().local_modes
    }

    fn has_keys(&self) -> bool {
        !self
            .modes()
            .intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Closes the view; its account of all types.
    fn close(&mut self) -> crate::ledger::SinkAccount {
        let sink = self.sink.take().unwrap();
        let closing = std::thread::spawn(move || total(sink.close_and_join(PATIENCE).values()));
        while !closing.is_finished() {
            self.read();
            std::thread::yield_now();
        }
        self.read();
        closing.join().unwrap()
    }
}

fn bars(text: &str) -> usize {
    text.lines()
        .filter(|line| line.contains("/s  lost "))
        .count()
}

#[test]
fn lines_scroll_and_the_bottom_line_stays() {
    let mut desk = Desk::new(100, 10, plain());
    for begin in 0..10 {
        desk.programs(begin * 10 + 1..begin * 10 + 11);
    }
    desk.until("the last line", |text| text.contains("prog[100]"));
    desk.until("the bottom line", |text| {
        text.lines()
            .last()
            .is_some_and(|line| line.trim_end().ends_with("? help"))
    });
    assert_eq!(bars(&desk.contents()), 1);
    // What has scrolled away is whole, and the bottom line never went with it.
    desk.emulator.screen_mut().set_scrollback(usize::MAX);
    let first = desk.contents();
    assert!(first.starts_with("TIME (UTC)"), "{first}");
    assert!(first.contains("prog[1] ") && bars(&first) == 0, "{first}");
    desk.emulator.screen_mut().set_scrollback(0);
    let account = desk.close();
    assert_eq!(
        (account.sealed, account.acked, account.waiting),
        (100, 100, 0)
    );
    assert_eq!(bars(&desk.contents()), 0, "{}", desk.contents());
}

#[test]
fn a_resize_leaves_nothing_behind() {
    let mut desk = Desk::new(120, 24, plain());
    desk.until("the bottom line", |text| bars(text) == 1);
    let sizes = [
        (200, 50),
        (80, 24),
        (60, 10),
        (40, 3),
        (120, 3),
        (40, 24),
        (80, 24),
    ];
    for (round, (columns, rows)) in (0..).zip(sizes) {
        desk.resize(columns, rows);
        desk.programs(round * 10 + 1..round * 10 + 6);
        let last = format!("prog[{}]", round * 10 + 5);
        desk.until("a line and the bottom line below it", |text| {
            let mut lines = text.lines().rev();
            let bar = lines.next().unwrap_or_default();
            bar.contains("/s  lost ")
                && bar.chars().count() < usize::from(columns)
                && lines.next().is_some_and(|line| line.contains(&last))
                && bars(text) == 1
        });
    }
    // Too small for one, or of no size at all: none, and lines all the same.
    for (columns, rows) in [(5, 24), (80, 1), (0, 0)] {
        desk.resize(columns, rows);
        desk.programs(200..202);
        desk.until("no bottom line", |text| bars(text) == 0);
    }
    desk.resize(80, 24);
    desk.until("the bottom line", |text| bars(text) == 1);
    assert_eq!(desk.close().acked, u64::from(desk.sent));
}

#[test]
fn a_pause_keeps_what_comes_and_counts_what_it_cannot() {
    let mut desk = Desk::new(100, 24, plain());
    desk.programs(1..2);
    desk.until("a line", |text| text.contains("prog[1]"));
    desk.keys(" ");
    desk.until("the pause", |text| text.contains("PAUSED, 0 wait"));
    desk.programs(2..5);
    desk.until("rows that wait", |text| text.contains("PAUSED, 3 wait"));
    assert!(!desk.contents().contains("prog[2]"));
    assert_eq!(desk.sink().account().waiting, 3);
    desk.keys(" ");
    desk.until("what waited", |text| {
        text.contains("prog[4]") && !text.contains("PAUSED")
    });
    // More than there is room for.
    desk.keys(" ");
    desk.until("the pause", |text| text.contains("PAUSED"));
    let name = b"x".repeat(100_000);
    let many = PAUSE_BYTES / row(9, &name, false).bytes() + 5;
    for _ in 0..many {
        desk.send(vec![row(9, &name, false)]);
    }
    desk.until("the loss", |text| text.contains(" lost  "));
    let end = Instant::now() + PATIENCE;
    while desk.sink().waiting_bytes() > 0 && Instant::now() < end {
        desk.read();
    }
    let lost = desk.sink().account().lost[VIEW_PAUSED];
    assert!((5..10).contains(&lost), "{lost}");
    desk.keys(" ");
    let told = format!("{lost} events passed while paused");
    desk.until("the gap", |text| text.contains(&told));
    let account = desk.close();
    assert_eq!(account.acked + lost, u64::from(desk.sent));
}

#[test]
fn who_leaves_while_paused_is_not_flooded() {
    let mut desk = Desk::new(100, 24, plain());
    desk.keys(" ");
    desk.until("the pause", |text| text.contains("PAUSED"));
    desk.programs(1..30);
    desk.until("rows that wait", |text| text.contains("29 wait"));
    desk.keys("q");
    assert!(matches!(
        desk.notices.recv_timeout(PATIENCE),
        Ok(Notice::Left)
    ));
    assert!(desk.screen.as_ref().unwrap().left());
    desk.programs(30..40);
    let account = desk.close();
    assert_eq!((account.acked, account.lost[VIEW_PAUSED]), (0, 39));
    assert!(!desk.contents().contains("prog["), "{}", desk.contents());
}

#[test]
fn only_what_is_asked_for_is_shown() {
    let mut desk = Desk::new(110, 24, plain());
    desk.keys("2");
    desk.until("the type", |text| text.contains("only exit, 0 hidden"));
    desk.send(vec![row(1, b"one", false), row(1, b"one", true)]);
    desk.until("the exit", |text| {
        text.contains("exit") && text.contains("1 hidden")
    });
    assert!(!desk.contents().contains("argument"));
    desk.keys("0/T\x7ftwo\x1b[A");
    desk.until("the prompt", |text| text.contains("show only: two_"));
    desk.keys("\r");
    desk.until("the text", |text| text.contains("only 'two', 0 hidden"));
    desk.send(vec![row(3, b"three", false), row(2, b"two", false)]);
    desk.until("what says it", |text| text.contains("two argument"));
    assert!(!desk.contents().contains("three"));
    desk.keys("\x1b");
    desk.until("no filter", |text| !text.contains("only"));
    desk.keys("?");
    desk.until("the help", |text| {
        text.contains("verdicts") && text.contains("bash[4711]")
    });
    desk.keys("w");
    desk.until("wide lines", |text| text.contains(" wide"));
    desk.keys("t");
    desk.until("no tree", |text| text.contains(" list"));
    // What was not shown was not wanted: it is delivered.
    assert_eq!(desk.close().acked, 4);
}

#[test]
fn the_terminal_is_given_back() {
    let mut desk = Desk::new(100, 24, plain());
    let before = desk.modes() | LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
    desk.until("the bottom line", |text| bars(text) == 1);
    assert!(desk.has_keys());
    assert!(
        desk.modes().contains(LocalModes::ISIG),
        "Ctrl-C is a signal"
    );
    // For a while, and again.
    desk.screen.as_ref().unwrap().hide();
    assert_eq!(desk.modes(), before);
    desk.read();
    assert_eq!(bars(&desk.contents()), 0);
    desk.screen.as_ref().unwrap().show();
    desk.until("the bottom line", |text| bars(text) == 1);
    assert!(desk.has_keys());
    // Whoever else changed them: they are set again.
    let mut others = rustix::termios::tcgetattr(&desk.slave).unwrap();
    others.local_modes = before;
    rustix::termios::tcsetattr(&desk.slave, rustix::termios::OptionalActions::Now, &others)
        .unwrap();
    desk.screen.as_ref().unwrap().again();
    let end = Instant::now() + PATIENCE;
    while !desk.has_keys() && Instant::now() < end {
        desk.read();
    }
    assert!(desk.has_keys());
    // By an error of the main thread, which drops it.
    drop(desk.screen.take());
    assert_eq!(desk.modes(), before);
}

#[test]
fn at_its_end_too() {
    let mut desk = Desk::new(100, 24, plain());
    let before = desk.modes() | LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
    desk.until("the bottom line", |text| bars(text) == 1);
    assert!(desk.has_keys());
    desk.close();
    assert_eq!(desk.modes(), before);
}

/// Nobody reads: the pipeline waits half a second once, keys are heard, and what finds no room is counted.
#[test]
fn a_terminal_that_takes_nothing_holds_up_nobody() {
    let mut desk = Desk::with(100, 24, plain(), 64 << 10);
    desk.until("the bottom line", |text| bars(text) == 1);
    for begin in 0..100 {
        desk.programs(begin * 40 + 1..begin * 40 + 41);
    }
    let lost = desk.sink().account().lost[crate::sink::OUTPUT_FULL];
    assert!(lost > 0);
    desk.keys("q");
    assert!(matches!(
        desk.notices.recv_timeout(PATIENCE),
        Ok(Notice::Left)
    ));
    // It takes something again.
    let account = desk.close();
    assert_eq!(account.acked + lost, u64::from(desk.sent));
}

#[test]
fn a_terminal_that_is_gone_ends_the_run() {
    let mut desk = Desk::new(100, 24, plain());
    desk.until("the bottom line", |text| bars(text) == 1);
    let null = std::fs::File::open("/dev/null").unwrap();
    drop(std::mem::replace(&mut desk.master, null));
    let notice = desk.notices.recv_timeout(PATIENCE);
    assert!(matches!(notice, Ok(Notice::Closed(_))), "{notice:?}");
    desk.programs(1..2);
    let sink = desk.sink.take().unwrap();
    let account = total(sink.close_and_join(PATIENCE).values());
    assert_eq!((account.acked, account.lost[OUTPUT_CLOSED]), (0, 1));
}

/// Without colours nothing but the bottom line is steered, and nothing from outside steers anything.
#[test]
fn no_sequence_but_the_eraser() {
    let mut desk = Desk::new(100, 24, plain());
    desk.send(vec![row(
        1,
        b"\x1b]0;owned\x07\x1b[2J\xc2\x9b31m\x0e\x1bc",
        false,
    )]);
    desk.until("the line", |text| text.contains("owned"));
    desk.keys("? /x\x1bwt");
    desk.until("no tree", |text| text.contains(" list"));
    desk.close();
    let text = String::from_utf8(desk.bytes).unwrap();
    let rest = text.replace("\r\x1b[J", "").replace("\r\n", "");
    assert!(
        !rest.chars().any(|c| c.is_control() && c != '\r'),
        "{rest:?}"
    );
}

#[test]
fn lines_of_the_log_stand_above_the_bottom_line() {
    let mut desk = Desk::new(100, 24, plain());
    desk.until("the bottom line", |text| bars(text) == 1);
    let front = Arc::clone(&desk.screen.as_ref().unwrap().0);
    front.lock().log.extend_from_slice(b"INFO ready\nhalf a ");
    front.ring();
    desk.until("the line", |text| {
        text.contains("INFO ready") && bars(text) == 1
    });
    assert!(!desk.contents().contains("half"));
    front.lock().log.extend_from_slice(b"line\n");
    front.lock().log_left_out = 7;
    front.ring();
    desk.until("the other", |text| {
        text.contains("half a line\n7 bytes of the log") && bars(text) == 1
    });
}
