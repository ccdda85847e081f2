//! Facts about a file that the record does not carry: birth time, attributes, access lists, capabilities, and what its
//! content is by the first bytes.
//!
//! Asked of an open descriptor, never of a path. Every answer has a size limit; what the file system does not know is
//! `None`. Nothing here decides whether the file is the one of the event: that is [`crate::enrich::hash`].

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use sensor_proto::v1::{ContentType, FileCapabilities};
use uuid::Uuid;

use crate::kernel::sys;

/// A POSIX list of 1,000 entries; ext4 holds 500.
const ACL_MAX_BYTES: usize = 8 << 10;
/// Largest value of an extended attribute (linux/limits.h).
const XATTR_SIZE_MAX: usize = 64 << 10;
/// `struct vfs_ns_cap_data`, version 3.
const CAPABILITY_MAX_BYTES: usize = 24;
/// Bytes of the content that [`content_type`] looks at: up to the mark of a tar archive.
pub const HEAD_BYTES: usize = 512;

/// What an open file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// Birth, ns since 1970. Source: statx(2) `stx_btime`. `None`: the file system does not keep it.
    pub btime_ns: Option<i64>,
    /// Attributes that are set, of those that the file system knows. Source: statx(2) `stx_attributes`.
    pub attributes: u64,
    /// What the content is. `Unspecified`: it was not read.
    pub content: ContentType,
    /// ELF class, type and machine. `None`: no ELF file.
    pub elf: Option<Elf>,
    /// Capabilities given to who executes it. Source: `security.capability`.
    pub capabilities: Option<FileCapabilities>,
    /// Access list in its text form, ids as numbers; `None`: nothing beyond the mode. Source: `system.posix_acl_access`.
    pub acl: Option<String>,
    /// fs-verity digest, where the file is under it.
    pub verity: Option<sys::VerityDigest>,
    /// `f_fsid` of statfs(2): which file system, on most of them the same on every boot. 0: not known.
    pub fs_id: u64,
}

/// What an ELF header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elf {
    /// 32 or 64 bits.
    pub bits: u8,
    /// `e_type`: 1 relocatable, 2 executable, 3 shared, 4 core.
    pub kind: u16,
    /// `e_machine`: 62 x86-64, 183 arm64, ...
    pub machine: u16,
}

/// Asks everything of an open file.
///
/// `file` was opened for reading (not with `O_PATH`); `head` are its first bytes, up to [`HEAD_BYTES`]; empty: the file
/// is empty, `None`: it was not read.
#[must_use]
pub fn facts(file: BorrowedFd<'_>, head: Option<&[u8]>) -> FileFacts {
    let mut facts = FileFacts {
        capabilities: capabilities(file),
        acl: access_list(file, "system.posix_acl_access"),
        ..FileFacts::default()
    };
    let asked = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME);
    if let Ok(statx) = asked {
        if StatxFlags::from_bits_retain(statx.stx_mask).contains(StatxFlags::BTIME) {
            facts.btime_ns = Some(nanoseconds(statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec));
        }
        let set = statx.stx_attributes & statx.stx_attributes_mask;
        facts.attributes = set.bits();
        if set.contains(StatxAttributes::VERITY) {
            facts.verity = sys::verity_digest(file).ok();
        }
    }
    if let Ok(statvfs) = rustix::fs::fstatvfs(file) {
        facts.fs_id = statvfs.f_fsid;
    }
    if let Some(head) = head {
        facts.elf = elf(head);
        facts.content = content_type(head);
    }
    facts
}

/// Access list that new files in a folder inherit, in its text form; `None`: it has none.
/// `folder` may be opened with `O_PATH`.
#[must_use]
pub fn default_access_list(folder: BorrowedFd<'_>) -> Option<String> {
    // fgetxattr(2) refuses O_PATH: go by the link of the kernel.
    let mut value = [0_u8; ACL_MAX_BYTES];
    let path = descriptor_path(folder);
    let length = rustix::fs::getxattr(path, "system.posix_acl_default", &mut value).ok()?;
    access_list_text(value.get(..length)?)
}

