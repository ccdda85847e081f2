//! Resolves [`KernelLayout`] from the running kernel's types, and says of every field how, or why not.
//!
//! A struct's name can stand for several layouts in one BTF. All fields of a struct are taken from one type: the one
//! whose fields include those of all others of that name. Where two such types put a field at different places, the
//! field is absent: nothing is guessed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use sensor_common::layout::{Field, KernelLayout, Source};

use super::btf::{Btf, Named};

/// Why a field is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The kernel shows no types at all.
    NoTypes,
    /// There is no struct, union or enum of this name.
    NoType(&'static str),
    /// The type has no such member or enumerator; every path that was tried.
    NoMember(Vec<&'static str>),
    /// The member has another size than the programs read.
    Size {
        /// Path of the member.
        path: &'static str,
        /// Bytes that the programs read.
        wanted: u32,
        /// Bytes that the kernel has; `None` for a type without a size.
        found: Option<u32>,
    },
    /// A bit field where a whole member is wanted.
    BitField(&'static str),
    /// A whole member where a bit field is wanted.
    WholeMember(&'static str),
    /// The value does not fit the table.
    Range(&'static str),
    /// Types of the same name disagree.
    Ambiguous {
        /// Their name.
        name: &'static str,
        /// How many different layouts there are.
        layouts: usize,
    },
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTypes => f.write_str("the kernel shows no types (BTF)"),
            Self::NoType(name) => write!(f, "no type {name}"),
            Self::NoMember(paths) => {
                f.write_str("no ")?;
                for (index, path) in paths.iter().enumerate() {
                    if index > 0 {
                        f.write_str(" or ")?;
                    }
                    f.write_str(path)?;
                }
                Ok(())
            }
            Self::Size {
                path,
                wanted,
                found: Some(found),
            } => write!(f, "{path} has {found} bytes, not {wanted}"),
            Self::Size { path, .. } => write!(f, "{path} has no size"),
            Self::BitField(path) => write!(f, "{path} is a bit field"),
            Self::WholeMember(path) => write!(f, "{path} is not a bit field"),
            Self::Range(path) => write!(f, "{path} has a value outside 32 bits"),
            Self::Ambiguous { name, layouts } => {
                write!(f, "{name} is ambiguous: {layouts} different layouts")
            }
        }
    }
}

/// A field's value and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resolved {
    /// What the table holds.
    pub value: u32,
    /// The alternative that this kernel has.
    pub path: &'static str,
}

/// The table and its account.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// What the programs get.
    pub layout: KernelLayout,
    /// Every field with its outcome, in index order.
    pub report: Vec<(Field, Result<Resolved, Absence>)>,
}

impl Resolution {
    /// A table in which everything is absent for the same reason.
    #[must_use]
    pub fn absent(reason: &Absence) -> Self {
        Self {
            layout: KernelLayout::EMPTY,
            report: Field::ALL
                .iter()
                .map(|field| (*field, Err(reason.clone())))
                .collect(),
        }
    }

    /// Why `field` is absent; `None` when it is not.
    #[must_use]
    pub fn absence(&self, field: Field) -> Option<&Absence> {
        self.report
            .iter()
            .find(|(candidate, _)| *candidate == field)
            .and_then(|(_, outcome)| outcome.as_ref().err())
    }

    /// Absent fields and why, without those whose alternative is there.
    pub fn missing(&self) -> impl Iterator<Item = (Field, &Absence)> {
        self.report.iter().filter_map(|(field, outcome)| {
            let absence = outcome.as_ref().err()?;
            let alternative = ALTERNATIVES.iter().find_map(|pair| match pair {
                [one, other] if one == field => Some(*other),
                [one, other] if other == field => Some(*one),
                _ => None,
            });
            let replaced = alternative.is_some_and(|other| self.layout.has(other));
            (!replaced).then_some((*field, absence))
        })
    }

