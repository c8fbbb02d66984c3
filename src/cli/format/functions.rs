//! What docker adds to the functions of Go's templates.

use std::sync::Arc;

use gotmpl::{Template, TemplateError, Value};

use super::value;

/// Most blanks that `pad` puts on a side.
const BLANKS: usize = 1 << 12;

type Outcome = Result<Value, TemplateError>;

/// Functions for rows.
pub fn filling(template: Template) -> Template {
    template
        .func("json", |args| Ok(text(value::json(one("json", args)?).to_string())))
        .func("join", join)
        .func("split", split)
        .func("lower", |args| Ok(text(word("lower", args, 0)?.to_lowercase())))
        .func("upper", |args| Ok(text(word("upper", args, 0)?.to_uppercase())))
        .func("title", |args| Ok(text(title(word("title", args, 0)?))))
        .func("pad", pad)
        .func("truncate", truncate)
        .func("index", index)
}

/// The same functions for headings, which stay as they are.
pub fn heading(template: Template) -> Template {
    ["json", "join", "split", "lower", "upper", "title", "pad", "truncate", "index"].iter().fold(
        template,
        |template, name| {
            template.func(name, |args| Ok(args.first().cloned().unwrap_or(Value::Nil)))
        },
    )
}

fn text(text: impl AsRef<str>) -> Value {
    Value::String(Arc::from(text.as_ref()))
}

fn wrong(function: &str, wants: &str) -> TemplateError {
    TemplateError::Exec(format!("{function} wants {wants}"))
}

fn one<'a>(function: &str, args: &'a [Value]) -> Result<&'a Value, TemplateError> {
    match args {
        [value] => Ok(value),
        _ => Err(wrong(function, "one value")),
    }
}

/// A text among the arguments.
fn word<'a>(function: &str, args: &'a [Value], at: usize) -> Result<&'a str, TemplateError> {
    args.get(at).and_then(Value::as_str).ok_or_else(|| wrong(function, "a text"))
}

fn number(function: &str, args: &[Value], at: usize) -> Result<usize, TemplateError> {
    let number =
        args.get(at).and_then(Value::as_int).and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| wrong(function, "a number that is not below 0"))
}

/// `join LIST SEPARATOR`
fn join(args: &[Value]) -> Outcome {
    let all = match args.first() {
        Some(Value::List(all)) => all.iter().map(ToString::to_string).collect::<Vec<_>>(),
        Some(Value::Nil) => Vec::new(),
        _ => return Err(wrong("join", "a list")),
    };
    Ok(text(all.join(word("join", args, 1)?)))
}

/// `split TEXT SEPARATOR`
fn split(args: &[Value]) -> Outcome {
    let (whole, separator) = (word("split", args, 0)?, word("split", args, 1)?);
    let parts: Vec<Value> = match separator {
        // As Go's: its characters.
        "" => whole.chars().map(|part| text(part.to_string())).collect(),
        _ => whole.split(separator).map(text).collect(),
    };
    Ok(Value::List(parts.into()))
}

/// Every word with a capital letter.
fn title(words: &str) -> String {
    let mut begins = true;
    let mut made = String::with_capacity(words.len());
    for letter in words.chars() {
        match begins {
            true => made.extend(letter.to_uppercase()),
            false => made.push(letter),
        }
        begins = letter.is_whitespace();
    }
    made
}

/// `pad TEXT BEFORE BEHIND`: so many blanks around it; nothing around nothing.
fn pad(args: &[Value]) -> Outcome {
    let whole = word("pad", args, 0)?;
    let (before, behind) = (number("pad", args, 1)?, number("pad", args, 2)?);
    if before > BLANKS || behind > BLANKS {
        return Err(wrong("pad", &format!("at most {BLANKS} blanks")));
    }
    match whole {
        "" => Ok(text("")),
        whole => Ok(text(format!("{}{whole}{}", " ".repeat(before), " ".repeat(behind)))),
    }
}

/// `truncate TEXT LENGTH`, in characters.
fn truncate(args: &[Value]) -> Outcome {
    let (whole, most) = (word("truncate", args, 0)?, number("truncate", args, 1)?);
    Ok(text(whole.chars().take(most).collect::<String>()))
}

/// Go's; what a map of texts does not have is an empty text in it.
fn index(args: &[Value]) -> Outcome {
    let (mut value, keys) = match args {
        [value, keys @ ..] => (value.clone(), keys),
        [] => return Err(wrong("index", "something to look into")),
    };
    for key in keys {
        let found = value.index(key)?;
        let texts = match &value {
            Value::Map(fields) => fields.values().all(|field| matches!(field, Value::String(_))),
            _ => false,
        };
        value = if texts && matches!(found, Value::Nil) { text("") } else { found };
    }
    Ok(value)
}
