//! Records: what one eBPF program tells the daemon about one thing that happened.
//!
//! A record is a fixed head followed by a tail of byte strings. The head's [`Text`] fields say, in the order in which
//! they are declared, how many bytes each string has in the tail. [`RecordRef::parse`] is the only way in.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

mod file;
mod module;
mod network;
mod process;

pub use file::{FileCloseRecord, FileCreateRecord, FileIdentity, create, file_flag};
pub use module::{ModuleLoadRecord, module_flag};
pub use network::{ConnectRecord, connect_result};
pub use process::{
    ExecRecord, ExitRecord, ForkRecord, ScriptRecord, Subject, exec_flag, namespace, subject_flag,
};

/// Longest path that is reported, in bytes, without a terminating NUL (`PATH_MAX` - 1).
pub const PATH_MAX: usize = 4095;
/// Most bytes of arguments, and again of environment, that one exec record carries.
pub const ARGS_MAX: usize = 32 * 1024;

/// What every record starts with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Header {
    /// Which record this is, a [`RecordKind`] number.
    pub kind: u16,
    /// CPU on which the record was made.
    pub cpu: u16,
    /// Length of the whole record in bytes, head and tail; equals the length of the ring sample.
    pub size: u32,
    /// Process (thread group) id in the initial pid namespace.
    pub tgid: u32,
    /// Thread id in the initial pid namespace.
    pub pid: u32,
    /// Running number per CPU and lane, counted also for records that were lost: a gap proves loss.
    pub sequence: u64,
    /// `start_boottime` of the thread group leader in ns since boot; with `tgid` the process key. 0: not observed.
    pub start_boot_ns: u64,
    /// `bpf_ktime_get_boot_ns` when the record was made.
    pub time_boot_ns: u64,
}
const _: () = assert!(
    size_of::<Header>() == 40,
    "layout changed: bump ABI_VERSION"
);

/// One byte string in the tail of a record.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct Text {
    /// Bytes stored in the tail.
    pub len: u32,
    /// Bytes that the kernel had; more than `len` when cut, [`Text::LONGER`] when cut and not known,
    /// [`Text::ABSENT`] when it could not be read at all.
    pub true_len: u32,
}
const _: () = assert!(size_of::<Text>() == 8, "layout changed: bump ABI_VERSION");

impl Text {
    /// `true_len` of a string that is longer than what is stored, by an unknown amount.
    pub const LONGER: u32 = u32::MAX;
    /// `true_len` of a string that was not read (`len` is 0).
    pub const ABSENT: u32 = u32::MAX - 1;

    /// Whether less than the whole string is stored.
    #[must_use]
    pub const fn truncated(self) -> bool {
        self.true_len > self.len && self.true_len != Self::ABSENT
    }

    /// Whether the string was not read at all.
    #[must_use]
    pub const fn absent(self) -> bool {
        self.true_len == Self::ABSENT
    }
}

/// A string of a record: the stored bytes, borrowed, and what is known of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRef<'a> {
    /// The stored bytes.
    pub bytes: &'a [u8],
    /// Length and truncation.
    pub text: Text,
}

/// Lanes: rings with budgets of their own, so that a flood in one cannot displace another.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// exec, exit, fork, script, module.
    Process = 0,
    /// File creation and close after write.
    File = 1,
    /// Connections.
    Network = 2,
    /// Losses and the sensor's own matters.
    Control = 3,
}

impl Lane {
    /// How many lanes there are.
    pub const COUNT: usize = 4;
    /// Every lane, in the order in which the reader drains them.
    pub const ALL: [Self; Self::COUNT] = [Self::Process, Self::File, Self::Network, Self::Control];

    /// Name in the ledger and in `sensor status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::File => "file",
            Self::Network => "network",
            Self::Control => "control",
        }
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParseError {
    /// Shorter than a header.
    Short,
    /// `kind` is none that this build knows; the number.
    UnknownKind(u16),
    /// `size` in the header is not the length of the sample.
    Size,
    /// The head of this kind does not fit.
    Head(RecordKind),
    /// The strings' lengths do not add up to the tail.
    Tail(RecordKind),
}

impl ParseError {
    /// Name of the counter of this error.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::UnknownKind(_) => "unknown_kind",
            Self::Size => "size",
            Self::Head(_) => "head",
            Self::Tail(_) => "tail",
        }
    }
}

