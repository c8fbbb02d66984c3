//! What registries and token servers answer: a challenge, a token, a list of manifests; by the first byte.
#![no_main]

use ampoule::image::changes::Change;
use ampoule::image::registry::{Platform, fuzzing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match kind % 5 {
        plain @ 0..=1 => {
            if let Some(realm) = fuzzing::realm(&text, plain == 1) {
                assert!(realm.scheme() == "https" || (plain == 1 && realm.scheme() == "http"));
                assert!(realm.has_host() && realm.username().is_empty());
            }
        }
        2 => {
            if let Some(token) = fuzzing::token_of(rest) {
                assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
        3 => {
            if let Some((_, there)) = fuzzing::chosen(rest, &Platform::default()) {
                assert!(there);
            }
        }
        // Not a registry's, but next to it: the configuration stays an object.
        _ => {
            let mut config = serde_json::json!({});
            if let Ok(change) = text.parse::<Change>() {
                change.apply(&mut config);
            }
            if let Ok(platform) = text.parse::<Platform>() {
                assert_eq!(platform.to_string().parse(), Ok(platform));
            }
            assert!(config.is_object());
        }
    }
});
