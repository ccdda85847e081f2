//! Writes the JSON mapping: one `ToJson` per message, the short names of each enumeration.

use std::fmt::Write as _;

use super::schema::{Field, Kind, Message, Schema, camel, snake};

/// The implementations that `src/json.rs` includes.
pub(crate) fn mapping(schema: &Schema) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    for message in &schema.messages {
        // An event id is written as one text, by hand.
        if message.name != "EventId" {
            write_message(&mut out, message)?;
            write_rest(&mut out, message)?;
        }
    }
    for declared in &schema.enums {
        let name = &declared.name;
        writeln!(
            out,
            "impl v1::{name} {{\n/// Lower-case name without the type's prefix, as in JSON.\n\
             #[must_use]\npub fn short_name(self) -> &'static str {{ match self {{"
        )?;
        for value in &declared.values {
            writeln!(out, "Self::{} => {:?},", value.variant, value.short)?;
        }
        out.push_str(
            "} }\n/// The value of a short name; none when the schema has no such name.\n\
             #[must_use]\npub fn from_short_name(name: &str) -> Option<Self> { match name {\n",
        );
        for value in &declared.values {
            writeln!(out, "{:?} => Some(Self::{}),", value.short, value.variant)?;
        }
        out.push_str("_ => None,\n} } }\n");
    }
    Ok(out)
}

fn write_message(out: &mut String, message: &Message) -> std::fmt::Result {
    let name = &message.name;
    writeln!(
        out,
        "impl ToJson for v1::{name} {{\nfn write_json(&self, w: &mut Writer<'_>) {{\nw.begin();"
    )?;
    if name == "Event" {
        out.push_str("w.event_type(self);\n");
    }
    for field in message.fields.iter().filter(|field| field.oneof.is_none()) {
        if matches!(&field.kind, Kind::Message(of) if of == "Absent") {
            write_absent(out, message, field)?;
        } else {
            write_field(out, message, field, "")?;
        }
    }
    for oneof in &message.oneofs {
        writeln!(out, "if let Some(part) = &self.{oneof} {{ match part {{")?;
        for field in message
            .fields
            .iter()
            .filter(|field| field.oneof.as_ref() == Some(oneof))
        {
            writeln!(
                out,
                "v1::{}::{}::{}(v) => {{ w.key({}); v.write_json(w); w.comma(); }}",
                snake(name),
                camel(oneof),
                camel(&field.name),
                key(field.json_name()),
            )?;
        }
        out.push_str("} }\n");
    }
    out.push_str("w.end();\n}\n}\n");
    Ok(())
}

/// The list of missing fields, by name.
fn write_absent(out: &mut String, message: &Message, field: &Field) -> std::fmt::Result {
    writeln!(
        out,
        "w.absent(&self.{}, |number| match number {{",
        field.ident()
    )?;
    for field in &message.fields {
        writeln!(out, "{} => Some({:?}),", field.number, field.json_name())?;
    }
    out.push_str("_ => None,\n});\n");
    Ok(())
}

/// A field, unless that condition holds (none: always).
fn write_field(
    out: &mut String,
    message: &Message,
    field: &Field,
    unless: &str,
) -> std::fmt::Result {
    let (and, only) = match unless {
        "" => (String::new(), String::new()),
        unless => (format!(" && !{unless}"), format!("if !{unless} ")),
    };
    let ident = field.ident();
    let (key, raw_key) = (
        key(field.json_name()),
        key(&format!("{}_raw", field.json_name())),
    );
    // Called with `v`, a reference to the value.
    let write = match &field.kind {
        Kind::Bool => "w.bool(*v)".to_owned(),
        Kind::Unsigned("u64") => "w.unsigned(*v)".to_owned(),
        Kind::Unsigned(_) => "w.unsigned(u64::from(*v))".to_owned(),
        Kind::Signed("i64") => "w.signed(*v)".to_owned(),
        Kind::Signed(_) => "w.signed(i64::from(*v))".to_owned(),
        Kind::Mask(_) => "w.mask(*v)".to_owned(),
        Kind::Time => "w.time(*v)".to_owned(),
        Kind::Text => "w.text(v)".to_owned(),
        Kind::KernelText => "w.kernel_text(v)".to_owned(),
        Kind::Hex => "w.hex(v)".to_owned(),
        Kind::Uuid => "w.uuid(v)".to_owned(),
        Kind::Ip => "w.ip(v)".to_owned(),
        Kind::Mac => "w.mac(v)".to_owned(),
        Kind::Enum(name) => {
            format!("w.named(*v, v1::{name}::try_from(*v).ok().map(v1::{name}::short_name))")
        }
        Kind::Message(_) if message.name == "Event" && field.name == "process" => {
            "w.actor(v)".to_owned()
        }
        Kind::Message(_) if message.name == "Process" && field.name == "parent" => {
            "w.parent(v)".to_owned()
        }
        Kind::Message(_) => "v.write_json(w)".to_owned(),
    };
    let write = match (&field.kind, field.repeated) {
        (Kind::KernelText, true) => format!("w.kernel_texts({key}, {raw_key}, &self.{ident});"),
        (_, true) => {
            format!("{{ let v = &self.{ident}; {only}{{ w.list({key}, v, |w, v| {write}); }} }}")
        }
        (Kind::KernelText, false) if field.presence => {
            format!(
                "if let Some(v) = &self.{ident} {{ w.kernel_text_field({key}, {raw_key}, v); }}"
            )
        }
        (Kind::KernelText, false) => {
            format!("w.kernel_text_field({key}, {raw_key}, &self.{ident});")
        }
        (_, false) if field.presence => {
            format!("if let Some(v) = &self.{ident}{and} {{ w.key({key}); {write}; w.comma(); }}")
        }
        (Kind::Bool, false) => {
            format!("if self.{ident}{and} {{ w.key({key}); w.bool(true); w.comma(); }}")
        }
        (Kind::Enum(_), false) => {
            format!(
                "{{ let v = &self.{ident}; if *v != 0{and} {{ w.key({key}); {write}; w.comma(); }} }}"
            )
        }
        (_, false) => {
            format!("{{ let v = &self.{ident}; {only}{{ w.key({key}); {write}; w.comma(); }} }}")
        }
    };
    writeln!(out, "{write}")
}

