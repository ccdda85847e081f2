//! Reader of the kernel's type information (Documentation/bpf/btf.rst).
//!
//! It keeps the bytes as they are and one offset per type, indexes only the names that are asked for, and trusts
//! nothing: every offset is checked, every chain and every search is bounded. It knows the byte order of this machine
//! only, which is the only one that a running kernel's BTF can have.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where the kernel shows its own types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Most bytes of BTF that are read: ten times what a distribution kernel has.
const LIMIT_BYTES: usize = 64 << 20;
const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;
/// Longest chain of typedefs and qualifiers, and deepest nesting of anonymous members, that is followed.
const MAX_DEPTH: usize = 32;
/// Most members that one search looks at.
const MAX_VISITED: usize = 1 << 17;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_FLOAT: u32 = 16;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// Why there is no usable BTF.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file could not be read.
    #[error("cannot read the kernel's types from {path}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The header is not one.
    #[error("kernel types: {what} in the header")]
    Header {
        /// What is wrong.
        what: &'static str,
    },
    /// A type cannot be read, so nothing after it can.
    #[error("kernel types: type {id} at byte {offset} of the type section {what}")]
    Type {
        /// Number of the type.
        id: u32,
        /// Where it begins.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// Number of a type; 0 is `void`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(u32);

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A struct or union with its members.
    Composite(TypeId),
    /// An enumeration.
    Enumeration(TypeId),
}

/// Where a member lies and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Distance in bits from the start of the outermost struct.
    pub bit_offset: u32,
    /// Width of a bit field, `None` for a whole member.
    pub bit_size: Option<u32>,
    /// Its type.
    pub type_id: TypeId,
}

/// Parsed type information: the raw bytes and where each type begins.
pub struct Btf {
    bytes: Vec<u8>,
    types: Range<usize>,
    strings: Range<usize>,
    /// Position in the type section by type id - 1.
    offsets: Vec<u32>,
}

impl std::fmt::Debug for Btf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Btf")
            .field("bytes", &self.bytes.len())
            .field("types", &self.offsets.len())
            .finish_non_exhaustive()
    }
}

/// The common head of a type.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    count: usize,
    flag: bool,
    /// Size in bytes or the type referred to, by kind.
    size_or_type: u32,
    /// Where what follows the head begins, in the type section.
    body: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    bytes.get(at..end)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let end = at.checked_add(2)?;
    bytes.get(at..end)?.try_into().ok().map(u16::from_ne_bytes)
}

fn type_at(types: &[u8], at: usize) -> Option<Type> {
    let info = word(types, at.checked_add(4)?)?;
    Some(Type {
        name: word(types, at)?,
        // Kernels to come may use the bits between count and kind for larger counts and above kind for more kinds;
        // they are zero until then.
        kind: (info >> 24) & 0x7f,
        count: usize::try_from(info & 0x00ff_ffff).ok()?,
        flag: info >> 31 == 1,
        size_or_type: word(types, at.checked_add(8)?)?,
        body: at.checked_add(TYPE_BYTES)?,
    })
}

/// Bytes that follow the head of a type; `None` for a kind that this reader does not know.
fn body_bytes(kind: u32, count: usize) -> Option<usize> {
    match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => Some(4),
        KIND_ARRAY => Some(12),
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => count.checked_mul(12),
        KIND_ENUM | KIND_FUNC_PROTO => count.checked_mul(8),
        KIND_PTR | KIND_FWD | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT
        | KIND_FUNC | KIND_FLOAT | KIND_TYPE_TAG => Some(0),
        _ => None,
    }
}

impl Btf {
    /// Reads the running kernel's own types.
    ///
    /// # Errors
    /// [`BtfError::Unreadable`] where the kernel has none (`CONFIG_DEBUG_INFO_BTF`), else as [`Btf::parse`].
    pub fn from_kernel() -> Result<Self, BtfError> {
        Self::from_file(Path::new(VMLINUX))
    }

