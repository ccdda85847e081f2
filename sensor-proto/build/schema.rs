//! Reads the descriptor set with its comments into a plain model and writes it as constant tables.

use std::collections::HashMap;
use std::fmt::Write as _;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Everything of the package `sensor.v1`.
pub(crate) struct Schema {
    pub(crate) messages: Vec<Message>,
    pub(crate) enums: Vec<Enum>,
}

pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) doc: String,
    pub(crate) fields: Vec<Field>,
    pub(crate) oneofs: Vec<String>,
    /// Numbers kept for fields to come, with their names.
    pub(crate) reserved: Vec<(i32, String)>,
}

pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) number: i32,
    pub(crate) kind: Kind,
    pub(crate) repeated: bool,
    /// Absent differs from the default value.
    pub(crate) presence: bool,
    pub(crate) oneof: Option<String>,
    pub(crate) doc: String,
    pub(crate) unit: String,
    pub(crate) source: String,
    pub(crate) absent: String,
    pub(crate) rows: Vec<u16>,
}

#[derive(Clone, PartialEq)]
pub(crate) enum Kind {
    Bool,
    /// An unsigned number written as a number.
    Unsigned(&'static str),
    /// An unsigned number written as 16 hexadecimal digits.
    Mask(&'static str),
    /// A signed number.
    Signed(&'static str),
    /// A wall-clock instant in nanoseconds since 1970.
    Time,
    /// Text made by the daemon.
    Text,
    /// Bytes from the kernel that are text by intention.
    KernelText,
    Hex,
    Uuid,
    Ip,
    Mac,
    Enum(String),
    Message(String),
}

pub(crate) struct Enum {
    pub(crate) name: String,
    pub(crate) doc: String,
    pub(crate) values: Vec<Value>,
}

pub(crate) struct Value {
    /// Lower-case name without the prefix of the type.
    pub(crate) short: String,
    /// Name of the Rust variant.
    pub(crate) variant: String,
    pub(crate) number: i32,
    pub(crate) doc: String,
}

/// The comment of a field, taken apart.
#[derive(Default)]
struct Comment {
    doc: String,
    unit: String,
    source: String,
    absent: String,
    rows: Vec<u16>,
    json: String,
}

type Comments = HashMap<Vec<i32>, String>;

impl Schema {
    /// Reads the files of the package. Refuses a field without meaning, source or word on absence, and a number without unit.
    pub(crate) fn read(set: &FileDescriptorSet) -> Result<Self, String> {
        let mut schema = Schema {
            messages: Vec::new(),
            enums: Vec::new(),
        };
        for file in set.file.iter().filter(|file| file.package() == "sensor.v1") {
            let comments = comments_of(file);
            for (index, message) in (0..).zip(&file.message_type) {
                schema
                    .messages
                    .push(Message::read(message, &[4, index], &comments)?);
            }
            for (index, declared) in (0..).zip(&file.enum_type) {
                schema
                    .enums
                    .push(Enum::read(declared, &[5, index], &comments)?);
            }
        }
        Ok(schema)
    }

    /// The tables `MESSAGES` and `ENUMS` of `src/schema.rs`.
    pub(crate) fn tables(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::from(
            "/// Every message of the schema, in the order of its files.\npub static MESSAGES: &[Message] = &[\n",
        );
        for message in &self.messages {
            writeln!(
                out,
                "Message {{ name: {:?}, doc: {:?}, reserved: &{:?}, fields: &[",
                message.name, message.doc, message.reserved
            )?;
            for field in &message.fields {
                writeln!(
                    out,
                    "Field {{ name: {:?}, json_name: {:?}, number: {}, kind: {}, repeated: {}, presence: {}, \
                     oneof: {:?}, doc: {:?}, unit: {:?}, source: {:?}, absent: {:?}, rows: &{:?} }},",
                    field.name,
                    field.json_name(),
                    field.number,
                    field.kind.constant(),
                    field.repeated,
                    field.presence,
                    field.oneof,
                    field.doc,
                    field.unit,
                    field.source,
                    field.absent,
                    field.rows,
                )?;
            }
            out.push_str("] },\n");
        }
        out.push_str(
            "];\n\n/// Every enumeration of the schema.\npub static ENUMS: &[Enum] = &[\n",
        );
        for declared in &self.enums {
            writeln!(
                out,
                "Enum {{ name: {:?}, doc: {:?}, values: &[",
                declared.name, declared.doc
            )?;
            for value in &declared.values {
                writeln!(
                    out,
                    "Value {{ name: {:?}, number: {}, doc: {:?} }},",
                    value.short, value.number, value.doc
                )?;
            }
            out.push_str("] },\n");
        }
        out.push_str("];\n");
        Ok(out)
    }

    /// One module per message, one constant per field: the numbers that `Absent.field` takes.
    pub(crate) fn field_numbers(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        for message in &self.messages {
            writeln!(
                out,
                "/// Field numbers of `{}`.\npub mod {} {{",
                message.name,
                snake(&message.name)
            )?;
            for field in &message.fields {
                writeln!(
                    out,
                    "/// Number of `{}.{}`.\npub const {}: u32 = {};",
                    message.name,
                    field.name,
                    field.name.to_uppercase(),
                    field.number
                )?;
            }
            out.push_str("}\n");
        }
        Ok(out)
    }
}

impl Message {
    fn read(message: &DescriptorProto, path: &[i32], comments: &Comments) -> Result<Self, String> {
        let name = message.name().to_owned();
        let doc = meaning(comments, path, &name)?;
        let mut fields = Vec::new();
        for (index, field) in (0..).zip(&message.field) {
            let place = format!("{name}.{}", field.name());
            let comment = Comment::read(comments.get(&[path, &[2, index]].concat()), &place)?;
            let oneof = match field.oneof_index {
                Some(index) if !field.proto3_optional() => usize::try_from(index)
                    .ok()
                    .and_then(|index| message.oneof_decl.get(index))
                    .map(|oneof| oneof.name().to_owned()),
                Some(_) | None => None,
            };
            let kind = Kind::read(field, &comment.json, &place)?;
            if kind.needs_unit() && comment.unit.is_empty() {
                return Err(format!("{place}: a number without `Unit:`"));
            }
            fields.push(Field {
                name: field.name().to_owned(),
                number: field.number(),
                repeated: field.label() == Label::Repeated,
                presence: field.proto3_optional() || matches!(kind, Kind::Message(_)),
                kind,
                oneof,
                doc: comment.doc,
                unit: comment.unit,
                source: comment.source,
                absent: comment.absent,
                rows: comment.rows,
            });
        }
        let numbers = message
            .reserved_range
            .iter()
            .flat_map(|range| range.start()..range.end());
        let reserved: Vec<_> = numbers
            .clone()
            .zip(message.reserved_name.iter().cloned())
            .collect();
        if numbers.count() != message.reserved_name.len() {
            return Err(format!(
                "{name}: as many reserved names as reserved numbers are needed"
            ));
        }
        // The compiler makes a oneof for each `optional` field; they come after those that are written out.
        let oneofs = message
            .oneof_decl
            .iter()
            .map(|oneof| oneof.name().to_owned());
        let oneofs = oneofs
            .filter(|oneof| {
                fields
                    .iter()
                    .any(|field| field.oneof.as_ref() == Some(oneof))
            })
            .collect();
        Ok(Message {
            name,
            doc,
            fields,
            oneofs,
            reserved,
        })
    }
}

impl Enum {
    fn read(
        declared: &EnumDescriptorProto,
        path: &[i32],
        comments: &Comments,
    ) -> Result<Self, String> {
        let name = declared.name().to_owned();
        let prefix = format!("{}_", snake(&name));
        let mut values = Vec::new();
        for (index, value) in (0..).zip(&declared.value) {
            let place = format!("{name}.{}", value.name());
            let lower = value.name().to_lowercase();
            let short = lower
                .strip_prefix(&prefix)
                .ok_or(format!("{place}: name must begin with the type's"))?;
            values.push(Value {
                short: short.to_owned(),
                variant: camel(short),
                number: value.number(),
                doc: meaning(comments, &[path, &[2, index]].concat(), &place)?,
            });
        }
        let doc = meaning(comments, path, &name)?;
        Ok(Enum { name, doc, values })
    }
}

impl Field {
    /// Key in the JSON view: wall-clock instants lose the unit, since they are written as RFC 3339 text.
    pub(crate) fn json_name(&self) -> &str {
        if self.kind == Kind::Time {
            self.name.strip_suffix("_ns").unwrap_or(&self.name)
        } else {
            &self.name
        }
    }

    /// Identifier in the generated Rust types.
    pub(crate) fn ident(&self) -> String {
        if self.name == "type" {
            "r#type".to_owned()
        } else {
            self.name.clone()
        }
    }
}

impl Kind {
    fn read(
        field: &prost_types::FieldDescriptorProto,
        json: &str,
        place: &str,
    ) -> Result<Self, String> {
        let type_name = || {
            field
                .type_name()
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let kind = match (field.r#type(), json) {
            (Type::Bool, "") => Kind::Bool,
            (Type::Uint32 | Type::Fixed32, "") => Kind::Unsigned("u32"),
            (Type::Uint64 | Type::Fixed64, "") => Kind::Unsigned("u64"),
            (Type::Uint64 | Type::Fixed64, "hex") => Kind::Mask("u64"),
            (Type::Sfixed64, "") if field.name().ends_with("time_ns") => Kind::Time,
            (Type::Sint32 | Type::Int32 | Type::Sfixed32, "") => Kind::Signed("i32"),
            (Type::Sint64 | Type::Int64 | Type::Sfixed64, "") => Kind::Signed("i64"),
            (Type::String, "") => Kind::Text,
            (Type::Bytes, "") => Kind::KernelText,
            (Type::Bytes, "hex") => Kind::Hex,
            (Type::Bytes, "uuid") => Kind::Uuid,
            (Type::Bytes, "ip") => Kind::Ip,
            (Type::Bytes, "mac") => Kind::Mac,
            (Type::Enum, "") => Kind::Enum(type_name()),
            (Type::Message, "") => Kind::Message(type_name()),
            (other, json) => {
                return Err(format!("{place}: no JSON form for {other:?} as {json:?}"));
            }
        };
        if field.name().ends_with("time_ns") && kind != Kind::Time {
            return Err(format!(
                "{place}: names ending in time_ns are sfixed64 wall-clock instants"
            ));
        }
        Ok(kind)
    }

    fn needs_unit(&self) -> bool {
        match self {
            Kind::Unsigned(_) | Kind::Mask(_) | Kind::Signed(_) | Kind::Time => true,
            Kind::Hex | Kind::Uuid | Kind::Ip | Kind::Mac => true,
            Kind::Bool | Kind::Text | Kind::KernelText | Kind::Enum(_) | Kind::Message(_) => false,
        }
    }

    fn constant(&self) -> String {
        match self {
            Kind::Bool => "Kind::Bool".to_owned(),
            Kind::Unsigned(rust) => format!("Kind::Unsigned({rust:?})"),
            Kind::Mask(rust) => format!("Kind::Mask({rust:?})"),
            Kind::Signed(rust) => format!("Kind::Signed({rust:?})"),
            Kind::Time => "Kind::Time".to_owned(),
            Kind::Text => "Kind::Text".to_owned(),
            Kind::KernelText => "Kind::KernelText".to_owned(),
            Kind::Hex => "Kind::Hex".to_owned(),
            Kind::Uuid => "Kind::Uuid".to_owned(),
            Kind::Ip => "Kind::Ip".to_owned(),
            Kind::Mac => "Kind::Mac".to_owned(),
            Kind::Enum(name) => format!("Kind::Enum({name:?})"),
            Kind::Message(name) => format!("Kind::Message({name:?})"),
        }
    }
}

impl Comment {
    fn read(text: Option<&String>, place: &str) -> Result<Self, String> {
        let text = text.ok_or(format!("{place}: no comment"))?;
        let mut comment = Comment::default();
        let (mut rows, mut section) = (String::new(), "");
        for line in text.lines().map(str::trim) {
            let mut rest = line;
            for name in ["Unit", "Source", "Absent", "Rows", "JSON"] {
                if let Some(after) = line
                    .strip_prefix(name)
                    .and_then(|after| after.strip_prefix(':'))
                {
                    (section, rest) = (name, after.trim());
                }
            }
            let into = match section {
                "Unit" => &mut comment.unit,
                "Source" => &mut comment.source,
                "Absent" => &mut comment.absent,
                "Rows" => &mut rows,
                "JSON" => &mut comment.json,
                _ => &mut comment.doc,
            };
            if !into.is_empty() && !rest.is_empty() {
                into.push(' ');
            }
            into.push_str(rest);
        }
        for number in rows
            .trim_end_matches('.')
            .split(',')
            .map(str::trim)
            .filter(|number| !number.is_empty())
        {
            comment.rows.push(
                number
                    .parse()
                    .map_err(|error| format!("{place}: row {number:?}: {error}"))?,
            );
        }
        comment.json = comment.json.trim_end_matches('.').to_owned();
        for (what, text) in [
            ("meaning", &comment.doc),
            ("`Source:`", &comment.source),
            ("`Absent:`", &comment.absent),
        ] {
            if text.is_empty() {
                return Err(format!("{place}: comment has no {what}"));
            }
        }
        Ok(comment)
    }
}

/// Snake case of a type name.
pub(crate) fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Camel case of a snake-case name, as the protobuf compiler makes it.
pub(crate) fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let mut chars = word.chars();
            chars
                .next()
                .map(|c| c.to_ascii_uppercase())
                .into_iter()
                .chain(chars)
                .collect::<String>()
        })
        .collect()
}

fn comments_of(file: &FileDescriptorProto) -> Comments {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    locations
        .filter_map(|location| Some((location.path.clone(), location.leading_comments.clone()?)))
        .collect()
}

fn meaning(comments: &Comments, path: &[i32], place: &str) -> Result<String, String> {
    let text = comments.get(path).ok_or(format!("{place}: no comment"))?;
    Ok(text
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ")
        .trim()
        .to_owned())
}