/// Path by which an open descriptor of ours is reached, whatever became of its name.
#[must_use]
pub fn descriptor_path(file: impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Identity of a file, the same as long as it exists: UUIDv5 in `namespace` of the ASCII string
/// `<fs id>:<device>:<inode>:<generation>:<birth time, ns>`, numbers in decimal, the birth time 0 if not known.
#[must_use]
pub fn unique_id(
    namespace: Uuid,
    fs_id: u64,
    device: u32,
    inode: u64,
    generation: u32,
    btime_ns: Option<i64>,
) -> [u8; 16] {
    let name = format!(
        "{fs_id}:{device}:{inode}:{generation}:{}",
        btime_ns.unwrap_or(0)
    );
    Uuid::new_v5(&namespace, name.as_bytes()).into_bytes()
}

fn nanoseconds(seconds: i64, nanoseconds: u32) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(nanoseconds))
}

fn capabilities(file: BorrowedFd<'_>) -> Option<FileCapabilities> {
    let mut value = [0_u8; CAPABILITY_MAX_BYTES];
    let length = rustix::fs::fgetxattr(file, "security.capability", &mut value).ok()?;
    parse_capabilities(value.get(..length)?)
}

fn access_list(file: BorrowedFd<'_>, name: &str) -> Option<String> {
    let mut value = [0_u8; ACL_MAX_BYTES];
    match rustix::fs::fgetxattr(file, name, &mut value) {
        Ok(length) => access_list_text(value.get(..length)?),
        Err(Errno::RANGE) => {
            // More than a person would write. The kernel allows no attribute beyond this.
            let mut value = vec![0_u8; XATTR_SIZE_MAX];
            let length = rustix::fs::fgetxattr(file, name, &mut value).ok()?;
            access_list_text(value.get(..length)?)
        }
        Err(_) => None,
    }
}

/// `struct vfs_ns_cap_data` of linux/capability.h, versions 1 to 3. `None`: malformed.
fn parse_capabilities(value: &[u8]) -> Option<FileCapabilities> {
    let magic = u32_at(value, 0)?;
    let (pairs, length) = match magic >> 24 {
        1 => (1, 12),
        2 => (2, 20),
        3 => (2, 24),
        _ => return None,
    };
    if value.len() != length {
        return None;
    }
    let mut permitted = u64::from(u32_at(value, 4)?);
    let mut inheritable = u64::from(u32_at(value, 8)?);
    if pairs == 2 {
        permitted |= u64::from(u32_at(value, 12)?) << 32;
        inheritable |= u64::from(u32_at(value, 16)?) << 32;
    }
    Some(FileCapabilities {
        permitted,
        inheritable,
        effective: magic & 1 != 0,
        root_uid: if length == 24 {
            u32_at(value, 20)
        } else {
            None
        },
    })
}

/// `struct posix_acl_xattr_header` and its entries as `user::rw-,user:1000:r--,...`. `None`: malformed or empty.
fn access_list_text(value: &[u8]) -> Option<String> {
    if u32_at(value, 0)? != 2 {
        return None;
    }
    let mut text = String::new();
    for entry in value.get(4..)?.chunks(8) {
        let [tag_low, tag_high, bits, _, id @ ..] = entry else {
            return None;
        };
        let id = u32::from_le_bytes(id.try_into().ok()?);
        let (name, named) = match u16::from_le_bytes([*tag_low, *tag_high]) {
            0x01 => ("user", false),
            0x02 => ("user", true),
            0x04 => ("group", false),
            0x08 => ("group", true),
            0x10 => ("mask", false),
            0x20 => ("other", false),
            _ => return None,
        };
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push(':');
        if named {
            text.push_str(&id.to_string());
        }
        text.push(':');
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            text.push(if bits & bit != 0 { letter } else { '-' });
        }
    }
    (!text.is_empty()).then_some(text)
}

/// The ELF header, if `head` begins with one.
#[must_use]
pub fn elf(head: &[u8]) -> Option<Elf> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let bits = match head.get(4)? {
        1 => 32,
        2 => 64,
        _ => return None,
    };
    let big_endian = *head.get(5)? == 2;
    let number = |at: usize| -> Option<u16> {
        let bytes = [*head.get(at)?, *head.get(at + 1)?];
        Some(if big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        })
    };
    Some(Elf {
        bits,
        kind: number(16)?,
        machine: number(18)?,
    })
}

