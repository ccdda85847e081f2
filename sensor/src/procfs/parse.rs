//! Pure parsers of what `/proc` says: bytes in, values out.
//!
//! They refuse nothing that the kernel can write (names with newlines and parentheses, deleted paths, bytes that are
//! not UTF-8) and never panic on what it cannot.

/// What a parser could not make sense of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: {place}")]
pub struct Malformed {
    /// File, by its name below `/proc/PID` or `/proc`.
    pub what: &'static str,
    /// Field or line in it.
    pub place: &'static str,
}

/// Value of `loginuid` and `sessionid` that says "never set".
pub const NOT_SET: u32 = u32::MAX;

/// `PF_KTHREAD` in [`Stat::flags`]: a thread of the kernel itself.
const PF_KTHREAD: u64 = 0x0020_0000;

/// `/proc/PID/stat`, as far as the sensor needs it (`proc_pid_stat(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Process id as the reader's pid namespace has it (field 1).
    pub pid: u32,
    /// Short name, without the parentheses around it (field 2). Any bytes.
    pub comm: Vec<u8>,
    /// State letter; `Z` and `X` have ended (field 3).
    pub state: u8,
    /// Parent process, 0 for none (field 4).
    pub parent_pid: u32,
    /// Process group (field 5).
    pub process_group: u32,
    /// POSIX session (field 6).
    pub session: u32,
    /// Device number of the terminal as the kernel gives it to users; 0 for none (field 7).
    pub tty_device: u32,
    /// `task->flags` (field 9).
    pub flags: u64,
    /// Start, in clock ticks since boot (field 22).
    pub start_ticks: u64,
}

impl Stat {
    /// Whether it is a thread of the kernel itself.
    #[must_use]
    pub const fn kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Reads the one line of the file.
    ///
    /// # Errors
    /// [`Malformed`] with the name of the first field that is missing or no number.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bad = |place| Malformed {
            what: "stat",
            place,
        };
        // The name may hold anything, parentheses too: it ends at the last one.
        let open = bytes
            .iter()
            .position(|&byte| byte == b'(')
            .ok_or(bad("comm"))?;
        let close = bytes
            .iter()
            .rposition(|&byte| byte == b')')
            .filter(|close| *close > open)
            .ok_or(bad("comm"))?;
        let head = bytes.get(..open).unwrap_or_default();
        let comm = bytes.get(open + 1..close).unwrap_or_default();
        let tail = bytes.get(close + 1..).unwrap_or_default();
        let mut fields = words(tail);
        let state = fields.next().and_then(<[u8]>::first).copied();
        let mut number = |place| {
            fields
                .next()
                .and_then(signed)
                .and_then(|value| u32::try_from(value.max(0)).ok())
                .ok_or(bad(place))
        };
        let parent_pid = number("ppid")?;
        let process_group = number("pgrp")?;
        let session = number("session")?;
        let tty_device = match fields.next().and_then(signed).ok_or(bad("tty_nr"))? {
            // The kernel prints the unsigned device number with %d.
            value if value < 0 => {
                u32::try_from(value + (1 << 32)).map_err(|_wide| bad("tty_nr"))?
            }
            value => u32::try_from(value).map_err(|_wide| bad("tty_nr"))?,
        };
        let flags = fields.nth(1).and_then(unsigned).ok_or(bad("flags"))?;
        let start_ticks = fields.nth(12).and_then(unsigned).ok_or(bad("starttime"))?;
        Ok(Self {
            pid: words(head).next().and_then(unsigned_32).ok_or(bad("pid"))?,
            comm: comm.to_vec(),
            state: state.ok_or(bad("state"))?,
            parent_pid,
            process_group,
            session,
            tty_device,
            flags,
            start_ticks,
        })
    }
}

/// The five capability sets of `/proc/PID/status`, bit n for capability n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// `CapEff`.
    pub effective: u64,
    /// `CapPrm`.
    pub permitted: u64,
    /// `CapInh`.
    pub inheritable: u64,
    /// `CapBnd`.
    pub bounding: u64,
    /// `CapAmb`.
    pub ambient: u64,
}

/// `/proc/PID/status`, as far as the sensor needs it. Ids are those of the reader's namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Real, effective, saved and file system user.
    pub uid: [u32; 4],
    /// Real, effective, saved and file system group.
    pub gid: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Process id in the process's own pid namespace, `None` where the kernel does not say.
    pub ns_pid: Option<u32>,
    /// Another process traces it; 0 for none.
    pub tracer_pid: u32,
    /// Capability sets, `None` if one of the five lines is missing.
    pub capabilities: Option<CapabilitySets>,
}