    /// Reads the types in a file.
    ///
    /// # Errors
    /// [`BtfError::Unreadable`], else as [`Btf::parse`].
    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        let bytes =
            super::read_capped(path, LIMIT_BYTES).map_err(|source| BtfError::Unreadable {
                path: path.to_owned(),
                source,
            })?;
        Self::parse(bytes)
    }

    /// Takes the bytes and finds where each type begins.
    ///
    /// # Errors
    /// [`BtfError::Header`] or [`BtfError::Type`] for the first thing that does not fit.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let header = |what| BtfError::Header { what };
        match half(&bytes, 0) {
            Some(MAGIC) => {}
            Some(other) if other == MAGIC.swap_bytes() => {
                return Err(header("the byte order of another machine"));
            }
            Some(_) | None => return Err(header("no magic number")),
        }
        let field = |at| {
            word(&bytes, at)
                .and_then(|value| usize::try_from(value).ok())
                .ok_or(header("too few bytes"))
        };
        let length = field(4)?;
        let (type_offset, type_bytes) = (field(8)?, field(12)?);
        let (string_offset, string_bytes) = (field(16)?, field(20)?);
        if length < HEADER_BYTES {
            return Err(header("too short a length"));
        }
        let section = |offset: usize, size: usize, what| {
            let start = length.checked_add(offset).ok_or(header(what))?;
            let end = start.checked_add(size).ok_or(header(what))?;
            if end > bytes.len() {
                return Err(header(what));
            }
            Ok(start..end)
        };
        let types = section(type_offset, type_bytes, "a type section outside the data")?;
        let strings = section(
            string_offset,
            string_bytes,
            "a string section outside the data",
        )?;
        let offsets = type_offsets(bytes.get(types.clone()).unwrap_or_default())?;
        Ok(Self {
            bytes,
            types,
            strings,
            offsets,
        })
    }

    fn types(&self) -> &[u8] {
        self.bytes.get(self.types.clone()).unwrap_or_default()
    }

    fn ty(&self, id: TypeId) -> Option<Type> {
        let index = usize::try_from(id.0.checked_sub(1)?).ok()?;
        let offset = usize::try_from(*self.offsets.get(index)?).ok()?;
        type_at(self.types(), offset)
    }

    /// The string at `offset`, without its NUL. Names in BTF are identifiers: anything else is no name that we ask for.
    fn string(&self, offset: u32) -> Option<&[u8]> {
        let offset = usize::try_from(offset).ok()?;
        let strings = self.bytes.get(self.strings.clone())?;
        let rest = strings.get(offset..)?;
        rest.split(|byte| *byte == 0).next()
    }

    /// Everything that has one of the `wanted` names, by name, in type order. Forward declarations do not count.
    #[must_use]
    pub fn find<'a>(&self, wanted: &HashSet<&'a str>) -> HashMap<&'a str, Vec<Named>> {
        let by_bytes: HashMap<&[u8], &'a str> =
            wanted.iter().map(|name| (name.as_bytes(), *name)).collect();
        let longest = wanted.iter().map(|name| name.len()).max().unwrap_or(0);
        let types = self.types();
        let strings = self.bytes.get(self.strings.clone()).unwrap_or_default();
        let mut found: HashMap<&'a str, Vec<Named>> = HashMap::new();
        for (index, offset) in self.offsets.iter().enumerate() {
            let Some(id) = u32::try_from(index).ok().and_then(|i| i.checked_add(1)) else {
                break;
            };
            let Some(ty) = usize::try_from(*offset)
                .ok()
                .and_then(|at| type_at(types, at))
            else {
                continue;
            };
            let named = match ty.kind {
                KIND_STRUCT | KIND_UNION => Named::Composite(TypeId(id)),
                KIND_ENUM | KIND_ENUM64 => Named::Enumeration(TypeId(id)),
                _ => continue,
            };
            // A name longer than any wanted one need not be read to its end.
            let Some(name) = usize::try_from(ty.name)
                .ok()
                .filter(|at| *at != 0)
                .and_then(|at| strings.get(at..))
                .and_then(|rest| {
                    let window = rest.get(..=longest).unwrap_or(rest);
                    let end = window.iter().position(|byte| *byte == 0)?;
                    window.get(..end)
                })
            else {
                continue;
            };
            if let Some(name) = by_bytes.get(name) {
                found.entry(name).or_default().push(named);
            }
        }
        found
    }

    /// The type behind typedefs, qualifiers and tags; `None` when the chain is broken or too long.
    fn strip(&self, mut id: TypeId) -> Option<(TypeId, Type)> {
        for _hop in 0..MAX_DEPTH {
            let ty = self.ty(id)?;
            match ty.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = TypeId(ty.size_or_type);
                }
                _ => return Some((id, ty)),
            }
        }
        None
    }

    /// Size of a type in bytes; `None` for functions, `void` and whatever else has none.
    #[must_use]
    pub fn size(&self, id: TypeId) -> Option<u32> {
        let mut elements = 1_u32;
        let mut id = id;
        for _dimension in 0..MAX_DEPTH {
            let (_, ty) = self.strip(id)?;
            match ty.kind {
                KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_ENUM64 | KIND_FLOAT
                | KIND_DATASEC => return elements.checked_mul(ty.size_or_type),
                KIND_PTR => {
                    let pointer = u32::try_from(size_of::<usize>()).ok()?;
                    return elements.checked_mul(pointer);
                }
                KIND_ARRAY => {
                    elements =
                        elements.checked_mul(word(self.types(), ty.body.checked_add(8)?)?)?;
                    id = TypeId(word(self.types(), ty.body)?);
                }
                _ => return None,
            }
        }
        None
    }

    /// Follows `path`, names of members separated by dots, from a struct or union, through anonymous members.
    #[must_use]
    pub fn member(&self, composite: TypeId, path: &str) -> Option<Member> {
        let mut found = Member {
            bit_offset: 0,
            bit_size: None,
            type_id: composite,
        };
        for name in path.split('.') {
            // Nothing lies inside a bit field.
            if found.bit_size.is_some() {
                return None;
            }
            let mut budget = MAX_VISITED;
            let inner = self.search(found.type_id, name.as_bytes(), 0, &mut budget)?;
            found = Member {
                bit_offset: found.bit_offset.checked_add(inner.bit_offset)?,
                ..inner
            };
        }
        Some(found)
    }

    fn search(
        &self,
        composite: TypeId,
        name: &[u8],
        depth: usize,
        budget: &mut usize,
    ) -> Option<Member> {
        if depth >= MAX_DEPTH {
            return None;
        }
        let (_, ty) = self.strip(composite)?;
        if ty.kind != KIND_STRUCT && ty.kind != KIND_UNION {
            return None;
        }
        for index in 0..ty.count {
            *budget = budget.checked_sub(1)?;
            let at = ty.body.checked_add(index.checked_mul(12)?)?;
            let member = self.member_at(at, ty.flag)?;
            let label = self.string(word(self.types(), at)?)?;
            if label == name {
                return Some(member);
            }
            if label.is_empty()
                && member.bit_size.is_none()
                && let Some(inner) =
                    self.search(member.type_id, name, depth.saturating_add(1), budget)
            {
                return Some(Member {
                    bit_offset: member.bit_offset.checked_add(inner.bit_offset)?,
                    ..inner
                });
            }
        }
        None
    }

    /// The member described at `at` of the type section; `flag` says that offsets carry the width of bit fields.
    fn member_at(&self, at: usize, flag: bool) -> Option<Member> {
        let type_id = TypeId(word(self.types(), at.checked_add(4)?)?);
        let offset = word(self.types(), at.checked_add(8)?)?;
        if flag {
            let width = offset >> 24;
            return Some(Member {
                bit_offset: offset & 0x00ff_ffff,
                bit_size: (width != 0).then_some(width),
                type_id,
            });
        }
        // The older form: a bit field is a member whose integer type is narrower than its storage.
        let mut member = Member {
            bit_offset: offset,
            bit_size: None,
            type_id,
        };
        if let Some((_, ty)) = self.strip(type_id)
            && ty.kind == KIND_INT
        {
            let encoding = word(self.types(), ty.body)?;
            let width = encoding & 0xff;
            if Some(width) != ty.size_or_type.checked_mul(8) {
                member.bit_offset = offset.checked_add((encoding >> 16) & 0xff)?;
                member.bit_size = Some(width);
            }
        }
        Some(member)
    }

    /// Value of the enumerator `name`.
    #[must_use]
    pub fn enumerator(&self, enumeration: TypeId, name: &str) -> Option<i64> {
        let (_, ty) = self.strip(enumeration)?;
        let stride = match ty.kind {
            KIND_ENUM => 8,
            KIND_ENUM64 => 12,
            _ => return None,
        };
        for index in 0..ty.count {
            let at = ty.body.checked_add(index.checked_mul(stride)?)?;
            if self.string(word(self.types(), at)?)? != name.as_bytes() {
                continue;
            }
            let low = word(self.types(), at.checked_add(4)?)?;
            return match (ty.kind, ty.flag) {
                (KIND_ENUM, true) => Some(i64::from(low.cast_signed())),
                (KIND_ENUM, false) => Some(i64::from(low)),
                _ => {
                    let high = word(self.types(), at.checked_add(8)?)?;
                    Some(((u64::from(high) << 32) | u64::from(low)).cast_signed())
                }
            };
        }
        None
    }
}