    /// Resolves every field.
    #[must_use]
    pub fn new(btf: &Btf) -> Self {
        let names: HashSet<&'static str> = Field::ALL.iter().flat_map(|f| roots(*f)).collect();
        let found = btf.find(&names);
        let by_root: BTreeMap<&'static str, Outcomes> = names
            .iter()
            .map(|root| {
                let types = found.get(root).map_or(&[][..], Vec::as_slice);
                (*root, resolve_root(btf, root, types))
            })
            .collect();
        let mut layout = KernelLayout::EMPTY;
        let report = Field::ALL
            .iter()
            .map(|field| {
                let outcome = outcome(*field, &by_root);
                if let (Ok(resolved), Some(slot)) =
                    (&outcome, layout.values.get_mut(*field as usize))
                {
                    *slot = resolved.value;
                }
                (*field, outcome)
            })
            .collect();
        Self { layout, report }
    }
}

/// Fields of which a kernel has one: times kept as `struct timespec64` (to 6.10) or as seconds and nanoseconds.
const ALTERNATIVES: [[Field; 2]; 2] = [
    [Field::InodeMtimeNsecLong, Field::InodeMtimeNsecInt],
    [Field::InodeCtimeNsecLong, Field::InodeCtimeNsecInt],
];

type Outcomes = BTreeMap<Field, Result<Resolved, Absence>>;

/// The outcome under the first of the field's type names that resolves, else under the first.
fn outcome(field: Field, by_root: &BTreeMap<&'static str, Outcomes>) -> Result<Resolved, Absence> {
    let mut first = None;
    for root in roots(field) {
        match by_root.get(root).and_then(|outcomes| outcomes.get(&field)) {
            Some(Ok(resolved)) => return Ok(*resolved),
            Some(Err(absence)) => {
                first.get_or_insert_with(|| absence.clone());
            }
            None => {}
        }
    }
    Err(first.unwrap_or(Absence::NoTypes))
}

fn root(path: &'static str) -> &'static str {
    path.split_once('.').map_or(path, |(root, _)| root)
}

/// Names of the types that a field's alternatives begin with.
fn roots(field: Field) -> Vec<&'static str> {
    match field.source() {
        Source::Member { paths, .. } => paths.iter().map(|path| root(path)).collect(),
        Source::Bit { path } | Source::Enumerator { path } => vec![root(path)],
        Source::Size { name } => vec![name],
    }
}

/// Resolves all fields that begin with `name` from the types of that name.
fn resolve_root(btf: &Btf, name: &'static str, types: &[Named]) -> Outcomes {
    let fields = || Field::ALL.iter().filter(|f| roots(**f).contains(&name));
    let candidates: Vec<Outcomes> = types
        .iter()
        .filter(|named| fields().any(|field| fits(*field, **named)))
        .map(|named| {
            fields()
                .map(|field| (*field, resolve_in(btf, name, *named, *field)))
                .collect()
        })
        .collect();
    if candidates.is_empty() {
        return fields()
            .map(|field| (*field, Err(Absence::NoType(name))))
            .collect();
    }
    let has = |outcomes: &Outcomes| -> BTreeSet<Field> {
        outcomes
            .iter()
            .filter(|(_, outcome)| outcome.is_ok())
            .map(|(field, _)| *field)
            .collect()
    };
    let union: BTreeSet<Field> = candidates.iter().flat_map(has).collect();
    let complete: Vec<&Outcomes> = candidates
        .iter()
        .filter(|outcomes| has(outcomes) == union)
        .collect();
    // No type has all that the others have: every one of them could be the right one.
    let considered = if complete.is_empty() {
        candidates.iter().collect()
    } else {
        complete
    };
    fields()
        .map(|field| {
            let outcomes: BTreeSet<Option<Resolved>> = considered
                .iter()
                .map(|outcomes| match outcomes.get(field) {
                    Some(Ok(resolved)) => Some(*resolved),
                    Some(Err(_)) | None => None,
                })
                .collect();
            let agreed = if outcomes.len() > 1 {
                Err(Absence::Ambiguous {
                    name,
                    layouts: outcomes.len(),
                })
            } else {
                considered
                    .first()
                    .and_then(|outcomes| outcomes.get(field))
                    .cloned()
                    .unwrap_or(Err(Absence::NoType(name)))
            };
            (*field, agreed)
        })
        .collect()
}

