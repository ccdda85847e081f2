//! One TOML text -> typed value, with the place of every key and with every fault of the text, not only the first.
//!
//! Serde stops at the first fault. So unknown keys are found by walking the text's tree beside the JSON schema of the type,
//! and after each fault of a value the value is cut out of the tree and reading begins again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use schemars::JsonSchema;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::config::ConfigProblem;

/// Where something stands in a text: both count from 1, columns are characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// A text that was read.
#[derive(Debug)]
pub(super) struct Parsed {
    /// All that is sound in it; reads as the type without a fault.
    pub(super) table: toml::Table,
    /// Key path, such as `filter.rule[2].id` -> where it stands.
    pub(super) positions: BTreeMap<String, Position>,
    /// What is wrong, with the key path (empty: the text as a whole) and where.
    pub(super) faults: Vec<(String, Position, ConfigProblem)>,
}

/// A step on the way to a value.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

/// The keys that a type allows, by its JSON schema.
#[derive(Clone, Copy)]
struct Shape<'a> {
    root: &'a Value,
    node: &'a Value,
}

impl<'a> Shape<'a> {
    fn new(root: &'a Value) -> Self {
        Self { root, node: root }
    }

    fn resolve(self, node: &'a Value) -> Self {
        let target = node
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| reference.strip_prefix('#'))
            .and_then(|pointer| self.root.pointer(pointer));
        Self {
            root: self.root,
            node: target.unwrap_or(node),
        }
    }

    fn properties(self) -> impl Iterator<Item = (&'a str, Self)> {
        let properties = self.node.get("properties").and_then(Value::as_object);
        properties
            .into_iter()
            .flatten()
            .map(move |(name, node)| (name.as_str(), self.resolve(node)))
    }

    /// What stands under a key: a known one, or any where the type is a map.
    fn property(self, name: &str) -> Option<Self> {
        self.properties()
            .find(|(known, _)| *known == name)
            .map(|(_, inner)| inner)
            .or_else(|| {
                let any = self.node.get("additionalProperties")?;
                any.is_object().then(|| self.resolve(any))
            })
    }

    /// Whether the type wants a list at this path.
    fn is_list(self, path: &[Step]) -> bool {
        let at = path.iter().try_fold(self, |shape, step| match step {
            Step::Key(name) => shape.property(name),
            Step::Index(_) => shape.items(),
        });
        at.is_some_and(|shape| shape.items().is_some())
    }

    fn items(self) -> Option<Self> {
        self.node.get("items").map(|node| self.resolve(node))
    }
}

/// Reads a text as a `T`.
pub(super) fn parse<T: DeserializeOwned + JsonSchema>(text: &str) -> Parsed {
    let lines = Lines::new(text);
    let (mut tree, errors) = DeTable::parse_recoverable(text);
    let mut faults: Vec<_> = errors
        .iter()
        .map(|error| {
            let at = lines.position(error.span().map_or(0, |span| span.start));
            (
                String::new(),
                at,
                ConfigProblem::Syntax(error.message().to_owned()),
            )
        })
        .collect();
    let nodes = nodes(tree.get_ref());
    let positions = nodes
        .iter()
        .map(|node| (path_text(&node.path), lines.position(node.key.start)))
        .collect();
    if !faults.is_empty() {
        // A broken text has holes that would only be reported again as other faults.
        return Parsed {
            table: toml::Table::new(),
            positions,
            faults,
        };
    }
    let schema = schemars::schema_for!(T).to_value();
    let mut unknown = Vec::new();
    let shape = Shape::new(&schema);
    drop_unknown(
        tree.get_mut(),
        shape,
        &mut Vec::new(),
        &mut |path, offset, nearest| {
            unknown.push((
                path_text(path),
                lines.position(offset),
                ConfigProblem::UnknownKey { nearest },
            ));
        },
    );
    faults.extend(unknown);
    let mut sieve = Sieve {
        shape,
        nodes: &nodes,
        lines: &lines,
        cut: Vec::new(),
        faults,
    };
    let tree = sieve.sound_part::<T>(tree);
    let mut faults = sieve.faults;
    faults.sort_by_key(|(_, position, _)| *position);
    let table = toml::Table::deserialize(toml::Deserializer::from(tree)).unwrap_or_default();
    Parsed {
        table,
        positions,
        faults,
    }
}

/// Faults told about one text; a text with more has one cause.
const MAX_FAULTS: usize = 100;
/// Lists longer than this are refused as a whole, since each entry is tried alone.
const MAX_TRIED_ALONE: usize = 1_000;

/// Separates the sound part of a tree from its faults.
struct Sieve<'s> {
    shape: Shape<'s>,
    /// The whole tree as it was read: spans in it name the keys, whatever has been cut since.
    nodes: &'s [Node],
    lines: &'s Lines<'s>,
    /// Key paths of values that were cut out: that they are missing now is no further fault.
    cut: Vec<String>,
    faults: Vec<(String, Position, ConfigProblem)>,
}