fn type_offsets(types: &[u8]) -> Result<Vec<u32>, BtfError> {
    // Kernels come to about 24 bytes a type.
    let mut offsets: Vec<u32> = Vec::with_capacity(types.len() / 24);
    let mut at = 0_usize;
    while at < types.len() {
        let id = u32::try_from(offsets.len()).unwrap_or(u32::MAX);
        let error = |what| BtfError::Type {
            id: id.saturating_add(1),
            offset: at,
            what,
        };
        let ty = type_at(types, at).ok_or(error("is cut off"))?;
        let body = body_bytes(ty.kind, ty.count).ok_or(error("is of an unknown kind"))?;
        let end = ty
            .body
            .checked_add(body)
            .filter(|end| *end <= types.len())
            .ok_or(error("is cut off"))?;
        offsets.push(u32::try_from(at).map_err(|_large| error("lies beyond 4 GiB"))?);
        at = end;
    }
    offsets.shrink_to_fit();
    Ok(offsets)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes BTF for tests: types in order of calls, numbered from 1.
    #[derive(Default)]
    pub(crate) struct Writer {
        types: Vec<u8>,
        strings: Vec<u8>,
        count: u32,
    }

    impl Writer {
        pub(crate) fn new() -> Self {
            Self {
                types: Vec::new(),
                strings: vec![0],
                count: 0,
            }
        }

        fn name(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let at = u32::try_from(self.strings.len()).unwrap();
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            at
        }

        fn head(&mut self, name: &str, kind: u32, count: usize, flag: bool, last: u32) -> u32 {
            let name = self.name(name);
            let info = (u32::from(flag) << 31) | (kind << 24) | u32::try_from(count).unwrap();
            for value in [name, info, last] {
                self.types.extend_from_slice(&value.to_ne_bytes());
            }
            self.count += 1;
            self.count
        }

        fn words(&mut self, words: &[u32]) {
            for value in words {
                self.types.extend_from_slice(&value.to_ne_bytes());
            }
        }

        pub(crate) fn int(&mut self, name: &str, size: u32) -> u32 {
            let id = self.head(name, KIND_INT, 0, false, size);
            self.words(&[size * 8]);
            id
        }

        pub(crate) fn narrow_int(&mut self, size: u32, bits: u32, offset: u32) -> u32 {
            let id = self.head("narrow", KIND_INT, 0, false, size);
            self.words(&[(offset << 16) | bits]);
            id
        }

        pub(crate) fn reference(&mut self, kind: u32, name: &str, to: u32) -> u32 {
            self.head(name, kind, 0, false, to)
        }

        pub(crate) fn pointer(&mut self, to: u32) -> u32 {
            self.reference(KIND_PTR, "", to)
        }

        pub(crate) fn array(&mut self, element: u32, length: u32) -> u32 {
            let id = self.head("", KIND_ARRAY, 0, false, 0);
            self.words(&[element, element, length]);
            id
        }

        /// Members as (name, type, offset in bits).
        pub(crate) fn structure(
            &mut self,
            name: &str,
            size: u32,
            members: &[(&str, u32, u32)],
        ) -> u32 {
            self.composite(KIND_STRUCT, name, size, false, members)
        }

        pub(crate) fn composite(
            &mut self,
            kind: u32,
            name: &str,
            size: u32,
            flag: bool,
            members: &[(&str, u32, u32)],
        ) -> u32 {
            let id = self.head(name, kind, members.len(), flag, size);
            for (label, ty, offset) in members {
                let label = self.name(label);
                self.words(&[label, *ty, *offset]);
            }
            id
        }

        pub(crate) fn enumeration(&mut self, name: &str, values: &[(&str, i32)]) -> u32 {
            let id = self.head(name, KIND_ENUM, values.len(), true, 4);
            for (label, value) in values {
                let label = self.name(label);
                self.words(&[label, value.cast_unsigned()]);
            }
            id
        }

        pub(crate) fn enumeration64(&mut self, name: &str, values: &[(&str, u64)]) -> u32 {
            let id = self.head(name, KIND_ENUM64, values.len(), false, 8);
            for (label, value) in values {
                let label = self.name(label);
                let low = u32::try_from(value & 0xffff_ffff).unwrap();
                self.words(&[label, low, u32::try_from(value >> 32).unwrap()]);
            }
            id
        }

        pub(crate) fn bytes(&self) -> Vec<u8> {
            let mut bytes = Vec::new();
            bytes.extend_from_slice(&MAGIC.to_ne_bytes());
            bytes.extend_from_slice(&[1, 0]);
            let types = u32::try_from(self.types.len()).unwrap();
            let strings = u32::try_from(self.strings.len()).unwrap();
            for value in [24, 0, types, types, strings] {
                bytes.extend_from_slice(&u32::to_ne_bytes(value));
            }
            bytes.extend_from_slice(&self.types);
            bytes.extend_from_slice(&self.strings);
            bytes
        }

        pub(crate) fn btf(&self) -> Btf {
            Btf::parse(self.bytes()).unwrap()
        }
    }

    fn composite(btf: &Btf, name: &str) -> TypeId {
        let wanted = HashSet::from([name]);
        match btf.find(&wanted).get(name).map(Vec::as_slice) {
            Some([Named::Composite(id)]) => *id,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn sample() -> Writer {
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        let long = writer.int("long", 8);
        let alias = writer.reference(KIND_TYPEDEF, "alias_t", long);
        let constant = writer.reference(KIND_CONST, "", alias);
        let tagged = writer.reference(KIND_TYPE_TAG, "rcu", constant);
        let pointer = writer.pointer(tagged);
        let name = writer.array(int, 6);
        let inner = writer.structure("", 8, &[("low", int, 0), ("high", int, 32)]);
        let union = writer.composite(
            KIND_UNION,
            "",
            8,
            false,
            &[("", inner, 0), ("whole", long, 0)],
        );
        writer.structure(
            "outer",
            48,
            &[
                ("head", int, 0),
                ("", union, 64),
                ("ptr", pointer, 128),
                ("name", name, 192),
                ("sealed", tagged, 384),
            ],
        );
        writer.composite(
            KIND_STRUCT,
            "flags",
            4,
            true,
            &[
                ("first", int, 1 << 24),
                ("second", int, (1 << 24) | 1),
                ("plain", int, 32),
            ],
        );
        writer.head("outer", KIND_FWD, 0, false, 0);
        writer.reference(KIND_FUNC, "a_function", 0);
        writer.head("real", KIND_FLOAT, 0, false, 8);
        writer.enumeration("ids", &[("MINUS", -2), ("TWO", 2)]);
        writer.enumeration64("wide", &[("HUGE", 1 << 40)]);
        writer
    }

    #[test]
    fn members_are_found_through_anonymous_ones() {
        let btf = sample().btf();
        let outer = composite(&btf, "outer");
        let offset = |path| btf.member(outer, path).map(|member| member.bit_offset / 8);
        assert_eq!(offset("head"), Some(0));
        assert_eq!(offset("low"), Some(8));
        assert_eq!(offset("high"), Some(12));
        assert_eq!(offset("whole"), Some(8));
        assert_eq!(offset("sealed"), Some(48));
        assert_eq!(offset("missing"), None);
        assert_eq!(offset("head.inside"), None);
    }

    #[test]
    fn sizes_look_through_names_qualifiers_and_arrays() {
        let btf = sample().btf();
        let outer = composite(&btf, "outer");
        let size = |path| btf.size(btf.member(outer, path).unwrap().type_id);
        assert_eq!(size("ptr"), Some(8));
        assert_eq!(size("name"), Some(24));
        assert_eq!(size("sealed"), Some(8));
        assert_eq!(btf.size(outer), Some(48));
        assert_eq!(btf.size(TypeId(0)), None);
    }

    #[test]
    fn bit_fields_say_their_width_in_both_forms() {
        let btf = sample().btf();
        let flags = composite(&btf, "flags");
        let second = btf.member(flags, "second").unwrap();
        assert_eq!((second.bit_offset, second.bit_size), (1, Some(1)));
        let plain = btf.member(flags, "plain").unwrap();
        assert_eq!((plain.bit_offset, plain.bit_size), (32, None));

        let mut writer = Writer::new();
        let narrow = writer.narrow_int(4, 1, 3);
        writer.structure("old", 4, &[("bit", narrow, 8)]);
        let btf = writer.btf();
        let bit = btf.member(composite(&btf, "old"), "bit").unwrap();
        assert_eq!((bit.bit_offset, bit.bit_size), (11, Some(1)));
    }

    #[test]
    fn enumerators_keep_sign_and_width() {
        let btf = sample().btf();
        let found = btf.find(&HashSet::from(["ids", "wide", "a_function", "absent"]));
        let Some([Named::Enumeration(ids)]) = found.get("ids").map(Vec::as_slice) else {
            panic!("{found:?}");
        };
        assert_eq!(btf.enumerator(*ids, "MINUS"), Some(-2));
        assert_eq!(btf.enumerator(*ids, "TWO"), Some(2));
        assert_eq!(btf.enumerator(*ids, "THREE"), None);
        let Some([Named::Enumeration(wide)]) = found.get("wide").map(Vec::as_slice) else {
            panic!("{found:?}");
        };
        assert_eq!(btf.enumerator(*wide, "HUGE"), Some(1 << 40));
        assert!(!found.contains_key("a_function"));
        assert!(!found.contains_key("absent"));
    }

    #[test]
    fn a_struct_that_contains_itself_ends() {
        let mut writer = Writer::new();
        // Types 1 and 2 contain each other twice without a name: 2^32 paths if nothing bounded the search.
        writer.structure("a", 8, &[("", 2, 0), ("", 2, 0)]);
        writer.structure("b", 8, &[("", 1, 0), ("", 1, 0)]);
        writer.reference(KIND_TYPEDEF, "loop_t", 3);
        let array = writer.array(4, 2);
        let btf = writer.btf();
        assert_eq!(btf.member(composite(&btf, "a"), "missing"), None);
        assert_eq!(btf.size(TypeId(3)), None);
        assert_eq!(btf.size(TypeId(array)), None);
    }

    #[test]
    fn every_defect_of_header_and_types_is_named() {
        let good = sample().bytes();
        let text = |bytes: Vec<u8>| Btf::parse(bytes).unwrap_err().to_string();
        assert!(text(Vec::new()).contains("no magic number"));
        let mut swapped = good.clone();
        swapped.swap(0, 1);
        assert!(text(swapped).contains("byte order"));
        assert!(text(good[..20].to_vec()).contains("too few bytes"));
        assert!(text(good[..good.len() - 1].to_vec()).contains("string section"));
        let mut unknown = good.clone();
        unknown[24 + 7] = 0x7e;
        assert!(text(unknown).contains("type 1 at byte 0"));
        let mut cut = good.clone();
        let length = u32::from_ne_bytes(cut[12..16].try_into().unwrap()) - 4;
        cut[12..16].copy_from_slice(&length.to_ne_bytes());
        assert!(text(cut).contains("is cut off"));
        assert!(
            Btf::from_file(Path::new("/nonexistent/btf"))
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/btf")
        );
    }

    fn use_everything(btf: &Btf) {
        let names = HashSet::from(["outer", "flags", "ids", "wide", "a_function", "real"]);
        for named in btf.find(&names).into_values().flatten() {
            match named {
                Named::Composite(id) => {
                    std::hint::black_box(btf.size(id));
                    for path in ["head", "low", "name", "second", "missing", "ptr.x"] {
                        if let Some(member) = btf.member(id, path) {
                            std::hint::black_box(btf.size(member.type_id));
                        }
                    }
                }
                Named::Enumeration(id) => {
                    std::hint::black_box(btf.enumerator(id, "TWO"));
                    std::hint::black_box(btf.enumerator(id, "HUGE"));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn damaged_types_never_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
            keep in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let mut bytes = sample().bytes();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if cut {
                bytes.truncate(keep.index(bytes.len()));
            }
            if let Ok(btf) = Btf::parse(bytes) {
                use_everything(&btf);
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut framed = sample().bytes();
            framed.truncate(24);
            let length = u32::try_from(bytes.len()).unwrap();
            framed[12..16].copy_from_slice(&length.to_ne_bytes());
            framed[16..20].copy_from_slice(&0_u32.to_ne_bytes());
            framed[20..24].copy_from_slice(&length.to_ne_bytes());
            framed.extend_from_slice(&bytes);
            if let Ok(btf) = Btf::parse(framed) {
                use_everything(&btf);
            }
        }
    }
}
