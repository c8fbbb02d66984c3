//! What a registry wants to know before it gives anything: a password, or a token of a server that
//! it trusts (docker's token authentication, distribution/docs/spec/auth).

use reqwest::Url;
use serde::Deserialize;

use super::said;

/// Longest token, in bytes.
pub const TOKEN_BYTES: usize = 64 << 10;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// a name and a password with every request
    Basic,
    /// a token
    Bearer {
        /// who gives tokens
        realm: Url,
        /// for whom the token is
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads the values of `WWW-Authenticate`; `plain` says whether the registry itself is spoken to
    /// without TLS.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn parse<'a>(values: impl Iterator<Item = &'a str>, plain: bool) -> Result<Self, String> {
        let mut basic = false;
        for value in values {
            let challenges = http_auth::parse_challenges(value)
                .map_err(|_| format!("its challenge {:?}", said(value)))?;
            for challenge in challenges {
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = true;
                }
                if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                    continue;
                }
                let parameter = |name: &str| {
                    let mut found = challenge.params.iter();
                    let found = found.find(|(known, _)| known.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                let realm = parameter("realm").ok_or("its challenge names no realm")?;
                return Ok(Self::Bearer {
                    realm: check_realm(&realm, plain)?,
                    service: parameter("service"),
                });
            }
        }
        if basic { Ok(Self::Basic) } else { Err("it wants neither a password nor a token".into()) }
    }
}

/// A token server gets the password: only by TLS, unless the registry has none either.
fn check_realm(realm: &str, plain: bool) -> Result<Url, String> {
    let shown = said(realm);
    let url =
        Url::parse(realm).map_err(|_| format!("its token server's address is invalid{shown}"))?;
    match url.scheme() {
        "https" => {}
        "http" if plain => {}
        _ => return Err(format!("its token server is not spoken to by TLS{shown}")),
    }
    if url.username() != "" || url.password().is_some() || url.host_str().is_none() {
        return Err(format!("its token server's address is invalid{shown}"));
    }
    Ok(url)
}

/// What a token server answers.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// The token in a token server's answer.
///
/// # Errors
///
/// What is wrong with it.
pub fn token(answer: &[u8]) -> Result<String, String> {
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|error| format!("the token server's answer is not valid: {error}"))?;
    let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token);
    let token = token.ok_or("the token server gave no token")?;
    let fits = !token.is_empty()
        && token.len() <= TOKEN_BYTES
        && token.bytes().all(|c| c.is_ascii_graphic());
    if fits { Ok(token) } else { Err("the token server's token is not one".to_owned()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(value: &str, plain: bool) -> Result<Challenge, String> {
        Challenge::parse([value].into_iter(), plain)
    }

    #[test]
    fn docker_hub_s_challenge_is_understood() {
        let value = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.docker.io/token".parse().unwrap(),
            service: Some("registry.docker.io".to_owned()),
        };
        assert_eq!(parse(value, false), Ok(expected));
        assert_eq!(parse(r#"Basic realm="x""#, false), Ok(Challenge::Basic));
    }

    #[test]
    fn a_password_goes_nowhere_in_the_clear() {
        let value = r#"Bearer realm="http://tokens.test/x""#;
        assert!(parse(value, false).unwrap_err().contains("TLS"));
        assert!(parse(value, true).is_ok());
        for realm in ["file:///etc/passwd", "https://u:p@host/", "x", "https://"] {
            assert!(parse(&format!("Bearer realm=\"{realm}\""), true).is_err(), "{realm}");
        }
    }

    #[test]
    fn tokens_are_taken_from_both_fields() {
        assert_eq!(token(br#"{"token": "a"}"#).unwrap(), "a");
        assert_eq!(token(br#"{"access_token": "b", "expires_in": 60}"#).unwrap(), "b");
        for answer in ["{}", "[]", "", r#"{"token": "a b"}"#, r#"{"token": "a\nHost: x"}"#] {
            assert!(token(answer.as_bytes()).is_err(), "{answer}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(value in ".{0,200}", plain: bool) {
            let _ = parse(&value, plain);
            let _ = parse(&format!("Bearer realm=\"{value}\""), plain);
            let _ = token(value.as_bytes());
        }
    }
}