impl Sieve<'_> {
    fn sound_part<'i, T: DeserializeOwned>(
        &mut self,
        mut tree: Spanned<DeTable<'i>>,
    ) -> Spanned<DeTable<'i>> {
        // Each round cuts one value out of the tree, so there are no more rounds than values.
        for _ in 0..=self.nodes.len() {
            let Err(error) = T::deserialize(toml::Deserializer::from(tree.clone())) else {
                return tree;
            };
            let current = nodes(tree.get_ref());
            let span = error.span().unwrap_or_default();
            let Some(node) = smallest(&current, &span) else {
                break;
            };
            let (mut path, mut value) = (node.path.clone(), node.value.clone());
            // Serde tells a fault of an entry as one of the list: find out which.
            let entries: Vec<&Node> = current
                .iter()
                .filter(|node| {
                    node.path.split_last().is_some_and(|(last, parent)| {
                        matches!(last, Step::Index(_)) && parent == path
                    })
                })
                .collect();
            if self.shape.is_list(&path) {
                if (2..=MAX_TRIED_ALONE).contains(&entries.len()) && self.faults.len() < MAX_FAULTS
                {
                    self.try_alone::<T>(&mut tree, &path, entries.len());
                    continue;
                }
                if let [entry] = entries.as_slice() {
                    (path, value) = (entry.path.clone(), entry.value.clone());
                }
            }
            self.tell(&value, &error);
            cut(tree.get_mut(), &path);
        }
        Spanned::new(0..0, DeTable::new())
    }

    /// Keeps those entries of the list at `path` that are sound when the list has no other entry.
    fn try_alone<T: DeserializeOwned>(
        &mut self,
        tree: &mut Spanned<DeTable<'_>>,
        path: &[Step],
        entries: usize,
    ) {
        for index in (0..entries).rev() {
            let mut alone = tree.clone();
            if let Some(items) = list_at(alone.get_mut(), path) {
                let all = std::mem::replace(items, DeArray::new())
                    .into_iter()
                    .enumerate();
                *items = all
                    .filter(|(at, _)| *at == index)
                    .map(|(_, item)| item)
                    .collect();
            }
            let mut alone = self.sound_part::<T>(alone);
            let sound = list_at(alone.get_mut(), path)
                .and_then(|items| std::mem::replace(items, DeArray::new()).into_iter().next());
            if let Some(items) = list_at(tree.get_mut(), path) {
                let all = std::mem::replace(items, DeArray::new())
                    .into_iter()
                    .enumerate();
                let mut sound = Some(sound);
                *items = all
                    .filter_map(|(at, item)| {
                        if at == index {
                            sound.take().flatten()
                        } else {
                            Some(item)
                        }
                    })
                    .collect();
            }
        }
    }

    fn tell(&mut self, value: &Range<usize>, error: &toml::de::Error) {
        // A list of tables has the span of its first entry; what is told is never about such a list as a whole.
        let exact = self.nodes.iter().rev().find(|node| node.value == *value);
        let node = exact.or_else(|| smallest(self.nodes, value));
        let key = node.map(|node| path_text(&node.path)).unwrap_or_default();
        let message = error.message().to_owned();
        let missing = message
            .strip_prefix("missing field `")
            .and_then(|rest| rest.strip_suffix('`'));
        let caused = missing.is_some_and(|field| self.cut.contains(&format!("{key}.{field}")));
        let position = self.lines.position(value.start);
        let known = self
            .faults
            .iter()
            .any(|(other, at, _)| *other == key && *at == position);
        if !caused && !known && self.faults.len() < MAX_FAULTS {
            self.faults
                .push((key.clone(), position, ConfigProblem::WrongValue(message)));
        }
        self.cut.push(key);
    }
}

fn list_at<'t, 'i>(table: &'t mut DeTable<'i>, path: &[Step]) -> Option<&'t mut DeArray<'i>> {
    let (first, mut rest) = path.split_first()?;
    let Step::Key(name) = first else { return None };
    let (_, value) = table.iter_mut().find(|(key, _)| key.get_ref() == name)?;
    let mut value = value.get_mut();
    while let Some((step, further)) = rest.split_first() {
        value = match (step, value) {
            (Step::Key(name), DeValue::Table(table)) => table
                .iter_mut()
                .find(|(key, _)| key.get_ref() == name)?
                .1
                .get_mut(),
            (Step::Index(index), DeValue::Array(items)) => items.get_mut(*index)?.get_mut(),
            _ => return None,
        };
        rest = further;
    }
    match value {
        DeValue::Array(items) => Some(items),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Table(_) => None,
    }
}

/// A value somewhere in the tree.
struct Node {
    path: Vec<Step>,
    key: Range<usize>,
    value: Range<usize>,
}

fn nodes(table: &DeTable<'_>) -> Vec<Node> {
    fn walk(
        value: &Spanned<DeValue<'_>>,
        key: Range<usize>,
        path: &mut Vec<Step>,
        out: &mut Vec<Node>,
    ) {
        out.push(Node {
            path: path.clone(),
            key,
            value: value.span(),
        });
        match value.get_ref() {
            DeValue::Table(table) => walk_table(table, path, out),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(Step::Index(index));
                    walk(item, item.span(), path, out);
                    path.pop();
                }
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }
    fn walk_table(table: &DeTable<'_>, path: &mut Vec<Step>, out: &mut Vec<Node>) {
        for (key, value) in table {
            path.push(Step::Key(key.get_ref().clone().into_owned()));
            walk(value, key.span(), path, out);
            path.pop();
        }
    }
    let mut out = Vec::new();
    walk_table(table, &mut Vec::new(), &mut out);
    out
}

