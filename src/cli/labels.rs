//! Labels of containers, networks and volumes: as lists show them, and as they are filtered by.

use std::collections::BTreeMap;

/// `label=KEY[=VALUE]`, without its first word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFilter {
    key: String,
    value: Option<String>,
}

impl LabelFilter {
    /// Whatever the text is, it names a key.
    pub fn new(text: &str) -> Self {
        let (key, value) =
            text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value.to_owned())));
        Self { key: key.to_owned(), value }
    }

    /// Whether the label is there, with the value if one was named.
    pub fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        let wanted = self.value.as_ref();
        labels.get(&self.key).is_some_and(|value| wanted.is_none_or(|wanted| wanted == value))
    }
}

/// As docker lists them.
pub fn listed(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