/// What is left of a message when fields of it are told elsewhere (`src/json/rest.rs` has the rules).
fn write_rest(out: &mut String, message: &Message) -> std::fmt::Result {
    let name = &message.name;
    writeln!(
        out,
        "impl ToRest for v1::{name} {{\nfn write_rest(&self, w: &mut Writer<'_>, t: Told<'_>) {{"
    )?;
    for field in message.fields.iter().filter(|field| field.oneof.is_none()) {
        write_field_rest(out, message, field)?;
    }
    // The body of an event is left to who calls: there is one for each type.
    for oneof in message.oneofs.iter().filter(|_| name != "Event") {
        writeln!(out, "if let Some(part) = &self.{oneof} {{ match part {{")?;
        for field in message
            .fields
            .iter()
            .filter(|field| field.oneof.as_ref() == Some(oneof))
        {
            writeln!(
                out,
                "v1::{}::{}::{}(v) => w.rest_field({}, {}, v, t),",
                snake(name),
                camel(oneof),
                camel(&field.name),
                key(field.json_name()),
                field.number,
            )?;
        }
        out.push_str("} }\n");
    }
    out.push_str("}\n}\n");
    Ok(())
}

fn write_field_rest(out: &mut String, message: &Message, field: &Field) -> std::fmt::Result {
    let (ident, number) = (field.ident(), field.number);
    let (key, raw_key) = (
        key(field.json_name()),
        key(&format!("{}_raw", field.json_name())),
    );
    // Whether the field is told elsewhere; for some kinds that depends on the value `v`.
    let told = match (&field.kind, field.repeated) {
        (Kind::Unsigned("u64") | Kind::Mask("u64"), false) => {
            format!("t.tells_number({number}, *v)")
        }
        (Kind::Enum(name), false) => {
            format!("(t.tells({number}) && v1::{name}::try_from(*v).is_ok())")
        }
        (Kind::Ip, false) => format!("(t.tells({number}) && is_ip(v))"),
        (Kind::Ip, true) => format!("(t.tells({number}) && v.iter().all(|v| is_ip(v)))"),
        (Kind::Mac, true) => format!("(t.tells({number}) && v.iter().all(|v| v.len() == 6))"),
        (Kind::Uuid, false) => format!("(t.tells({number}) && v.len() == 16)"),
        _ => format!("t.tells({number})"),
    };
    match &field.kind {
        Kind::Message(of) if of == "Absent" => write_absent(out, message, field),
        Kind::Message(of) if of != "EventId" && !field.repeated => writeln!(
            out,
            "if let Some(v) = &self.{ident} {{ w.rest_field({key}, {number}, v, t); }}"
        ),
        Kind::KernelText if field.repeated => writeln!(
            out,
            "w.rest_texts({key}, {raw_key}, &self.{ident}, {told});"
        ),
        Kind::KernelText if field.presence => writeln!(
            out,
            "if let Some(v) = &self.{ident} {{ w.rest_text({key}, {raw_key}, v, {told}); }}"
        ),
        Kind::KernelText => writeln!(out, "w.rest_text({key}, {raw_key}, &self.{ident}, {told});"),
        Kind::Bool
        | Kind::Unsigned(_)
        | Kind::Mask(_)
        | Kind::Signed(_)
        | Kind::Time
        | Kind::Text
        | Kind::Hex
        | Kind::Uuid
        | Kind::Ip
        | Kind::Mac
        | Kind::Enum(_)
        | Kind::Message(_) => write_field(out, message, field, &told),
    }
}

/// The bytes of a key with its colon, as a byte-string literal.
fn key(name: &str) -> String {
    format!("b\"\\\"{name}\\\":\"")
}
