//! How an error is told.

use std::error::Error;

/// An error and its sources in one line. Part of it may be a guest's words: what a terminal would
/// take for more than text is escaped.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    printable(&text)
}

/// Control characters other than a newline or a tab as their escapes.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_words_do_not_reach_the_terminal_as_commands() {
        let error = std::io::Error::other("a\x1b[2Jb\nc\r");
        assert_eq!(chain(&error), "a\\u{1b}[2Jb\nc\\r");
    }

    #[test]
    fn the_whole_chain_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot do it")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("no reason"));
        assert_eq!(chain(&error), "cannot do it: no reason");
    }
}
