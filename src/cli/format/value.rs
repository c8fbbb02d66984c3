//! JSON as a template sees it, and back.
//!
//! Some objects are Go's structures in docker, whose fields have other names than their JSON: `.ID` is `Id`,
//! `.Status` of an event `status`. The object itself has both; its JSON, for the function `json`, has its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::Value;
use serde_json::Value as Json;

/// What marks an object that has names of two kinds: no template can spell it.
const MARK: &str = "\0";

/// An object, with Go's names for its fields beside its own.
pub fn of(object: &Json) -> Value {
    let Json::Object(fields) = object else { return plain(object) };
    let mut made = map(fields);
    for (name, field) in fields {
        if let Some(other) = other_name(name)
            && !fields.contains_key(&other)
        {
            made.insert(Arc::from(other), plain(field));
            made.insert(Arc::from(MARK), Value::Nil);
        }
    }
    Value::Map(Arc::new(made))
}

fn plain(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::Uint(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::String(Arc::from(text.as_str())),
        Json::Array(all) => Value::List(all.iter().map(plain).collect()),
        Json::Object(fields) => Value::Map(Arc::new(map(fields))),
    }
}

fn map(fields: &serde_json::Map<String, Json>) -> BTreeMap<Arc<str>, Value> {
    fields.iter().map(|(name, field)| (Arc::from(name.as_str()), plain(field))).collect()
}

/// Go's name for a field, where its JSON has another.
fn other_name(name: &str) -> Option<String> {
    if matches!(name, "id" | "Id") {
        return Some("ID".to_owned());
    }
    let first = name.chars().next().filter(char::is_ascii_lowercase)?;
    Some(first.to_ascii_uppercase().to_string() + name.get(1..).unwrap_or_default())
}

/// The JSON of something that a template has; a function is nothing.
pub fn json(value: &Value) -> Json {
    match value {
        Value::Bool(flag) => Json::Bool(*flag),
        Value::Int(number) => Json::from(*number),
        Value::Uint(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::String(text) => Json::String(text.to_string()),
        Value::List(all) => all.iter().map(json).collect(),
        Value::Map(fields) => {
            let marked = fields.contains_key(MARK);
            let added: Vec<String> = match marked {
                true => fields.keys().filter_map(|name| other_name(name)).collect(),
                false => Vec::new(),
            };
            let own = |name: &str| !marked || (name != MARK && !added.iter().any(|it| it == name));
            let fields = fields.iter().filter(|(name, _)| own(name));
            Json::Object(fields.map(|(name, field)| (name.to_string(), json(field))).collect())
        }
        Value::Nil | Value::Function(_) => Json::Null,
    }
}