impl Status {
    /// Reads the whole file. Lines that are not known are passed over.
    ///
    /// # Errors
    /// [`Malformed`] with the name of the line that is missing (`Uid`, `Gid`) or no number.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let bad = |place| Malformed {
            what: "status",
            place,
        };
        let mut status = Self::default();
        let (mut uid, mut gid) = (None, None);
        let mut sets = [None::<u64>; 5];
        for line in bytes.split(|&byte| byte == b'\n') {
            let Some(colon) = line.iter().position(|&byte| byte == b':') else {
                continue;
            };
            let (key, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default();
            match key {
                b"Uid" => uid = Some(four(value).ok_or(bad("Uid"))?),
                b"Gid" => gid = Some(four(value).ok_or(bad("Gid"))?),
                b"Groups" => {
                    status.groups = words(value)
                        .map(unsigned_32)
                        .collect::<Option<_>>()
                        .ok_or(bad("Groups"))?;
                }
                b"NSpid" => {
                    let own = words(value).last().and_then(unsigned_32);
                    status.ns_pid = Some(own.ok_or(bad("NSpid"))?);
                }
                b"TracerPid" => {
                    let tracer = words(value).next().and_then(unsigned_32);
                    status.tracer_pid = tracer.ok_or(bad("TracerPid"))?;
                }
                b"CapEff" => sets[0] = Some(hexadecimal(value).ok_or(bad("CapEff"))?),
                b"CapPrm" => sets[1] = Some(hexadecimal(value).ok_or(bad("CapPrm"))?),
                b"CapInh" => sets[2] = Some(hexadecimal(value).ok_or(bad("CapInh"))?),
                b"CapBnd" => sets[3] = Some(hexadecimal(value).ok_or(bad("CapBnd"))?),
                b"CapAmb" => sets[4] = Some(hexadecimal(value).ok_or(bad("CapAmb"))?),
                _ => {}
            }
        }
        status.uid = uid.ok_or(bad("Uid"))?;
        status.gid = gid.ok_or(bad("Gid"))?;
        if let [
            Some(effective),
            Some(permitted),
            Some(inheritable),
            Some(bounding),
            Some(ambient),
        ] = sets
        {
            status.capabilities = Some(CapabilitySets {
                effective,
                permitted,
                inheritable,
                bounding,
                ambient,
            });
        }
        Ok(status)
    }
}

/// One line of `/proc/PID/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupLine {
    /// Number of the hierarchy; 0 is version 2.
    pub hierarchy: u32,
    /// Controllers of a version 1 hierarchy, comma-separated, or `name=...`; empty for version 2.
    pub controllers: Vec<u8>,
    /// Path from the root of the hierarchy, as the reader's cgroup namespace shows it.
    pub path: Vec<u8>,
}

/// Reads `/proc/PID/cgroup`.
///
/// # Errors
/// [`Malformed`] if a line has not the form `number:controllers:path`.
pub fn cgroup(bytes: &[u8]) -> Result<Vec<CgroupLine>, Malformed> {
    let bad = |place| Malformed {
        what: "cgroup",
        place,
    };
    bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut parts = line.splitn(3, |&byte| byte == b':');
            Ok(CgroupLine {
                hierarchy: parts.next().and_then(unsigned_32).ok_or(bad("hierarchy"))?,
                controllers: parts.next().ok_or(bad("controllers"))?.to_vec(),
                path: parts.next().ok_or(bad("path"))?.to_vec(),
            })
        })
        .collect()
}

/// One line of `/proc/PID/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Number of the mount, as `mnt_id` in `/proc/PID/fdinfo` has it.
    pub id: u32,
    /// Number of the mount that it lies on.
    pub parent: u32,
    /// Device of the file system, major and minor.
    pub device: (u32, u32),
    /// Which folder of the file system is mounted.
    pub root: Vec<u8>,
    /// Where, in the process's view.
    pub mount_point: Vec<u8>,
    /// Type of the file system, such as `ext4` or `fuse.sshfs`.
    pub fs_type: Vec<u8>,
}

