//! Which images a Dockerfile names. Not a parser: buildah reads the file, and what is missed here is asked of
//! a registry there, as it would be without an image of the store.

use std::collections::BTreeSet;

/// Names after `FROM` and `--from=`, in order, each once; those of stages may be among them.
pub fn names(dockerfile: &str) -> Vec<String> {
    let (mut names, mut known) = (Vec::new(), BTreeSet::new());
    let mut take = |name: &str| {
        if known.insert(name.to_owned()) {
            names.push(name.to_owned());
        }
    };
    for line in dockerfile.lines() {
        let mut words = line.split_whitespace();
        let Some(instruction) = words.next() else { continue };
        if instruction.eq_ignore_ascii_case("FROM") {
            if let Some(name) = words.find(|word| !word.starts_with("--")) {
                take(name);
            }
        } else if instruction.eq_ignore_ascii_case("COPY") {
            words.filter_map(|word| word.strip_prefix("--from=")).for_each(&mut take);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bases_and_sources_are_named() {
        let file = "# FROM no\nARG A=1\nFROM --platform=linux/amd64 debian:12 AS build\nRUN echo FROM x\n\
                    from busybox\nCOPY --from=build /a /b\nCOPY --chown=1 --from=tools:1 /c /d\nFROM busybox\n";
        assert_eq!(names(file), ["debian:12", "busybox", "build", "tools:1"]);
        assert!(names("FROM\nFROM --x\n").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_looked_through(text in "(FROM|COPY|--from=|[a-z \n]){0,40}") {
            let _ = names(&text);
        }
    }
}
