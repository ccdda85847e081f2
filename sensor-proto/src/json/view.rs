//! What views in other schemas are written with: fields of objects, by the same rules of text and numbers as the schema's own view.
//! Each leaves a comma behind itself; [`Writer::object`] and [`Writer::list_of`] take the last one back.

use super::{
    Writer, address, all_plain, close, is_ip, push_hex, push_id_prefix, push_kernel_text, push_uuid,
};
use crate::v1;

/// The beginning of the ids of an agent's events, for [`Writer::new`].
#[must_use]
pub fn id_prefix(agent: &v1::Agent) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(80);
    push_id_prefix(&mut prefix, &agent.id, &agent.epoch);
    prefix
}

impl<'a> Writer<'a> {
    /// Appends to `out`; ids of events that do not name their agent begin with `id_prefix` ([`id_prefix`]).
    #[must_use]
    pub fn new(out: &'a mut Vec<u8>, id_prefix: &'a [u8]) -> Self {
        Self {
            id_prefix,
            ..Self::plain(out)
        }
    }

    /// An object that stands by itself or in a list.
    pub fn value(&mut self, write: impl FnOnce(&mut Self)) {
        self.begin();
        write(self);
        self.end();
    }

    /// A field that is an object; left out if nothing is written into it.
    pub fn object(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.name(name);
        self.begin();
        let empty = self.out.len();
        write(self);
        if self.out.len() == empty {
            self.out.truncate(start);
        } else {
            self.end();
            self.comma();
        }
    }