impl core::fmt::Display for ParseError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Short => f.write_str("shorter than a record header"),
            Self::UnknownKind(kind) => write!(f, "unknown record kind {kind}"),
            Self::Size => f.write_str("size in the header differs from the sample"),
            Self::Head(kind) => write!(f, "{} record shorter than its head", kind.name()),
            Self::Tail(kind) => write!(
                f,
                "{} record whose strings do not fit its tail",
                kind.name()
            ),
        }
    }
}

impl core::error::Error for ParseError {}

/// Head of a record that has a fixed kind and lane; implemented by the `records!` table only.
pub trait Record: FromBytes + IntoBytes + KnownLayout + Immutable {
    /// Its number.
    const KIND: RecordKind;
    /// The ring it goes to.
    const LANE: Lane;
    /// How many strings its tail has.
    const TEXTS: usize;
    /// The descriptors of its strings, in tail order.
    fn texts(&self) -> [Text; MAX_TEXTS];
}

/// Most strings that any record has.
pub const MAX_TEXTS: usize = 6;

/// A parsed record: its head by value, its strings borrowed from the sample.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<'a, T> {
    /// The fixed part.
    pub head: T,
    texts: [&'a [u8]; MAX_TEXTS],
    lengths: [Text; MAX_TEXTS],
}

impl<'a, T: Record> Parsed<'a, T> {
    fn new(sample: &'a [u8]) -> Result<Self, ParseError> {
        let (head, mut tail) =
            T::read_from_prefix(sample).map_err(|_short| ParseError::Head(T::KIND))?;
        let lengths = head.texts();
        let mut texts: [&[u8]; MAX_TEXTS] = [&[]; MAX_TEXTS];
        for (slot, text) in texts.iter_mut().zip(lengths).take(T::TEXTS) {
            let length = usize::try_from(text.len).map_err(|_large| ParseError::Tail(T::KIND))?;
            let (bytes, rest) = tail
                .split_at_checked(length)
                .ok_or(ParseError::Tail(T::KIND))?;
            *slot = bytes;
            tail = rest;
        }
        if !tail.is_empty() {
            return Err(ParseError::Tail(T::KIND));
        }
        Ok(Self {
            head,
            texts,
            lengths,
        })
    }

    /// The string number `index`, counted in the order of the head's `Text` fields; empty and absent beyond them.
    #[must_use]
    pub fn text(&self, index: usize) -> TextRef<'a> {
        let missing = Text {
            len: 0,
            true_len: Text::ABSENT,
        };
        TextRef {
            bytes: self.texts.get(index).copied().unwrap_or_default(),
            text: if index < T::TEXTS {
                self.lengths.get(index).copied().unwrap_or(missing)
            } else {
                missing
            },
        }
    }
}

/// Declares every record once: `number => Name(Struct) in lane, texts [fields], slot, "name"`.
///
/// Expands to the enum [`RecordKind`] (`Name = number`) with `ALL`, `from_number`, `name`, `slot` and `lane`; the
/// enum [`RecordRef`] (`Name(Parsed<Struct>)`) with `parse` and `header`; and `impl Record for Struct`. A record with
/// fields `path: Text, cwd: Text` is listed as `texts [path, cwd]`, in the order in which the tail holds them.
macro_rules! records {
    ($($number:literal => $name:ident($record:ident) in $lane:ident, texts [$($text:ident),*], $slot:literal, $label:literal;)*) => {
        /// Stable number of a record type; never reused.
        #[repr(u16)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RecordKind {
            $(
                #[doc = concat!("[`", stringify!($record), "`]")]
                $name = $number,
            )*
        }

        impl RecordKind {
            /// Every kind, in slot order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The kind with this number.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Name in the ledger.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Position in the table of counters.
            #[must_use]
            pub const fn slot(self) -> u32 {
                match self { $(Self::$name => $slot,)* }
            }

            /// The ring it travels in.
            #[must_use]
            pub const fn lane(self) -> Lane {
                match self { $(Self::$name => Lane::$lane,)* }
            }
        }

        $(
            impl Record for $record {
                const KIND: RecordKind = RecordKind::$name;
                const LANE: Lane = Lane::$lane;
                const TEXTS: usize = <[&str]>::len(&[$(stringify!($text)),*]);
                fn texts(&self) -> [Text; MAX_TEXTS] {
                    let mut all = [Text { len: 0, true_len: Text::ABSENT }; MAX_TEXTS];
                    let mine: [Text; Self::TEXTS] = [$(self.$text),*];
                    for (slot, text) in all.iter_mut().zip(mine) {
                        *slot = text;
                    }
                    all
                }
            }
        )*

        /// A record of any kind, borrowed from its sample.
        #[derive(Clone, Copy, Debug)]
        pub enum RecordRef<'a> {
            $(
                #[doc = concat!("[`", stringify!($record), "`]")]
                $name(Parsed<'a, $record>),
            )*
        }

        impl<'a> RecordRef<'a> {
            /// Reads one sample.
            ///
            /// # Errors
            /// [`ParseError`] for anything that is not a whole, known, consistent record.
            pub fn parse(sample: &'a [u8]) -> Result<Self, ParseError> {
                let (header, _) = Header::read_from_prefix(sample).map_err(|_short| ParseError::Short)?;
                if usize::try_from(header.size) != Ok(sample.len()) {
                    return Err(ParseError::Size);
                }
                match RecordKind::from_number(header.kind).ok_or(ParseError::UnknownKind(header.kind))? {
                    $(RecordKind::$name => Parsed::new(sample).map(Self::$name),)*
                }
            }

            /// The header, whatever the kind.
            #[must_use]
            pub const fn header(&self) -> &Header {
                match self { $(Self::$name(record) => &record.head.header,)* }
            }

            /// The kind.
            #[must_use]
            pub const fn kind(&self) -> RecordKind {
                match self { $(Self::$name(_) => RecordKind::$name,)* }
            }
        }
    };
}