fn fits(field: Field, named: Named) -> bool {
    match field.source() {
        Source::Member { .. } | Source::Bit { .. } | Source::Size { .. } => {
            matches!(named, Named::Composite(_))
        }
        Source::Enumerator { .. } => matches!(named, Named::Enumeration(_)),
    }
}

/// Resolves one field from one type named `name`.
fn resolve_in(
    btf: &Btf,
    name: &'static str,
    named: Named,
    field: Field,
) -> Result<Resolved, Absence> {
    match (field.source(), named) {
        (Source::Member { paths, size }, Named::Composite(id)) => {
            let mut absence = None;
            for path in paths.iter().filter(|path| root(path) == name) {
                let Some((_, inside)) = path.split_once('.') else {
                    continue;
                };
                let Some(member) = btf.member(id, inside) else {
                    continue;
                };
                if member.bit_size.is_some() || member.bit_offset % 8 != 0 {
                    absence.get_or_insert(Absence::BitField(path));
                    continue;
                }
                let found = btf.size(member.type_id);
                if size != 0 && found != Some(size) {
                    absence.get_or_insert(Absence::Size {
                        path,
                        wanted: size,
                        found,
                    });
                    continue;
                }
                return Ok(Resolved {
                    value: member.bit_offset / 8,
                    path,
                });
            }
            Err(absence.unwrap_or(Absence::NoMember(paths.to_vec())))
        }
        (Source::Bit { path }, Named::Composite(id)) => {
            let member = path
                .split_once('.')
                .and_then(|(_, inside)| btf.member(id, inside));
            match member {
                None => Err(Absence::NoMember(vec![path])),
                Some(member) if member.bit_size == Some(1) => Ok(Resolved {
                    value: member.bit_offset,
                    path,
                }),
                Some(_) => Err(Absence::WholeMember(path)),
            }
        }
        (Source::Enumerator { path }, Named::Enumeration(id)) => {
            let value = path
                .split_once('.')
                .and_then(|(_, label)| btf.enumerator(id, label))
                .ok_or(Absence::NoMember(vec![path]))?;
            match u32::try_from(value) {
                Ok(value) if value != sensor_common::layout::ABSENT => Ok(Resolved { value, path }),
                Ok(_) | Err(_) => Err(Absence::Range(path)),
            }
        }
        (Source::Size { name }, Named::Composite(id)) => btf
            .size(id)
            .map(|value| Resolved { value, path: name })
            .ok_or(Absence::NoType(name)),
        (
            Source::Member { .. } | Source::Bit { .. } | Source::Size { .. },
            Named::Enumeration(_),
        )
        | (Source::Enumerator { .. }, Named::Composite(_)) => Err(Absence::NoType(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::btf::tests::Writer;
    use super::*;

    /// Types `file` as this writer's parameters say, and what `Field`s of it resolve to.
    fn outcome_of(btf: &Btf, field: Field) -> Result<u32, String> {
        let resolution = Resolution::new(btf);
        let found = resolution
            .report
            .iter()
            .find(|(candidate, _)| *candidate == field)
            .unwrap()
            .1
            .clone();
        assert_eq!(
            resolution.layout.value(field),
            found.as_ref().ok().map(|resolved| resolved.value)
        );
        found
            .map(|resolved| resolved.value)
            .map_err(|absence| absence.to_string())
    }

    #[test]
    fn a_removed_member_is_absent_with_its_name() {
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        writer.structure("file", 8, &[("f_mode", int, 32)]);
        let btf = writer.btf();
        let resolution = Resolution::new(&btf);
        assert_eq!(resolution.missing().count(), Field::COUNT - 1);
        assert_eq!(outcome_of(&btf, Field::FileMode), Ok(4));
        assert_eq!(
            outcome_of(&btf, Field::FileFlags),
            Err("no file.f_flags".to_owned())
        );
        assert_eq!(
            outcome_of(&btf, Field::TaskPid),
            Err("no type task_struct".to_owned())
        );
    }

    #[test]
    fn renames_are_followed_in_order() {
        let mut writer = Writer::new();
        let long = writer.int("long", 8);
        let int = writer.int("int", 4);
        writer.structure(
            "inode",
            24,
            &[("i_ctime_sec", long, 64), ("i_ctime_nsec", int, 128)],
        );
        let btf = writer.btf();
        assert_eq!(outcome_of(&btf, Field::InodeCtimeSec), Ok(8));
        assert_eq!(outcome_of(&btf, Field::InodeCtimeNsecInt), Ok(16));
        assert_eq!(
            outcome_of(&btf, Field::InodeCtimeNsecLong),
            Err("no inode.i_ctime.tv_nsec or inode.__i_ctime.tv_nsec".to_owned())
        );

        let mut writer = Writer::new();
        let long = writer.int("long", 8);
        let time = writer.structure(
            "timespec64",
            16,
            &[("tv_sec", long, 0), ("tv_nsec", long, 64)],
        );
        writer.structure("inode", 24, &[("__i_ctime", time, 64)]);
        let btf = writer.btf();
        assert_eq!(outcome_of(&btf, Field::InodeCtimeSec), Ok(8));
        assert_eq!(outcome_of(&btf, Field::InodeCtimeNsecLong), Ok(16));
    }

    #[test]
    fn another_size_is_absent() {
        let mut writer = Writer::new();
        let long = writer.int("long", 8);
        writer.structure("file", 8, &[("f_mode", long, 0)]);
        assert_eq!(
            outcome_of(&writer.btf(), Field::FileMode),
            Err("file.f_mode has 8 bytes, not 4".to_owned())
        );
        let mut writer = Writer::new();
        writer.structure("file", 8, &[("f_mode", 0, 0)]);
        assert_eq!(
            outcome_of(&writer.btf(), Field::FileMode),
            Err("file.f_mode has no size".to_owned())
        );
    }

    #[test]
    fn bit_fields_and_whole_members_are_told_apart() {
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        writer.composite(
            4,
            "linux_binprm",
            16,
            true,
            &[
                ("have_execfd", int, (1 << 24) | 64),
                ("secureexec", int, (1 << 24) | 66),
            ],
        );
        writer.composite(4, "file", 8, true, &[("f_mode", int, (3 << 24) | 8)]);
        let btf = writer.btf();
        assert_eq!(outcome_of(&btf, Field::BprmSecureexec), Ok(66));
        assert_eq!(
            outcome_of(&btf, Field::FileMode),
            Err("file.f_mode is a bit field".to_owned())
        );
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        writer.structure("linux_binprm", 16, &[("secureexec", int, 64)]);
        assert_eq!(
            outcome_of(&writer.btf(), Field::BprmSecureexec),
            Err("linux_binprm.secureexec is not a bit field".to_owned())
        );
    }

    #[test]
    fn anonymous_unions_are_entered() {
        let mut writer = Writer::new();
        let long = writer.int("long", 8);
        let int = writer.int("int", 4);
        let pointer = writer.pointer(long);
        let inner = writer.structure("", 8, &[("hash", int, 0), ("len", int, 32)]);
        let sizes = writer.composite(5, "", 8, false, &[("", inner, 0), ("hash_len", long, 0)]);
        let qstr = writer.structure("qstr", 16, &[("", sizes, 0), ("name", pointer, 64)]);
        let names = writer.composite(
            5,
            "",
            16,
            false,
            &[("__d_name", qstr, 0), ("d_name", qstr, 0)],
        );
        writer.structure("dentry", 40, &[("d_parent", pointer, 0), ("", names, 192)]);
        let btf = writer.btf();
        assert_eq!(outcome_of(&btf, Field::DentryName), Ok(32));
        assert_eq!(outcome_of(&btf, Field::DentryNameLen), Ok(28));
    }

    #[test]
    fn of_two_types_with_one_name_the_complete_one_counts() {
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        writer.structure("file", 8, &[("f_mode", int, 0)]);
        writer.structure("file", 16, &[("f_mode", int, 64), ("f_flags", int, 96)]);
        let btf = writer.btf();
        assert_eq!(outcome_of(&btf, Field::FileMode), Ok(8));
        assert_eq!(outcome_of(&btf, Field::FileFlags), Ok(12));
    }

    #[test]
    fn equal_copies_are_no_ambiguity() {
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        for _copy in 0..3 {
            writer.structure("file", 8, &[("f_mode", int, 0), ("f_flags", int, 32)]);
        }
        let btf = writer.btf();
        assert_eq!(outcome_of(&btf, Field::FileMode), Ok(0));
        assert_eq!(outcome_of(&btf, Field::FileFlags), Ok(4));
    }

    #[test]
    fn two_complete_types_that_differ_are_ambiguous() {
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        writer.structure("file", 16, &[("f_mode", int, 0), ("f_flags", int, 32)]);
        writer.structure("file", 16, &[("f_mode", int, 0), ("f_flags", int, 64)]);
        let btf = writer.btf();
        assert_eq!(outcome_of(&btf, Field::FileMode), Ok(0));
        assert_eq!(
            outcome_of(&btf, Field::FileFlags),
            Err("file is ambiguous: 2 different layouts".to_owned())
        );
    }

    #[test]
    fn two_types_that_complete_each_other_are_ambiguous() {
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        writer.structure("file", 8, &[("f_mode", int, 0)]);
        writer.structure("file", 8, &[("f_flags", int, 0)]);
        let btf = writer.btf();
        for field in [Field::FileMode, Field::FileFlags] {
            assert_eq!(
                outcome_of(&btf, field),
                Err("file is ambiguous: 2 different layouts".to_owned())
            );
        }
    }

    #[test]
    fn enumerators_and_sizes_resolve() {
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        let long = writer.int("long", 8);
        let pointer = writer.pointer(long);
        writer.structure("upid", 16, &[("nr", int, 0), ("ns", pointer, 64)]);
        writer.enumeration("kernel_read_file_id", &[("READING_MODULE", 2)]);
        writer.enumeration("pid_type", &[("PIDTYPE_PGID", -1)]);
        // A struct with the name of an enum is not taken for it.
        writer.structure("kernel_load_data_id", 4, &[("LOADING_MODULE", int, 0)]);
        let btf = writer.btf();
        assert_eq!(outcome_of(&btf, Field::UpidSize), Ok(16));
        assert_eq!(outcome_of(&btf, Field::ReadingModule), Ok(2));
        assert_eq!(
            outcome_of(&btf, Field::PidTypePgid),
            Err("pid_type.PIDTYPE_PGID has a value outside 32 bits".to_owned())
        );
        assert_eq!(
            outcome_of(&btf, Field::LoadingModule),
            Err("no type kernel_load_data_id".to_owned())
        );
    }

    #[test]
    fn this_machines_kernel_resolves_what_every_kernel_has() {
        let Ok(btf) = Btf::from_kernel() else {
            // A machine without BTF: what the sensor then says is tested above.
            assert!(!std::path::Path::new(super::super::btf::VMLINUX).exists());
            return;
        };
        let resolution = Resolution::new(&btf);
        for field in [
            Field::TaskTgid,
            Field::TaskStartBoottime,
            Field::CredUid,
            Field::FilePathDentry,
            Field::InodeIno,
            Field::InodeCtimeSec,
            Field::DentryName,
            Field::BprmFilename,
            Field::SockV6Daddr,
            Field::UpidSize,
        ] {
            assert_eq!(resolution.absence(field), None, "{field:?}");
        }
        assert_ne!(
            resolution.layout.has(Field::InodeCtimeNsecLong),
            resolution.layout.has(Field::InodeCtimeNsecInt)
        );
        // One of the two is there, so neither is missing.
        assert!(resolution.missing().all(|(field, _)| {
            field != Field::InodeCtimeNsecLong && field != Field::InodeCtimeNsecInt
        }));
    }
}
