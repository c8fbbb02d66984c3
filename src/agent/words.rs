//! An agent's own words: they end up in messages and records, and are only so long.

/// Most bytes of them: what a person reads.
pub const LIMIT: usize = 2048;

/// The beginning of a text that is longer than that.
pub fn cut(mut text: String) -> String {
    if text.len() > LIMIT {
        let mut end = LIMIT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_stays_and_what_is_long_is_cut_between_two_letters() {
        assert_eq!(cut("short".into()), "short");
        let long = cut("ä€".repeat(LIMIT));
        assert!((LIMIT - 3..=LIMIT + 3).contains(&long.len()), "{}", long.len());
        assert!(long.ends_with('…'));
    }
}