records! {
    100 => Exec(ExecRecord) in Process, texts [path, filename, interpreter, working_directory, arguments, environment], 0, "exec";
    101 => Exit(ExitRecord) in Process, texts [], 1, "exit";
    102 => Fork(ForkRecord) in Process, texts [], 2, "fork";
    103 => Script(ScriptRecord) in Process, texts [path], 3, "script";
    200 => FileCreate(FileCreateRecord) in File, texts [path, other], 4, "file_create";
    201 => FileClose(FileCloseRecord) in File, texts [], 5, "file_close";
    300 => Connect(ConnectRecord) in Network, texts [path], 6, "connect";
    400 => ModuleLoad(ModuleLoadRecord) in Process, texts [path], 7, "module_load";
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    fn script(path: &[u8]) -> Vec<u8> {
        let mut head = ScriptRecord::read_from_bytes(&[0; size_of::<ScriptRecord>()]).unwrap();
        head.header.kind = RecordKind::Script as u16;
        head.header.size = u32::try_from(size_of::<ScriptRecord>() + path.len()).unwrap();
        head.path = Text {
            len: u32::try_from(path.len()).unwrap(),
            true_len: Text::LONGER,
        };
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend_from_slice(path);
        bytes
    }

    #[test]
    fn a_record_is_read_back_with_its_string() {
        let bytes = script(b"/usr/bin/tool");
        let RecordRef::Script(parsed) = RecordRef::parse(&bytes).unwrap() else {
            panic!("wrong kind")
        };
        assert_eq!(parsed.text(0).bytes, b"/usr/bin/tool");
        assert!(parsed.text(0).text.truncated());
        assert!(parsed.text(1).text.absent());
    }

    #[test]
    fn every_inconsistency_is_named() {
        let good = script(b"/x");
        assert_eq!(
            RecordRef::parse(&good[..39]).unwrap_err(),
            ParseError::Short
        );
        assert_eq!(
            RecordRef::parse(&good[..good.len() - 1]).unwrap_err(),
            ParseError::Size
        );
        let mut unknown = good.clone();
        unknown[0] = 0xff;
        unknown[1] = 0xff;
        assert_eq!(
            RecordRef::parse(&unknown).unwrap_err(),
            ParseError::UnknownKind(0xffff)
        );
        let mut short_tail = script(b"");
        let length = short_tail.len();
        short_tail[length - 8] = 1;
        assert_eq!(
            RecordRef::parse(&short_tail).unwrap_err(),
            ParseError::Tail(RecordKind::Script)
        );
        let mut long_tail = good.clone();
        long_tail.push(0);
        let size = u32::try_from(long_tail.len()).unwrap();
        long_tail[4..8].copy_from_slice(&size.to_ne_bytes());
        assert_eq!(
            RecordRef::parse(&long_tail).unwrap_err(),
            ParseError::Tail(RecordKind::Script)
        );
        let mut header_only = good[..40].to_vec();
        header_only[4..8].copy_from_slice(&40_u32.to_ne_bytes());
        assert_eq!(
            RecordRef::parse(&header_only).unwrap_err(),
            ParseError::Head(RecordKind::Script)
        );
    }
}
