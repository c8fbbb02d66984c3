//! `--format` of all verbs that show something: a table, JSON, or a template of Go's, as docker has it.
//!
//! Templates are filled in by the crate `gotmpl`, which has no unsafe code, next to no dependencies, bounds how deep
//! a template may be and how long it may repeat itself, and is compared with Go's own by its tests. What docker
//! adds to Go's functions is in [`functions`].

mod functions;
mod value;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use gotmpl::{MissingKey, Template, TemplateError};
use serde::Serialize;
use serde_json::Value;

use super::table::Table;
use functions::{filling, heading};

/// Longest template, in bytes.
const SOURCE: usize = 64 << 10;

/// Most of what one template may make of one object, in bytes.
const OUTPUT: usize = 16 << 20;

/// Most repetitions of `range` for one object.
const REPEATS: u64 = 1 << 20;

/// Why a `--format` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// neither a word that is known nor a template
    #[error("{0:?} is no format: table, json, or a template such as {{{{.{1}}}}}")]
    Unknown(String, &'static str),
    /// too long
    #[error("a template has at most {SOURCE} bytes")]
    Long,
    /// it cannot be read; says where
    #[error("{0}")]
    Syntax(TemplateError),
    /// a field that what is shown does not have
    #[error("there is no field {field}: there are {known}")]
    Field {
        /// the field
        field: String,
        /// those that there are
        known: String,
    },
    /// it cannot be filled in
    #[error("cannot fill in the template: {0}")]
    Filling(TemplateError),
    /// it makes more than anybody reads
    #[error("the template makes more than {OUTPUT} bytes of one object")]
    Large,
    /// what is shown is no JSON
    #[error("cannot make JSON")]
    Json(#[from] serde_json::Error),
}

/// How something is shown.
#[derive(Debug, Clone, Default)]
pub enum Format {
    /// As the verb has it: a table, lines, or an indented JSON array.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
    /// As a template says.
    Template(Layout),
}

/// A template, and the one that makes the headings of its columns where it is for a table.
#[derive(Clone)]
pub struct Layout {
    rows: Arc<Template>,
    headings: Option<Arc<Template>>,
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layout").field("table", &self.headings.is_some()).finish_non_exhaustive()
    }
}

/// What a list has of each of its objects.
#[derive(Debug)]
pub struct List {
    /// Fields, and what is over their columns.
    pub fields: &'static [(&'static str, &'static str)],
    /// Those of them that are shown where nothing is asked for, in this order.
    pub columns: &'static [&'static str],
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let (table, source) = match text.trim() {
            "" | "table" | "text" => return Ok(Self::Plain),
            "json" => return Ok(Self::Json),
            text => match text.strip_prefix("table ") {
                Some(source) => (true, source.trim_start()),
                None => (false, text),
            },
        };
        if source.len() > SOURCE {
            return Err(FormatError::Long);
        }
        if !source.contains("{{") {
            return Err(FormatError::Unknown(text.to_owned(), "Name"));
        }
        let source = unescape(source);
        let parsed = |template: Template| {
            let template = template.max_range_iters(REPEATS).parse(&source);
            template.map(Arc::new).map_err(FormatError::Syntax)
        };
        let rows = parsed(filling(Template::new("format").missing_key(MissingKey::Error)))?;
        let headings = table.then(|| parsed(heading(Template::new("format")))).transpose()?;
        Ok(Self::Template(Layout { rows, headings }))
    }
}

impl Format {
    /// A list: each of `rows` is an object with the fields of `list`.
    ///
    /// # Errors
    ///
    /// If a template cannot be filled in.
    pub fn list<T: Serialize>(&self, list: &List, rows: &[T]) -> Result<String, FormatError> {
        let rows = rows.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        match self {
            Self::Plain => {
                let heading = |column: &&'static str| list.heading(column);
                let mut table = Table::new(&list.columns.iter().map(heading).collect::<Vec<_>>());
                for row in &rows {
                    table.row(list.columns.iter().map(|column| cell(&row[*column])));
                }
                Ok(table.to_string())
            }
            Self::Json => lines(&rows),
            Self::Template(layout) => layout.list(list, &rows),
        }
    }