/// Reads `/proc/PID/mountinfo`.
///
/// # Errors
/// [`Malformed`] with the field of the first line that is not as `proc_pid_mountinfo(5)` says.
pub fn mountinfo(bytes: &[u8]) -> Result<Vec<Mount>, Malformed> {
    let bad = |place| Malformed {
        what: "mountinfo",
        place,
    };
    bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut fields = words(line);
            let id = fields.next().and_then(unsigned_32).ok_or(bad("mount id"))?;
            let parent = fields
                .next()
                .and_then(unsigned_32)
                .ok_or(bad("parent id"))?;
            let device = fields.next().and_then(major_minor).ok_or(bad("device"))?;
            let root = unescape_octal(fields.next().ok_or(bad("root"))?);
            let mount_point = unescape_octal(fields.next().ok_or(bad("mount point"))?);
            // Options and any number of optional fields stand before the dash.
            let _options = fields.next().ok_or(bad("options"))?;
            fields.find(|field| *field == b"-").ok_or(bad("dash"))?;
            let fs_type = unescape_octal(fields.next().ok_or(bad("file system type"))?);
            Ok(Mount {
                id,
                parent,
                device,
                root,
                mount_point,
                fs_type,
            })
        })
        .collect()
}

/// One line of `/proc/PID/uid_map` or `gid_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside the user namespace.
    pub inside: u32,
    /// First id in the reader's user namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Reads `/proc/PID/uid_map` or `gid_map`.
///
/// # Errors
/// [`Malformed`] if a line is not three numbers.
pub fn id_map(bytes: &[u8]) -> Result<Vec<IdRange>, Malformed> {
    bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| words(line).next().is_some())
        .map(|line| {
            let mut fields = words(line).map(unsigned_32);
            match (fields.next(), fields.next(), fields.next()) {
                (Some(Some(inside)), Some(Some(outside)), Some(Some(count))) => Ok(IdRange {
                    inside,
                    outside,
                    count,
                }),
                _ => Err(Malformed {
                    what: "id_map",
                    place: "line",
                }),
            }
        })
        .collect()
}

/// Inode number of a namespace link such as `mnt:[4026531841]`.
///
/// # Errors
/// [`Malformed`] if there is no number between brackets.
pub fn namespace_link(bytes: &[u8]) -> Result<u32, Malformed> {
    let open = bytes.iter().position(|&byte| byte == b'[');
    open.and_then(|open| bytes.get(open + 1..))
        .and_then(|rest| rest.strip_suffix(b"]"))
        .and_then(unsigned_32)
        .ok_or(Malformed {
            what: "ns",
            place: "inode number",
        })
}

/// A file that holds one unsigned number: `loginuid`, `sessionid`.
///
/// # Errors
/// [`Malformed`] if it does not.
pub fn number(what: &'static str, bytes: &[u8]) -> Result<u32, Malformed> {
    words(bytes).next().and_then(unsigned_32).ok_or(Malformed {
        what,
        place: "number",
    })
}

/// The 16 bytes of a UUID file such as `/proc/sys/kernel/random/boot_id`.
///
/// # Errors
/// [`Malformed`] if it does not hold a UUID.
pub fn uuid(what: &'static str, bytes: &[u8]) -> Result<[u8; 16], Malformed> {
    uuid::Uuid::try_parse_ascii(bytes.trim_ascii())
        .map(uuid::Uuid::into_bytes)
        .map_err(|_not_a_uuid| Malformed {
            what,
            place: "uuid",
        })
}

/// `/proc/PID/statm` (`proc_pid_statm(5)`): resident pages, the second number.
///
/// # Errors
/// [`Malformed`] if there is none.
pub fn resident_pages(bytes: &[u8]) -> Result<u64, Malformed> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let field = text.split_ascii_whitespace().nth(1);
    let pages = field.and_then(|field| field.parse().ok());
    pages.ok_or(Malformed {
        what: "statm",
        place: "resident",
    })
}

/// `btime` of `/proc/stat`: when the host was booted, in whole seconds since 1970.
///
/// # Errors
/// [`Malformed`] if there is no such line.
pub fn boot_time_seconds(bytes: &[u8]) -> Result<u64, Malformed> {
    bytes
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"btime "))
        .and_then(|rest| words(rest).next())
        .and_then(unsigned)
        .ok_or(Malformed {
            what: "stat",
            place: "btime",
        })
}