/// Beginnings of the formats that are told apart, longest first where one begins as another does.
const BEGINNINGS: [(&[u8], ContentType); 20] = [
    (b"#!", ContentType::Script),
    (b"\x1f\x8b", ContentType::Archive),
    (b"PK\x03\x04", ContentType::Archive),
    (b"PK\x05\x06", ContentType::Archive),
    (b"\xfd7zXZ\0", ContentType::Archive),
    (b"\x28\xb5\x2f\xfd", ContentType::Archive),
    (b"BZh", ContentType::Archive),
    (b"7z\xbc\xaf\x27\x1c", ContentType::Archive),
    (b"Rar!\x1a\x07", ContentType::Archive),
    (b"!<arch>\n", ContentType::Archive),
    (b"\x04\x22\x4d\x18", ContentType::Archive),
    (b"070701", ContentType::Archive),
    (b"070702", ContentType::Archive),
    (b"070707", ContentType::Archive),
    (b"\xed\xab\xee\xdb", ContentType::Archive),
    (b"MZ", ContentType::Pe),
    (b"%PDF-", ContentType::Pdf),
    (b"\xca\xfe\xba\xbe", ContentType::Bytecode),
    (b"\0asm", ContentType::Bytecode),
    (b"BC\xc0\xde", ContentType::Bytecode),
];