    /// Objects of which all is told: an indented array where nothing is asked for.
    ///
    /// # Errors
    ///
    /// If a template cannot be filled in.
    pub fn inspect<T: Serialize>(&self, objects: &[T]) -> Result<String, FormatError> {
        match self {
            Self::Plain => Ok(serde_json::to_string_pretty(objects)? + "\n"),
            Self::Json => lines(objects),
            Self::Template(layout) => {
                let mut text = String::new();
                for object in objects {
                    text += &layout.fill(&serde_json::to_value(object)?)?;
                    text.push('\n');
                }
                Ok(text)
            }
        }
    }

    /// One object in a line; none where nothing is asked for: that is the verb's.
    ///
    /// # Errors
    ///
    /// If a template cannot be filled in.
    pub fn one<T: Serialize>(&self, object: &T) -> Result<Option<String>, FormatError> {
        match self {
            Self::Plain => Ok(None),
            Self::Json => Ok(Some(serde_json::to_string(object)?)),
            Self::Template(layout) => Ok(Some(layout.fill(&serde_json::to_value(object)?)?)),
        }
    }
}

impl List {
    fn heading(&self, field: &str) -> &'static str {
        let known = self.fields.iter().find(|(name, _)| *name == field);
        known.map(|(_, heading)| *heading).unwrap_or_default()
    }
}

impl Layout {
    fn list(&self, list: &List, rows: &[Value]) -> Result<String, FormatError> {
        let filled = rows.iter().map(|row| self.fill(row)).collect::<Result<Vec<_>, _>>()?;
        let Some(headings) = &self.headings else {
            return Ok(filled.iter().fold(String::new(), |text, row| text + row + "\n"));
        };
        let names =
            list.fields.iter().map(|(name, heading)| ((*name).to_owned(), (*heading).into()));
        let mut over = Bounded::default();
        // What the names alone do not go into has no headings, as there is nothing to say.
        let made = headings.execute_fmt(&mut over, &value::of(&Value::Object(names.collect())));
        let over = made.map(|()| over.text).unwrap_or_default();
        let mut table = Table::new(&over.trim_end().split('\t').collect::<Vec<_>>());
        for row in &filled {
            table.row(row.split('\t').map(str::to_owned));
        }
        Ok(table.to_string())
    }

    fn fill(&self, object: &Value) -> Result<String, FormatError> {
        let mut out = Bounded::default();
        match self.rows.execute_fmt(&mut out, &value::of(object)) {
            Ok(()) => Ok(out.text),
            Err(_) if out.full => Err(FormatError::Large),
            Err(TemplateError::MissingKey { key }) => Err(missing(key, object)),
            Err(error) => Err(FormatError::Filling(error)),
        }
    }
}

fn missing(field: String, object: &Value) -> FormatError {
    let known = object.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
    FormatError::Field { field, known: known.unwrap_or_default().join(", ") }
}