/// Process ids of a `cgroup.procs` file. Zeros (processes outside the reader's pid namespace) are left out.
///
/// # Errors
/// [`Malformed`] if a line is no number.
pub fn process_ids(bytes: &[u8]) -> Result<Vec<u32>, Malformed> {
    words(bytes)
        .map(unsigned_32)
        .filter(|pid| *pid != Some(0))
        .collect::<Option<_>>()
        .ok_or(Malformed {
            what: "cgroup.procs",
            place: "process id",
        })
}

fn words(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

fn unsigned(word: &[u8]) -> Option<u64> {
    if word.is_empty() || word.len() > 20 {
        return None;
    }
    word.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

fn unsigned_32(word: &[u8]) -> Option<u32> {
    unsigned(word).and_then(|value| u32::try_from(value).ok())
}

fn signed(word: &[u8]) -> Option<i64> {
    match word.strip_prefix(b"-") {
        Some(rest) => unsigned(rest)
            .and_then(|value| i64::try_from(value).ok())
            .map(i64::wrapping_neg),
        None => unsigned(word).and_then(|value| i64::try_from(value).ok()),
    }
}

fn hexadecimal(value: &[u8]) -> Option<u64> {
    let word = words(value).next().filter(|word| word.len() <= 16)?;
    word.iter().try_fold(0_u64, |value, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some((value << 4) | u64::from(digit))
    })
}

fn four(value: &[u8]) -> Option<[u32; 4]> {
    let mut fields = words(value).map(unsigned_32);
    Some([
        fields.next()??,
        fields.next()??,
        fields.next()??,
        fields.next()??,
    ])
}

fn major_minor(word: &[u8]) -> Option<(u32, u32)> {
    let mut parts = word.splitn(2, |&byte| byte == b':');
    Some((unsigned_32(parts.next()?)?, unsigned_32(parts.next()?)?))
}

/// Undoes the `\ooo` escapes that the kernel writes for space, tab, newline and backslash.
fn unescape_octal(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, tail)) = rest.split_first() {
        if let (
            b'\\',
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ],
        ) = (byte, tail)
        {
            out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
            rest = after;
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAT: &[u8] =
        b"1234 (a ) (b\n) S 12 34 56 34817 1234 4194304 100 0 0 0 5 6 0 0 20 0 1 0 \
        987654 1000 200 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0";

    #[test]
    fn stat_survives_a_hostile_name() {
        let stat = Stat::parse(STAT).unwrap();
        assert_eq!(stat.comm, b"a ) (b\n");
        assert_eq!((stat.pid, stat.state, stat.parent_pid), (1234, b'S', 12));
        assert_eq!((stat.process_group, stat.session), (34, 56));
        assert_eq!(stat.tty_device, 34817);
        assert_eq!(stat.start_ticks, 987_654);
        assert!(!stat.kernel_thread());
    }

    #[test]
    fn stat_reads_the_negative_ids_and_devices_that_the_kernel_prints() {
        let line = b"2 (kthreadd) S 0 0 0 -2147483648 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 7 0";
        let stat = Stat::parse(line).unwrap();
        assert!(stat.kernel_thread());
        assert_eq!(stat.tty_device, 1 << 31);
        assert_eq!(stat.start_ticks, 7);
    }

    #[test]
    fn stat_names_what_is_missing() {
        let place = |bytes: &[u8]| Stat::parse(bytes).unwrap_err().place;
        assert_eq!(place(b""), "comm");
        assert_eq!(place(b"1 )("), "comm");
        assert_eq!(
            place(b"x (a) S 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 5"),
            "pid"
        );
        assert_eq!(place(b"1 (a) S 1 1 1 0 0 0 0 0 0"), "starttime");
        assert_eq!(place(b"1 (a) S one"), "ppid");
    }

    #[test]
    fn status_is_read_in_full() {
        let text = b"Name:\ta\\nUid:\nUmask:\t0022\nTracerPid:\t9\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n\
            Groups:\t10 4294967294 \nNStgid:\t77\t1\nNSpid:\t77\t1\nCapInh:\t0000000000000001\n\
            CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000002\nCapBnd:\t0000000000000003\nCapAmb:\t0000000000000000\n";
        let status = Status::parse(text).unwrap();
        assert_eq!(status.uid, [1, 2, 3, 4]);
        assert_eq!(status.gid, [5, 6, 7, 8]);
        assert_eq!(status.groups, [10, 4_294_967_294]);
        assert_eq!(status.ns_pid, Some(1));
        assert_eq!(status.tracer_pid, 9);
        let sets = status.capabilities.unwrap();
        assert_eq!((sets.inheritable, sets.effective, sets.bounding), (1, 2, 3));
        assert_eq!(sets.permitted, 0x1ff_ffff_ffff);
        assert_eq!(Status::parse(b"Gid:\t1 1 1 1").unwrap_err().place, "Uid");
        assert_eq!(Status::parse(b"Uid:\t1 1 x 1").unwrap_err().place, "Uid");
    }

    #[test]
    fn cgroup_paths_keep_their_colons() {
        let lines = cgroup(b"12:cpu,cpuacct:/a:b\n0::/x.slice/y (deleted)\n").unwrap();
        assert_eq!(lines[0].controllers, b"cpu,cpuacct");
        assert_eq!(lines[0].path, b"/a:b");
        assert_eq!(
            (lines[1].hierarchy, lines[1].path.as_slice()),
            (0, b"/x.slice/y (deleted)".as_slice())
        );
        assert_eq!(cgroup(b"0:/x").unwrap_err().place, "path");
    }

    #[test]
    fn mountinfo_with_escapes_and_optional_fields() {
        let mounts = mountinfo(
            b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime master:1 shared:2 - ext3 /dev/root rw\n\
              25 1 0:22 / /sys rw - sysfs sysfs rw\n",
        )
        .unwrap();
        assert_eq!(mounts[0].mount_point, b"/mnt 2\\x");
        assert_eq!(mounts[0].device, (98, 0));
        assert_eq!(mounts[0].fs_type, b"ext3");
        assert_eq!((mounts[1].id, mounts[1].parent), (25, 1));
        assert_eq!(
            mountinfo(b"1 2 3:4 / / rw shared:1").unwrap_err().place,
            "dash"
        );
    }

    #[test]
    fn small_files() {
        assert_eq!(namespace_link(b"mnt:[4026531841]").unwrap(), 4_026_531_841);
        namespace_link(b"mnt:4026531841").unwrap_err();
        assert_eq!(number("loginuid", b"4294967295").unwrap(), NOT_SET);
        number("loginuid", b"").unwrap_err();
        let id = uuid("boot_id", b"6ba7b810-9dad-11d1-80b4-00c04fd430c8\n").unwrap();
        assert_eq!((id[0], id[15]), (0x6b, 0xc8));
        uuid("boot_id", b"6ba7b810").unwrap_err();
        assert_eq!(
            boot_time_seconds(b"cpu 1 2\nbtime 1700000000\n").unwrap(),
            1_700_000_000
        );
        boot_time_seconds(b"cpu 1 2\n").unwrap_err();
        assert_eq!(process_ids(b"1\n0\n22\n").unwrap(), [1, 22]);
        process_ids(b"1\nx\n").unwrap_err();
        assert_eq!(
            id_map(b"         0     100000      65536\n 65536 1 1\n").unwrap()[0],
            IdRange {
                inside: 0,
                outside: 100_000,
                count: 65_536
            }
        );
        id_map(b"1 2").unwrap_err();
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            drop(Stat::parse(&bytes));
            drop(Status::parse(&bytes));
            drop(cgroup(&bytes));
            drop(mountinfo(&bytes));
            drop(id_map(&bytes));
            drop(process_ids(&bytes));
            let small = (
                namespace_link(&bytes).is_ok(),
                number("n", &bytes).is_ok(),
                uuid("u", &bytes).is_ok(),
                boot_time_seconds(&bytes).is_ok(),
            );
            prop_assert!(!small.2 || bytes.len() >= 32);
        }

        #[test]
        fn a_line_with_any_name_is_read(name in proptest::collection::vec(any::<u8>(), 0..64), start: u64) {
            let mut line = b"7 (".to_vec();
            line.extend_from_slice(&name);
            line.extend_from_slice(b") R 1 2 3 0 -1 64 0 0 0 0 0 0 0 0 20 0 1 0 ");
            line.extend_from_slice(format!("{start} 0 0\n").as_bytes());
            let stat = Stat::parse(&line).unwrap();
            prop_assert_eq!(stat.comm, name);
            prop_assert_eq!(stat.start_ticks, start);
        }

        #[test]
        fn mutated_lines_never_panic(at in 0..STAT.len(), byte: u8) {
            let mut line = STAT.to_vec();
            line[at] = byte;
            drop(Stat::parse(&line));
        }
    }
}
