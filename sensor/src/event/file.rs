//! File family.

use sensor_common::layout::Field;
use sensor_common::record::{FileCreateRecord, FileIdentity, Parsed, TextRef, create};
use sensor_proto::field::{file_create as create_number, file_info as number};
use sensor_proto::v1;

use super::{Absences, Context};

/// `s_magic` of overlayfs (linux/magic.h).
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

/// File facts of a record: the inode as the kernel had it and the path in the process's view.
#[must_use]
pub fn file_info(context: &Context<'_>, file: &FileIdentity, path: TextRef<'_>) -> v1::FileInfo {
    let mut absent = Absences::default();
    let unread = v1::AbsentReason::ReadFailed;
    if path.text.absent() {
        absent.note(number::PATH, unread);
    }
    let mut info = v1::FileInfo {
        path: super::text(path),
        path_truncated: path.text.truncated(),
        path_true_bytes: (path.text.truncated()
            && path.text.true_len != sensor_common::record::Text::LONGER)
            .then_some(path.text.true_len),
        ..v1::FileInfo::default()
    };
    if file.inode == 0 && file.mode == 0 {
        // Nothing of the inode was read.
        for field in [number::DEVICE, number::INODE, number::MODE, number::SIZE] {
            absent.note(field, unread);
        }
        info.absent = absent.into_vec();
        return info;
    }
    let mut known = |field, value, number| context.known(field, value, number, &mut absent);
    info.device = known(Field::SbDev, file.device, number::DEVICE).map(user_device);
    info.generation = known(Field::InodeGeneration, file.generation, number::GENERATION);
    info.mode = known(Field::InodeMode, file.mode, number::MODE);
    let owner = |id| v1::User {
        id,
        ..v1::User::default()
    };
    info.owner_user = known(Field::InodeUid, file.uid, number::OWNER_USER).map(owner);
    info.owner_group = known(Field::InodeGid, file.gid, number::OWNER_GROUP).map(|id| v1::Group {
        id,
        ..v1::Group::default()
    });
    info.links = known(Field::InodeNlink, file.nlink, number::LINKS);
    let mut known = |field, value, number| context.known(field, value, number, &mut absent);
    info.inode = known(Field::InodeIno, file.inode, number::INODE);
    info.size = known(Field::InodeSize, file.size, number::SIZE);
    info.fs_magic = known(Field::SbMagic, file.fs_magic, number::FS_MAGIC);
    info.mtime_ns = context.known(
        Field::InodeMtimeSec,
        file.mtime_ns,
        number::MTIME_NS,
        &mut absent,
    );
    info.ctime_ns = context.known(
        Field::InodeCtimeSec,
        file.ctime_ns,
        number::CTIME_NS,
        &mut absent,
    );
    info.unlinked = info.links == Some(0);
    info.overlay = info.fs_magic == Some(OVERLAYFS_MAGIC);
    info.set_type(
        info.mode
            .map_or(v1::FileType::Unspecified, v1::FileType::from_mode),
    );
    info.absent = absent.into_vec();
    info
}

