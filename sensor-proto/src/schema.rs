//! The schema as data: every message, field and enumeration with its documentation, made by the build script from
//! the same files as the types. For generated documents, and for tests that must not miss a field.

/// A message of the schema.
#[derive(Debug)]
pub struct Message {
    /// Name within `sensor.v1`.
    pub name: &'static str,
    /// Meaning.
    pub doc: &'static str,
    /// Fields, in the order of the file.
    pub fields: &'static [Field],
    /// Numbers kept for fields to come, with the names that they will have.
    pub reserved: &'static [(i32, &'static str)],
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// Name in the schema.
    pub name: &'static str,
    /// Key in the JSON view.
    pub json_name: &'static str,
    /// Field number.
    pub number: u32,
    /// Type and JSON form.
    pub kind: Kind,
    /// A list.
    pub repeated: bool,
    /// Absent differs from zero, false and empty.
    pub presence: bool,
    /// Name of the group of which only one field is there.
    pub oneof: Option<&'static str>,
    /// Meaning.
    pub doc: &'static str,
    /// Unit; empty where there is none.
    pub unit: &'static str,
    /// Where the value comes from.
    pub source: &'static str,
    /// When the field is not there.
    pub absent: &'static str,
    /// Rows of the data model that it delivers.
    pub rows: &'static [u16],
}

/// Type of a field, with its form in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A number of the named Rust type.
    Unsigned(&'static str),
    /// A set of bits of the named Rust type: 16 hexadecimal digits.
    Mask(&'static str),
    /// A signed number of the named Rust type.
    Signed(&'static str),
    /// Nanoseconds since 1970 (`i64`): RFC 3339 text.
    Time,
    /// UTF-8 text.
    Text,
    /// Bytes from the kernel, text by intention; `*_raw` in hexadecimal beside it where they are not UTF-8.
    KernelText,
    /// Bytes: hexadecimal.
    Hex,
    /// 16 bytes: UUID text.
    Uuid,
    /// 4 or 16 bytes: IP address text.
    Ip,
    /// Bytes: hexadecimal pairs between colons.
    Mac,
    /// A value of the named enumeration: its short name.
    Enum(&'static str),
    /// The named message.
    Message(&'static str),
}

/// An enumeration of the schema.
#[derive(Debug)]
pub struct Enum {
    /// Name within `sensor.v1`.
    pub name: &'static str,
    /// Meaning.
    pub doc: &'static str,
    /// Values, in the order of the file.
    pub values: &'static [Value],
}

/// A value of an enumeration.
#[derive(Debug)]
pub struct Value {
    /// Lower-case short name, as in JSON.
    pub name: &'static str,
    /// Number.
    pub number: i32,
    /// Meaning.
    pub doc: &'static str,
}

/// A field reached from a message, as [`leaves`] finds it.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// JSON keys from the message down to the field, joined by dots; lists add nothing.
    pub path: String,
    /// The field.
    pub field: &'static Field,
}

include!(concat!(env!("OUT_DIR"), "/sensor.v1.schema.rs"));

/// The message of that name.
#[must_use]
pub fn message(name: &str) -> Option<&'static Message> {
    MESSAGES.iter().find(|message| message.name == name)
}

/// The enumeration of that name.
#[must_use]
pub fn enumeration(name: &str) -> Option<&'static Enum> {
    ENUMS.iter().find(|declared| declared.name == name)
}

/// Every field below a message that is not a message itself, with its path as in JSON (references to processes not expanded). Messages
/// that contain themselves are followed once. Empty for an unknown name.
#[must_use]
pub fn leaves(root: &str) -> Vec<Leaf> {
    fn walk(message: &'static Message, prefix: &str, above: &mut Vec<&str>, out: &mut Vec<Leaf>) {
        above.push(message.name);
        for field in message.fields {
            let path = format!("{prefix}{}", field.json_name);
            let Kind::Message(name) = field.kind else {
                out.push(Leaf { path, field });
                continue;
            };
            if let (false, Some(inner)) = (above.contains(&name), self::message(name)) {
                walk(inner, &format!("{path}."), above, out);
            }
        }
        above.pop();
    }
    let mut out = Vec::new();
    if let Some(message) = message(root) {
        walk(message, "", &mut Vec::new(), &mut out);
    }
    out
}