/// The node that a fault at `span` is about: the one with exactly this span, else the smallest around its beginning.
fn smallest<'n>(nodes: &'n [Node], span: &Range<usize>) -> Option<&'n Node> {
    nodes.iter().find(|node| node.value == *span).or_else(|| {
        nodes
            .iter()
            .filter(|node| node.value.contains(&span.start) || node.key.contains(&span.start))
            .min_by_key(|node| node.value.len())
    })
}

fn cut(table: &mut DeTable<'_>, path: &[Step]) {
    fn cut_value(value: &mut DeValue<'_>, path: &[Step]) {
        match value {
            DeValue::Table(table) => cut(table, path),
            DeValue::Array(items) => {
                let Some((Step::Index(index), rest)) = path.split_first() else {
                    return;
                };
                if !rest.is_empty() {
                    if let Some(item) = items.get_mut(*index) {
                        cut_value(item.get_mut(), rest);
                    }
                    return;
                }
                let all = std::mem::replace(items, DeArray::new())
                    .into_iter()
                    .enumerate();
                *items = all
                    .filter(|(at, _)| at != index)
                    .map(|(_, item)| item)
                    .collect();
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }
    let Some((Step::Key(name), rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        *table = std::mem::take(table)
            .into_iter()
            .filter(|(key, _)| key.get_ref() != name)
            .collect();
    } else if let Some((_, value)) = table.iter_mut().find(|(key, _)| key.get_ref() == name) {
        cut_value(value.get_mut(), rest);
    }
}

type Found<'f> = &'f mut dyn FnMut(&[Step], usize, Option<String>);

fn drop_unknown(table: &mut DeTable<'_>, shape: Shape<'_>, path: &mut Vec<Step>, found: Found<'_>) {
    let names: Vec<&str> = shape.properties().map(|(name, _)| name).collect();
    let all = std::mem::take(table).into_iter();
    let known = all.filter_map(|(key, mut value)| {
        let name = key.get_ref();
        path.push(Step::Key(name.clone().into_owned()));
        let known = shape.property(name);
        if let Some(inner) = known {
            drop_unknown_within(value.get_mut(), inner, path, found);
        } else {
            let parent = path.get(..path.len() - 1).unwrap_or_default();
            found(path, key.span().start, nearest(name, &names, parent, shape));
        }
        path.pop();
        known.map(|_| (key, value))
    });
    *table = known.collect();
}

fn drop_unknown_within(
    value: &mut DeValue<'_>,
    shape: Shape<'_>,
    path: &mut Vec<Step>,
    found: Found<'_>,
) {
    match value {
        DeValue::Table(table) => {
            // A table where the type wants something else is a wrong value, told by serde.
            let map = shape.node.get("additionalProperties");
            if shape.node.get("properties").is_some() || map.is_some_and(Value::is_object) {
                drop_unknown(table, shape, path, found);
            }
        }
        DeValue::Array(items) => {
            let Some(inner) = shape.items() else { return };
            for (index, item) in items.iter_mut().enumerate() {
                path.push(Step::Index(index));
                drop_unknown_within(item.get_mut(), inner, path, found);
                path.pop();
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

/// The key that was probably meant: the most alike of the same table, else a key of this name in another table.
fn nearest(name: &str, names: &[&str], parent: &[Step], shape: Shape<'_>) -> Option<String> {
    let allowed = (name.chars().count() / 3).max(2);
    let alike = names
        .iter()
        .map(|known| {
            let distance = strsim::damerau_levenshtein(name, known);
            (distance, strsim::jaro_winkler(name, known), *known)
        })
        .filter(|(distance, _, _)| *distance <= allowed)
        .min_by(|one, other| one.0.cmp(&other.0).then(other.1.total_cmp(&one.1)));
    if let Some((_, _, known)) = alike {
        let mut path = parent.to_vec();
        path.push(Step::Key(known.to_owned()));
        return Some(path_text(&path));
    }
    Shape::new(shape.root)
        .properties()
        .find(|(_, table)| table.properties().any(|(known, _)| known == name))
        .map(|(table, _)| format!("{table}.{name}"))
}

fn path_text(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&key_text(key));
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

fn key_text(key: &str) -> Cow<'_, str> {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !key.is_empty() && key.bytes().all(bare) {
        Cow::Borrowed(key)
    } else {
        Cow::Owned(format!("\"{}\"", key.escape_default()))
    }
}

/// Beginnings of lines, to turn offsets into positions.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            text,
            starts: std::iter::once(0)
                .chain(breaks.map(|(at, _)| at + 1))
                .collect(),
        }
    }

    fn position(&self, offset: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        Position {
            line,
            column: before.chars().count() + 1,
        }
    }
}