/// Body of a file creation.
#[must_use]
pub fn file_create(context: &Context<'_>, record: &Parsed<'_, FileCreateRecord>) -> v1::FileCreate {
    let how = match record.head.how {
        create::OPEN => v1::FileCreateHow::Open,
        create::MKNOD => v1::FileCreateHow::Mknod,
        create::MKDIR => v1::FileCreateHow::Mkdir,
        create::SYMLINK => v1::FileCreateHow::Symlink,
        create::LINK => v1::FileCreateHow::Link,
        create::LINK_UNNAMED => v1::FileCreateHow::LinkUnnamed,
        _ => v1::FileCreateHow::Unspecified,
    };
    let mut file = file_info(context, &record.head.file, record.text(0));
    let other = record.text(1);
    let mut absent = Absences::default();
    let mut linked_from = None;
    if how == v1::FileCreateHow::Symlink {
        file.link_target = super::text(other);
        if other.text.absent() {
            file.absent.push(v1::Absent::new(
                number::LINK_TARGET,
                v1::AbsentReason::ReadFailed,
            ));
        }
    } else if how == v1::FileCreateHow::Link {
        linked_from = super::text(other);
        if other.text.absent() {
            absent.note(create_number::LINKED_FROM, v1::AbsentReason::ReadFailed);
        }
    }
    let device = matches!(
        file.r#type(),
        v1::FileType::CharacterDevice | v1::FileType::BlockDevice
    );
    let node_device = if device {
        let value = record.head.node_device;
        let field = create_number::NODE_DEVICE;
        context.known(Field::InodeRdev, value, field, &mut absent)
    } else {
        None
    };
    v1::FileCreate {
        how: how.into(),
        file: Some(file),
        linked_from_truncated: linked_from.is_some() && other.text.truncated(),
        linked_from,
        node_device: node_device.map(user_device),
        absent: absent.into_vec(),
        ..v1::FileCreate::default()
    }
}

/// Takes over what changed until the last writer closed the file: size, times, mode, owner, links.
pub fn merge_closed(info: &mut v1::FileInfo, closed: v1::FileInfo) {
    info.size = closed.size;
    info.mtime_ns = closed.mtime_ns;
    info.ctime_ns = closed.ctime_ns;
    info.mode = closed.mode;
    info.links = closed.links;
    info.unlinked = closed.unlinked;
    let same = |old: Option<u32>, new: Option<u32>| old == new;
    if !same(
        info.owner_user.as_ref().map(|user| user.id),
        closed.owner_user.as_ref().map(|user| user.id),
    ) {
        info.owner_user = closed.owner_user;
    }
    if !same(
        info.owner_group.as_ref().map(|group| group.id),
        closed.owner_group.as_ref().map(|group| group.id),
    ) {
        info.owner_group = closed.owner_group;
    }
}