/// Text that does not grow without an end.
#[derive(Debug, Default)]
struct Bounded {
    text: String,
    full: bool,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len() + text.len() > OUTPUT {
            self.full = true;
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

fn lines<T: Serialize>(objects: &[T]) -> Result<String, FormatError> {
    let mut text = String::new();
    for object in objects {
        text += &serde_json::to_string(object)?;
        text.push('\n');
    }
    Ok(text)
}

/// What is in a table's cell.
fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// `\t` and `\n` as a shell leaves them, outside of what Go reads by itself.
fn unescape(source: &str) -> String {
    let mut made = String::with_capacity(source.len());
    let mut rest = source;
    loop {
        let (text, action) = match rest.find("{{") {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        made += &text.replace("\\t", "\t").replace("\\n", "\n");
        let end = action.find("}}").map_or(action.len(), |at| at + 2);
        let (action, after) = action.split_at(end);
        made += action;
        if after.is_empty() {
            return made;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const LIST: List = List {
        fields: &[("ID", "BOX ID"), ("Names", "NAMES"), ("Labels", "LABELS")],
        columns: &["ID", "Names"],
    };

    fn rows() -> Vec<Value> {
        vec![
            json!({"ID": "0123456789", "Names": "web", "Labels": "a=1,b=2"}),
            json!({"ID": "9876543210", "Names": "a-long-name", "Labels": ""}),
        ]
    }

    fn list(format: &str) -> Result<String, FormatError> {
        format.parse::<Format>()?.list(&LIST, &rows())
    }

    fn one(format: &str, object: &Value) -> String {
        match format.parse::<Format>().and_then(|format| format.one(object)) {
            Ok(text) => text.unwrap(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn a_list_is_a_table_json_or_what_a_template_says() {
        let plain = "BOX ID       NAMES\n0123456789   web\n9876543210   a-long-name\n";
        assert_eq!(list("table").unwrap(), plain);
        assert_eq!(
            list("{{.ID}}: {{.Names}}").unwrap(),
            "0123456789: web\n9876543210: a-long-name\n"
        );
        // As a shell passes it on, and as one that knows $'…' does.
        for tab in ["\\t", "\t"] {
            let format = format!("{{{{.Names}}}}{tab}{{{{.ID}}}}");
            assert!(list(&format).unwrap().starts_with("web\t0123456789\n"));
        }
        let table =
            "NAMES         BOX ID   LABELS\nweb           01234    a=1,b=2\na-long-name   98765\n";
        assert_eq!(list("table {{.Names}}\\t{{truncate .ID 5}}\\t{{.Labels}}").unwrap(), table);
        assert_eq!(list("table {{upper .Names}}").unwrap(), "NAMES\nWEB\nA-LONG-NAME\n");
        let json: Vec<Value> =
            list("json").unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(json, rows());
        assert_eq!(list("{{json .}}").unwrap(), list("json").unwrap());
    }

    #[test]
    fn objects_are_told_as_an_array_or_by_a_template() {
        let objects = [json!({"Id": "1", "State": {"ExitCode": 0}}), json!({"Id": "2"})];
        let told = |format: &str| format.parse::<Format>().unwrap().inspect(&objects[..]).unwrap();
        assert!(told("").starts_with("[\n  {\n    \"Id\": \"1\""));
        assert_eq!(told("{{.Id}}"), "1\n2\n");
        assert_eq!(
            told("{{.ID}}{{json .}}").lines().next(),
            Some(r#"1{"Id":"1","State":{"ExitCode":0}}"#)
        );
        assert_eq!(told("json").lines().count(), 2);
    }

    #[test]
    fn what_docker_s_users_write_is_understood() {
        let object = json!({
            "Name": "/web", "Config": {"Labels": {"a": "1"}, "Env": ["A=1", "B=2"], "Cmd": null},
            "State": {"Running": true, "ExitCode": 0, "Health": null}, "Size": 1_500_000u64,
            "NetworkSettings": {"Networks": {"front": {"IPAddress": "10.0.0.2"}, "back": {"IPAddress": "10.1.0.2"}}},
        });
        for (format, expected) in [
            ("{{json .State}}", r#"{"ExitCode":0,"Health":null,"Running":true}"#),
            ("{{json .Config.Env}}", r#"["A=1","B=2"]"#),
            ("{{json .Name}} {{json .Size}}", "\"/web\" 1500000"),
            ("{{join .Config.Env \",\"}}", "A=1,B=2"),
            ("{{index .Config.Labels \"a\"}}-{{index .Config.Labels \"none\"}}", "1-"),
            ("{{len .Config.Env}}{{index .Config.Env 1}}", "2B=2"),
            ("{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "10.1.0.2 10.0.0.2 "),
            (
                "{{range $name, $net := .NetworkSettings.Networks}}{{$name}}={{$net.IPAddress}};{{end}}",
                "back=10.1.0.2;front=10.0.0.2;",
            ),
            ("{{(index .NetworkSettings.Networks \"front\").IPAddress}}", "10.0.0.2"),
            ("{{.NetworkSettings.Networks.front.IPAddress}}", "10.0.0.2"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if eq .State.ExitCode 0}}ok{{end}}{{if ne .Name \"/x\"}}!{{end}}", "ok!"),
            ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
            ("{{upper .Name}}{{lower \"ABC\"}}{{title \"abc d\"}}", "/WEBabcAbc D"),
            ("{{slice .Name 1}}{{truncate .Name 2}}", "web/w"),
            ("{{index (split .Name \"/\") 1}}{{pad \"x\" 1 2}}|{{pad \"\" 1 2}}", "web x  |"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            ("{{printf \"%s %d\" .Name .Size}}", "/web 1500000"),
            ("{{with .State}}{{.ExitCode}}{{end}}{{- /* no more */ -}}", "0"),
            ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ] {
            assert_eq!(one(format, &object), expected, "{format}");
        }
    }

    #[test]
    fn fields_of_an_event_have_both_names_and_its_json_has_one() {
        let event = json!({"status": "die", "id": "ab", "timeNano": 5, "Actor": {"Attributes": {"id": "x"}}});
        assert_eq!(
            one("{{.Status}} {{.ID}} {{.TimeNano}} {{.Actor.Attributes.id}}", &event),
            "die ab 5 x"
        );
        assert_eq!(one("{{json .}}", &event), event.to_string());
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        let object = json!({"Name": "web", "Labels": {}, "List": (0..2000).collect::<Vec<_>>()});
        let told = |format: &str| one(format, &object);
        for (format, words) in [
            ("{{.Nam}}", "there is no field Nam: there are Labels, List, Name"),
            ("{{.Name", "format:1:"),
            ("{{.Name}}\n{{if}}x{{end}}", "format:2:"),
            ("{{frobnicate .Name}}", "frobnicate"),
            ("names", "\"names\" is no format: table, json, or a template"),
            ("{{.Name.First}}", "First"),
            ("{{join .Name \",\"}}", "join"),
            ("{{truncate .Name -1}}", "truncate"),
            ("{{pad .Name 1 1000000000}}", "pad"),
            (
                "{{range .List}}{{range $.List}}{{printf \"%0900d\" 1}}{{end}}{{end}}",
                "bytes of one object",
            ),
            ("{{range .List}}{{range $.List}}{{end}}{{end}}", "range iteration budget"),
            ("{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}", "recursion limit"),
        ] {
            let told = told(format);
            assert!(told.starts_with("error: ") && told.contains(words), "{format}: {told}");
        }
        assert!(
            told(&format!("{}{}", "{{if 1}}".repeat(5000), "{{end}}".repeat(5000)))
                .starts_with("error: ")
        );
        assert!(told(&"{{.Name}}".repeat(10_000)).starts_with("error: a template has at most"));
    }

    proptest! {
        #[test]
        fn any_template_is_filled_in_or_refused(
            parts in prop::collection::vec(prop::sample::select(vec![
                "{{", "}}", "{{.Name}}", "{{range .List}}", "{{end}}", "{{if .Name}}", "{{else}}", "json", " .",
                "|", "\"", "(", ")", "$x", ":=", "slice .Name 1 2", "truncate .Name 1", "\\t", "é", "`", "-}}",
                "{{- ", "pad .Name 9 9", "split .Name \"e\"", "index .List 3", "{{break}}", "{{with .}}", "1e9",
            ]), 0..24),
            rest in ".{0,20}",
        ) {
            let object = json!({"Name": "wéb", "List": [1, "2", null, {"a": [1.5]}]});
            let text = parts.concat() + &rest;
            if let Ok(format) = text.parse::<Format>() {
                let _ = format.one(&object);
                let _ = format.list(&LIST, &[object]);
            }
        }
    }
}