/// What the content is, by its first bytes (up to [`HEAD_BYTES`]).
#[must_use]
pub fn content_type(head: &[u8]) -> ContentType {
    if head.is_empty() {
        return ContentType::Empty;
    }
    if let Some(elf) = elf(head) {
        return match elf.kind {
            1 => ContentType::ElfRelocatable,
            2 => ContentType::ElfExecutable,
            3 => ContentType::ElfShared,
            4 => ContentType::ElfCore,
            _ => ContentType::Other,
        };
    }
    let known = BEGINNINGS
        .iter()
        .find(|(beginning, _)| head.starts_with(beginning));
    if let Some((_, kind)) = known {
        return *kind;
    }
    // Compiled Python: a version number, then CR LF.
    if head.get(2..4) == Some(b"\r\n") && head.len() >= 16 {
        return ContentType::Bytecode;
    }
    if head.get(257..262) == Some(b"ustar") {
        return ContentType::Archive;
    }
    ContentType::Other
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn own_program_is_elf() {
        let file = File::open("/proc/self/exe").unwrap();
        let mut head = [0; HEAD_BYTES];
        let length = rustix::io::read(&file, &mut head[..]).unwrap();
        let facts = facts(file.as_fd(), Some(&head[..length]));
        assert_eq!(facts.content, ContentType::ElfShared);
        let elf = facts.elf.unwrap();
        assert_eq!((elf.bits, elf.kind), (64, 3));
        let machine = if cfg!(target_arch = "x86_64") {
            62
        } else {
            183
        };
        assert_eq!(elf.machine, machine);
    }

    #[test]
    fn birth_time_equals_stat() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"#!/bin/sh\n").unwrap();
        let file = File::open(&path).unwrap();
        let facts = facts(file.as_fd(), Some(b"#!/bin/sh\n"));
        let expected = std::fs::metadata(&path).unwrap().created().ok().map(|at| {
            let since = at.duration_since(std::time::UNIX_EPOCH).unwrap();
            i64::try_from(since.as_nanos()).unwrap()
        });
        assert_eq!(facts.btime_ns, expected);
        assert_eq!(facts.content, ContentType::Script);
        assert_eq!(facts.capabilities, None);
        assert_eq!(facts.acl, None);
    }

    #[test]
    fn access_lists_and_capabilities_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"").unwrap();
        let file = File::open(&path).unwrap();
        let entry = |tag: u16, bits: u16, id: u32| {
            let mut bytes = tag.to_le_bytes().to_vec();
            bytes.extend(bits.to_le_bytes());
            bytes.extend(id.to_le_bytes());
            bytes
        };
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, bits, id) in [
            (1, 6, u32::MAX),
            (2, 4, 1000),
            (4, 4, u32::MAX),
            (0x10, 4, u32::MAX),
            (0x20, 0, u32::MAX),
        ] {
            list.extend(entry(tag, bits, id));
        }
        let flags = rustix::fs::XattrFlags::empty();
        let expected = "user::rw-,user:1000:r--,group::r--,mask::r--,other::---";
        assert_eq!(access_list_text(&list).as_deref(), Some(expected));
        // Not every file system of a test machine has lists.
        if rustix::fs::fsetxattr(&file, "system.posix_acl_access", &list, flags).is_ok() {
            let found = facts(file.as_fd(), Some(b""));
            assert_eq!(found.acl.as_deref(), Some(expected));
            assert_eq!(found.content, ContentType::Empty);
        }
        let open = File::open(folder.path()).unwrap();
        if rustix::fs::fsetxattr(&open, "system.posix_acl_default", &list, flags).is_ok() {
            let handle = rustix::fs::open(
                folder.path(),
                rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .unwrap();
            assert_eq!(
                default_access_list(handle.as_fd()).as_deref(),
                Some(expected)
            );
        }
        // cap_net_raw=ep
        let mut capability = 0x0200_0001_u32.to_le_bytes().to_vec();
        for word in [1_u32 << 13, 0, 1 << 1, 0] {
            capability.extend(word.to_le_bytes());
        }
        let expected = FileCapabilities {
            permitted: (1 << 13) | (1 << 33),
            inheritable: 0,
            effective: true,
            root_uid: None,
        };
        assert_eq!(parse_capabilities(&capability), Some(expected));
        if rustix::fs::fsetxattr(&file, "security.capability", &capability, flags).is_ok() {
            assert_eq!(facts(file.as_fd(), None).capabilities, Some(expected));
        }
    }

    #[test]
    fn malformed_attributes_are_refused() {
        for value in [
            &b""[..],
            b"\x02\0\0\0",
            b"\x01\0\0\0aaaaaaaa",
            b"\x02\0\0\0abc",
        ] {
            assert_eq!(access_list_text(value), None, "{value:?}");
            assert_eq!(parse_capabilities(value), None, "{value:?}");
        }
        let mut version3 = 0x0300_0000_u32.to_le_bytes().to_vec();
        version3.extend([0; 16]);
        assert_eq!(parse_capabilities(&version3), None);
        version3.extend(1000_u32.to_le_bytes());
        let parsed = parse_capabilities(&version3).unwrap();
        assert_eq!((parsed.root_uid, parsed.effective), (Some(1000), false));
    }

    #[test]
    fn contents() {
        let check = |head: &[u8], expected| assert_eq!(content_type(head), expected, "{head:?}");
        check(b"", ContentType::Empty);
        check(b"#", ContentType::Other);
        check(b"#!/usr/bin/python3\n", ContentType::Script);
        check(b"\x1f\x8b\x08", ContentType::Archive);
        check(b"\x7fELF", ContentType::Other);
        check(
            b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\x3e\0",
            ContentType::ElfRelocatable,
        );
        check(
            b"\x7fELF\x01\x02\x01\0\0\0\0\0\0\0\0\0\0\x02\0\x08",
            ContentType::ElfExecutable,
        );
        check(b"MZ\x90", ContentType::Pe);
        check(b"%PDF-1.7", ContentType::Pdf);
        check(
            b"\xcb\x0d\r\n\0\0\0\0\0\0\0\0\0\0\0\0",
            ContentType::Bytecode,
        );
        let mut tar = vec![b'a'; 257];
        tar.extend(b"ustar\0");
        check(&tar, ContentType::Archive);
        check(b"text", ContentType::Other);
    }

    #[test]
    fn unique_ids_differ_by_every_part() {
        let id = |fs, device, inode, generation, btime| {
            unique_id(Uuid::NAMESPACE_OID, fs, device, inode, generation, btime)
        };
        let first = id(1, 2, 3, 4, Some(5));
        assert_eq!(first, id(1, 2, 3, 4, Some(5)));
        for other in [
            id(9, 2, 3, 4, Some(5)),
            id(1, 9, 3, 4, Some(5)),
            id(1, 2, 9, 4, Some(5)),
            id(1, 2, 3, 9, Some(5)),
            id(1, 2, 3, 4, None),
        ] {
            assert_ne!(first, other);
        }
    }
}
