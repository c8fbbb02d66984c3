//! What was found about one thing, and how it is told.

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is as it should be.
    Good(String),
    /// It can be lived with; and what mends it.
    Weak(String, &'static str),
    /// Containers cannot be run; and what mends it.
    Bad(String, &'static str),
}

/// Findings that are told under one heading, each with the name of what was looked at.
#[derive(Debug)]
pub struct Group {
    /// Nothing for what comes first.
    pub heading: Option<&'static str>,
    /// Names and findings.
    pub findings: Vec<(String, Finding)>,
}

impl Group {
    /// Findings of things whose names are known beforehand.
    pub fn new<const N: usize>(
        heading: Option<&'static str>,
        findings: [(&str, Finding); N],
    ) -> Self {
        let findings = findings.map(|(name, finding)| (name.to_owned(), finding));
        Self { heading, findings: findings.into() }
    }

    /// Whether containers cannot be run for one of these.
    pub fn is_bad(&self) -> bool {
        self.findings.iter().any(|(_, finding)| matches!(finding, Finding::Bad(..)))
    }

    /// A line for each, and one for what mends it.
    pub fn told(&self) -> String {
        let mut text = String::new();
        if let Some(heading) = self.heading {
            text += &format!("\n{heading}:\n");
        }
        for (name, finding) in &self.findings {
            let (mark, words, mend) = match finding {
                Finding::Good(words) => ("ok  ", words, None),
                Finding::Weak(words, mend) => ("weak", words, Some(mend)),
                Finding::Bad(words, mend) => ("BAD ", words, Some(mend)),
            };
            text += &format!("{mark}  {name}: {words}\n");
            if let Some(mend) = mend {
                text += &format!("      → {mend}\n");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_amiss_is_told_with_what_mends_it() {
        let group = Group::new(
            Some("things"),
            [
                ("one", Finding::Good("there".into())),
                ("two", Finding::Weak("gone".into(), "make it")),
                ("three", Finding::Bad("broken".into(), "mend it")),
            ],
        );
        let told = "\nthings:\nok    one: there\nweak  two: gone\n      → make it\n\
                    BAD   three: broken\n      → mend it\n";
        assert_eq!(group.told(), told);
        assert!(group.is_bad());
    }
}