    /// A field that is a list; `write` appends one value without comma, or nothing, which leaves the value out. Left out
    /// if it is empty.
    pub fn list_of<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        let start = self.out.len();
        self.name(name);
        self.out.push(b'[');
        let empty = self.out.len();
        for item in items {
            let before = self.out.len();
            write(self, item);
            if self.out.len() > before {
                self.comma();
            }
        }
        if self.out.len() == empty {
            self.out.truncate(start);
        } else {
            close(self.out, b']');
            self.comma();
        }
    }

    /// A field whose value `write` appends without comma; left out if that appends nothing.
    pub fn field(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.name(name);
        let empty = self.out.len();
        write(self);
        if self.out.len() == empty {
            self.out.truncate(start);
        } else {
            self.comma();
        }
    }

    /// A list without values, as a value.
    pub fn empty_list_value(&mut self) {
        self.out.extend_from_slice(b"[]");
    }

    /// Text, as a value.
    pub fn text_value(&mut self, text: &str) {
        self.text(text);
    }

    /// What a value is for people, as text; it must be plain text, which is not escaped.
    pub fn display_value(&mut self, value: &impl std::fmt::Display) {
        self.display(value);
    }

    /// Kernel bytes as text, as a value; the raw form is for the rest ([`super::ToRest`]) to tell.
    pub fn kernel_text_value(&mut self, bytes: &[u8]) {
        self.kernel_text(bytes);
    }

    /// Two kernel texts with something between them, as one value.
    pub fn kernel_pair_value(&mut self, first: &[u8], between: &[u8], second: &[u8]) {
        self.out.push(b'"');
        push_kernel_text(self.out, first);
        push_kernel_text(self.out, between);
        push_kernel_text(self.out, second);
        self.out.push(b'"');
    }

    /// An address, as a value; nothing where the bytes are none.
    pub fn ip_value(&mut self, bytes: &[u8]) {
        if is_ip(bytes) {
            self.ip(bytes);
        }
    }

    /// A hardware address with this between its hexadecimal pairs, as a value; nothing where the bytes are none.
    pub fn mac_value(&mut self, bytes: &[u8], between: u8, upper: bool) {
        if bytes.len() != 6 {
            return;
        }
        let start = self.out.len();
        self.out.push(b'"');
        for (index, byte) in bytes.iter().enumerate() {
            if index > 0 {
                self.out.push(between);
            }
            push_hex(self.out, &[*byte]);
        }
        self.out.push(b'"');
        if upper && let Some(text) = self.out.get_mut(start..) {
            text.make_ascii_uppercase();
        }
    }

    /// Text.
    pub fn text_field(&mut self, name: &str, text: &str) {
        self.name(name);
        self.text(text);
        self.comma();
    }

    /// Text, if there is any.
    pub fn some_text_field(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text_field(name, text);
        }
    }

    /// Kernel bytes as text.
    pub fn kernel_text_only_field(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.kernel_text(bytes);
        self.comma();
    }

    /// Kernel bytes as text, with the raw form beside in a field named `*_raw` where that text is not exact.
    pub fn kernel_field(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        let exact = self.kernel_text(bytes);
        self.comma();
        if !exact {
            self.raw_field(name, bytes);
        }
    }

    /// The raw form of kernel bytes, in a field named `*_raw`, if they are not UTF-8.
    pub fn raw_field(&mut self, name: &str, bytes: &[u8]) {
        if std::str::from_utf8(bytes).is_err() {
            self.raw_name(name);
            self.hex(bytes);
            self.comma();
        }
    }

    /// The raw forms of a list of kernel bytes, in a field named `*_raw`, if one of them is not UTF-8.
    pub fn raws_field(&mut self, name: &str, list: &[Vec<u8>]) {
        if list.iter().any(|bytes| std::str::from_utf8(bytes).is_err()) {
            self.raw_name(name);
            self.out.push(b'[');
            for bytes in list {
                self.hex(bytes);
                self.comma();
            }
            close(self.out, b']');
            self.comma();
        }
    }

    /// Kernel texts with a blank between them.
    pub fn joined_field(&mut self, name: &str, parts: &[Vec<u8>]) {
        self.name(name);
        self.out.push(b'"');
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                self.out.push(b' ');
            }
            push_kernel_text(self.out, part);
        }
        self.out.push(b'"');
        self.comma();
    }

    /// A number; left out where it needs more than 63 bits, which other schemas do not have.
    pub fn number_field(&mut self, name: &str, value: u64) {
        if i64::try_from(value).is_ok() {
            self.name(name);
            self.unsigned(value);
            self.comma();
        }
    }

    /// A number as text.
    pub fn decimal_field(&mut self, name: &str, value: u64) {
        self.name(name);
        self.out.push(b'"');
        self.unsigned(value);
        self.out.push(b'"');
        self.comma();
    }

    /// `true` or `false`.
    pub fn bool_field(&mut self, name: &str, value: bool) {
        self.name(name);
        self.bool(value);
        self.comma();
    }

    /// A wall-clock instant in nanoseconds since 1970, as RFC 3339 text.
    pub fn time_field(&mut self, name: &str, time_ns: i64) {
        self.name(name);
        self.time(time_ns);
        self.comma();
    }

    /// A wall-clock instant in nanoseconds since 1970, as whole milliseconds since 1970.
    pub fn milliseconds_field(&mut self, name: &str, time_ns: i64) {
        self.name(name);
        let value = time_ns.div_euclid(1_000_000);
        self.out
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.comma();
    }

    /// Bytes in hexadecimal.
    pub fn hex_field(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.hex(bytes);
        self.comma();
    }

    /// 16 bytes as UUID text; others in hexadecimal.
    pub fn uuid_field(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        push_uuid(self.out, bytes);
        self.out.push(b'"');
        self.comma();
    }

    /// An address; left out where the bytes are none.
    pub fn ip_field(&mut self, name: &str, bytes: &[u8]) {
        if let Some(address) = address(bytes) {
            self.name(name);
            self.display(&address);
            self.comma();
        }
    }

    /// A value of the schema in its own view.
    pub fn native_field(&mut self, name: &str, value: &impl super::ToJson) {
        self.name(name);
        value.write_json(self);
        self.comma();
    }

    /// Values of the schema in their own view.
    pub fn native_list(&mut self, name: &str, values: &[impl super::ToJson]) {
        self.list_of(name, values, |w, value| value.write_json(w));
    }

    /// An ancestor of a process: identity, name and path.
    pub fn ancestor_value(&mut self, process: &v1::Process) {
        self.ancestor(process);
    }

    fn raw_name(&mut self, name: &str) {
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"_raw\":");
    }

    fn name(&mut self, name: &str) {
        debug_assert!(all_plain(name.as_bytes()), "{name}");
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}