/// The kernel's `MKDEV(major, minor)` (20 bits of minor) as stat(2) has it (`new_encode_dev`).
#[must_use]
pub fn user_device(device: u32) -> u32 {
    let (major, minor) = (device >> 20, device & 0xf_ffff);
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

#[cfg(test)]
mod tests {
    use sensor_common::layout::KernelLayout;
    use sensor_common::record::Text;

    use super::*;

    fn identity() -> FileIdentity {
        FileIdentity {
            inode: 12,
            size: 100,
            mtime_ns: 5,
            ctime_ns: 6,
            fs_magic: 0xef53,
            device: (8 << 20) | 300,
            mode: 0o100_755,
            nlink: 1,
            ..FileIdentity::default()
        }
    }

    fn path(bytes: &[u8]) -> TextRef<'_> {
        let len = u32::try_from(bytes.len()).unwrap();
        TextRef {
            bytes,
            text: Text { len, true_len: len },
        }
    }

    #[test]
    fn a_field_that_did_not_resolve_is_absent_with_its_reason() {
        let mut layout = KernelLayout {
            values: [0; Field::COUNT],
        };
        layout.values[Field::InodeGeneration as usize] = sensor_common::layout::ABSENT;
        let context = Context {
            layout: &layout,
            wall_minus_boot_ns: 0,
        };
        let info = file_info(&context, &identity(), path(b"/bin/x"));
        assert_eq!(info.generation, None);
        assert_eq!(info.inode, Some(12));
        assert_eq!(info.r#type(), v1::FileType::Regular);
        let reasons: Vec<_> = info
            .absent
            .iter()
            .map(|gap| (gap.field, gap.reason()))
            .collect();
        assert_eq!(
            reasons,
            [(number::GENERATION, v1::AbsentReason::UnresolvedInBtf)]
        );
    }

    #[test]
    fn devices_are_encoded_as_stat_does() {
        // 8:300 is 0x1008 | low bits: makedev(8, 300) of glibc within 32 bits.
        let (major, minor) = (8_u64, 300_u64);
        let encoded = u64::from(user_device((8 << 20) | 300));
        assert_eq!((encoded >> 8) & 0xfff, major);
        assert_eq!((encoded & 0xff) | ((encoded >> 12) & 0xfff00), minor);
    }

    /// A record as the programs make it, read back.
    fn create(how: u32, mode: u32, other: Text, bytes: &[u8]) -> v1::FileCreate {
        use zerocopy::{FromBytes as _, IntoBytes as _};
        let size = size_of::<FileCreateRecord>();
        let mut head = FileCreateRecord::read_from_bytes(&vec![0; size]).unwrap();
        head.header.kind = sensor_common::record::RecordKind::FileCreate as u16;
        head.header.size = u32::try_from(size + 2 + bytes.len()).unwrap();
        head.how = how;
        head.file = FileIdentity { mode, ..identity() };
        head.node_device = (259 << 20) | 70_000;
        (head.path.len, head.path.true_len) = (2, 2);
        head.other = other;
        let sample = [head.as_bytes(), b"/x", bytes].concat();
        let Ok(sensor_common::record::RecordRef::FileCreate(record)) =
            sensor_common::record::RecordRef::parse(&sample)
        else {
            panic!("a file creation");
        };
        let layout = KernelLayout {
            values: [0; Field::COUNT],
        };
        let context = Context {
            layout: &layout,
            wall_minus_boot_ns: 0,
        };
        file_create(&context, &record)
    }

    #[test]
    fn the_other_name_is_a_target_or_an_old_name() {
        let whole = Text {
            len: 3,
            true_len: 3,
        };
        let symlink = create(create::SYMLINK, 0o120_777, whole, b"../");
        let file = symlink.file.unwrap();
        assert_eq!(file.link_target.as_deref(), Some(&b"../"[..]));
        assert_eq!((symlink.linked_from, symlink.node_device), (None, None));
        let cut = Text {
            len: 3,
            true_len: Text::LONGER,
        };
        let link = create(create::LINK, 0o100_644, cut, b"old");
        assert_eq!(link.linked_from.as_deref(), Some(&b"old"[..]));
        assert!(link.linked_from_truncated);
        assert_eq!(link.file.unwrap().link_target, None);
        // Not a link: nothing is taken for a name.
        let folder = create(create::MKDIR, 0o040_755, Text::default(), b"");
        assert_eq!(folder.linked_from, None);
        assert!(folder.absent.is_empty());
    }

    #[test]
    fn another_name_that_was_not_read_is_absent_with_its_reason() {
        let unread = Text {
            len: 0,
            true_len: Text::ABSENT,
        };
        let link = create(create::LINK, 0o100_644, unread, b"");
        assert_eq!(link.linked_from, None);
        assert_eq!(link.absent[0].field, create_number::LINKED_FROM);
        let symlink = create(create::SYMLINK, 0o120_777, unread, b"");
        let file = symlink.file.unwrap();
        assert_eq!(file.absent[0].field, number::LINK_TARGET);
        assert_eq!(file.absent[0].reason(), v1::AbsentReason::ReadFailed);
    }

    #[test]
    fn a_node_tells_its_device_as_stat_does() {
        let node = create(create::MKNOD, 0o060_600, Text::default(), b"");
        let device = u64::from(node.node_device.unwrap());
        assert_eq!((device >> 8) & 0xfff, 259);
        assert_eq!((device & 0xff) | ((device >> 12) & 0xfff00), 70_000);
    }

    #[test]
    fn an_unread_inode_is_said_to_be_unread() {
        let layout = KernelLayout {
            values: [0; Field::COUNT],
        };
        let context = Context {
            layout: &layout,
            wall_minus_boot_ns: 0,
        };
        let info = file_info(&context, &FileIdentity::default(), path(b"/bin/x"));
        assert_eq!(info.size, None);
        assert!(info.absent.iter().any(|gap| gap.field == number::INODE));
    }
}
