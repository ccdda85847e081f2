//! Events in other schemas against those schemas: OCSF's own JSON Schemas, and the list of the fields of ECS.
//!
//! The data and how it was made stand in `tests/data/ocsf` and `tests/data/ecs`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jsonschema::Validator;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, json};

/// A line as JSON, in which no object has a key twice: readers differ about which of the two counts.
///
/// # Errors
/// What is wrong with the line.
pub fn read(line: &[u8]) -> Result<Value, String> {
    serde_json::from_slice::<Strict>(line)
        .map(|strict| strict.0)
        .map_err(|error| error.to_string())
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("no number"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            out.push(value);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some((key, Strict(value))) = map.next_entry::<String, Strict>()? {
            if out.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key {key:?} twice")));
            }
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

/// What makes an event illegal in OCSF; empty if nothing does.
pub fn ocsf_problems(event: &Value) -> Vec<String> {
    let Some(class) = event["class_uid"].as_u64() else {
        return vec!["no class_uid".to_owned()];
    };
    let Some(profiles) = event["metadata"]["profiles"].as_array() else {
        return vec!["no metadata.profiles".to_owned()];
    };
    let profiles: Vec<&str> = profiles.iter().filter_map(Value::as_str).collect();
    let Some(validator) = validator(class, &profiles.join(",")) else {
        return vec![format!("no schema of class {class} with {profiles:?}")];
    };
    let mut problems: Vec<String> = validator
        .iter_errors(event)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    // JSON Schema cannot say these.
    let activity = event["activity_id"].as_u64().unwrap_or_default();
    if event["type_uid"] != json!(class * 100 + activity) {
        problems.push(format!(
            "type_uid {} of class {class} and activity {activity}",
            event["type_uid"]
        ));
    }
    if event["metadata"]["version"] != "1.8.0" {
        problems.push(format!("version {}", event["metadata"]["version"]));
    }
    problems
}

/// The schemas of all classes and lists of profiles.
static OCSF: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../data/ocsf/schemas.json")).expect("committed JSON")
});

fn validator(class: u64, profiles: &str) -> Option<Arc<Validator>> {
    type Compiled = HashMap<(u64, String), Arc<Validator>>;
    static COMPILED: LazyLock<Mutex<Compiled>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (class, profiles.to_owned());
    if let Some(known) = compiled.get(&key) {
        return Some(Arc::clone(known));
    }
    let entry = OCSF["classes"]
        .as_array()?
        .iter()
        .find(|entry| entry["uid"] == class && entry["profiles"] == profiles)?;
    let mut schema = entry["schema"].clone();
    schema["$defs"] = OCSF["definitions"][profiles].clone();
    let made = Arc::new(jsonschema::validator_for(&schema).expect("a committed schema"));
    compiled.insert(key, Arc::clone(&made));
    Some(made)
}

#[derive(Debug, Deserialize)]
struct EcsField {
    r#type: String,
    #[serde(default)]
    array: bool,
    /// Allowed values, each with the types that are expected beside it.
    allowed: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Debug, Deserialize)]
struct EcsFields {
    version: String,
    fields: HashMap<String, EcsField>,
}

static ECS: LazyLock<EcsFields> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../data/ecs/fields.json")).expect("committed JSON")
});

/// Objects that may stand in a list although the field list does not say so of them: a process has many groups.
const ECS_LISTS: [&str; 1] = ["process.supplemental_groups"];

/// What makes an event illegal in ECS; empty if nothing does.
pub fn ecs_problems(event: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    ecs_walk(event, "", &mut problems);
    if event["ecs"]["version"] != json!(ECS.version) {
        problems.push(format!("ecs.version is {}", event["ecs"]["version"]));
    }
    if event["@timestamp"].is_null() {
        problems.push("no @timestamp".to_owned());
    }
    let category = &event["event"]["category"];
    let expected: Vec<&String> = ECS.fields["event.category"]
        .allowed
        .iter()
        .flatten()
        .filter(|(name, _)| strings(category).contains(&name.as_str()))
        .flat_map(|(_, types)| types)
        .collect();
    for told in strings(&event["event"]["type"]) {
        if !expected.iter().any(|expected| *expected == told) {
            problems.push(format!("event.type {told} is not expected for {category}"));
        }
    }
    problems
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// Whether the object that has this key may have any.
fn is_free(path: &str) -> bool {
    path.rsplit_once('.')
        .and_then(|(object, _key)| ECS.fields.get(object))
        .is_some_and(|field| field.r#type == "object")
}

fn ecs_walk(value: &Value, path: &str, problems: &mut Vec<String>) {
    if path == "sensor" {
        return;
    }
    let field = ECS.fields.get(path);
    match (value, field) {
        (Value::Object(object), _) => {
            if object.is_empty() {
                problems.push(format!("{path} is empty"));
            }
            for (key, value) in object {
                if key.contains('.') {
                    problems.push(format!("{path}: the key {key} has a dot"));
                }
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                ecs_walk(value, &path, problems);
            }
        }
        (Value::Array(list), None) if ECS_LISTS.contains(&path) => {
            for value in list {
                ecs_walk(value, path, problems);
            }
        }
        // Labels: an object whose keys are free.
        (Value::String(_), None) if is_free(path) => {}
        (_, None) => problems.push(format!("ECS has no field {path}")),
        (Value::Array(list), Some(field)) => {
            if !field.array {
                problems.push(format!("{path} is a list"));
            }
            for value in list {
                ecs_leaf(value, path, field, problems);
            }
        }
        (value, Some(field)) => {
            if field.array {
                problems.push(format!("{path} is no list"));
            }
            ecs_leaf(value, path, field, problems);
        }
    }
}

fn ecs_leaf(value: &Value, path: &str, field: &EcsField, problems: &mut Vec<String>) {
    let text = value.as_str();
    let fits = match field.r#type.as_str() {
        "keyword" | "wildcard" | "match_only_text" | "constant_keyword" => text.is_some(),
        "long" => value.is_i64(),
        "boolean" => value.is_boolean(),
        "ip" => text.is_some_and(|text| text.parse::<IpAddr>().is_ok()),
        "date" => text.is_some_and(is_instant),
        // No other type is written.
        _ => false,
    };
    if !fits {
        problems.push(format!("{path}: {value} is no {}", field.r#type));
    }
    if let (Some(allowed), Some(text)) = (&field.allowed, text)
        && !allowed.contains_key(text)
    {
        problems.push(format!("{path}: {text} is not allowed"));
    }
}

/// `2026-01-31T23:59:59.123456789Z`, with up to nine digits of a second's parts.
fn is_instant(text: &str) -> bool {
    let Some((whole, parts)) = text.strip_suffix('Z').and_then(|text| text.split_once('.')) else {
        return false;
    };
    let form = "0000-00-00T00:00:00";
    let shaped = whole.len() == form.len()
        && whole
            .bytes()
            .zip(form.bytes())
            .all(|(is, should)| match should {
                b'0' => is.is_ascii_digit(),
                other => is == other,
            });
    shaped && (1..=9).contains(&parts.len()) && parts.bytes().all(|byte| byte.is_ascii_digit())
}
