//! What is said to a server about who asks: nothing, a name and password, or a registry's token.
//!
//! Owns: the answer to a challenge (RFC 7235; the token protocol of the distribution project). Not: where credentials come
//! from (`keyring`). A password is sent to the realm that a registry names only over TLS, or where plain HTTP is allowed.

use std::collections::BTreeMap;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use crate::artifact::failure::SourceError;
use crate::artifact::keyring::Credential;

use super::{Http, refusal};

/// Longest answer of a token service, bytes. Tokens of large clouds have some kilobytes.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// One conversation with one server about one thing.
#[derive(Debug, Default)]
pub(crate) struct Access {
    credential: Option<Credential>,
    /// `repository:PATH:pull`, for registries.
    scope: Option<String>,
    header: Option<HeaderValue>,
    /// A second challenge after an answer is a refusal, until something was let through.
    answered: bool,
}

impl Access {
    /// To a file: the password goes out with the first question.
    #[must_use]
    pub(crate) fn to_file(credential: Option<&Credential>) -> Self {
        let header = credential.and_then(basic);
        Self { credential: credential.cloned(), scope: None, answered: header.is_some(), header }
    }

    /// To a registry: nothing is said before it asks.
    #[must_use]
    pub(crate) fn to_repository(credential: Option<&Credential>, path: &str) -> Self {
        let scope = Some(format!("repository:{path}:pull"));
        Self { credential: credential.cloned(), scope, header: None, answered: false }
    }

    pub(super) fn header(&self) -> Option<&HeaderValue> {
        self.header.as_ref()
    }

    /// The server let something through: a token that expires later is asked for again.
    pub(crate) fn accepted(&mut self) {
        self.answered = false;
    }

    /// The server wants to know who asks. False: there is nothing (more) to say.
    pub(crate) async fn challenged(
        &mut self,
        http: &Http,
        headers: &HeaderMap,
    ) -> Result<bool, SourceError> {
        if std::mem::replace(&mut self.answered, true) {
            return Ok(false);
        }
        let challenges: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(Challenge::read)
            .collect();
        let bearer = challenges.iter().find(|challenge| challenge.scheme == "bearer");
        if let (Some(bearer), true) = (bearer, self.scope.is_some()) {
            self.header = Some(self.token(http, bearer).await?);
            return Ok(true);
        }
        let is_basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
        self.header = self.credential.as_ref().filter(|_| is_basic).and_then(basic);
        Ok(self.header.is_some())
    }

    async fn token(&self, http: &Http, challenge: &Challenge) -> Result<HeaderValue, SourceError> {
        let realm = challenge.parameters.get("realm").map_or("", String::as_str);
        let protocol = |what: &str| SourceError::Protocol {
            place: format!("the token service {:?}", realm.chars().take(100).collect::<String>()),
            what: what.to_owned(),
        };
        let mut url = Url::parse(realm).map_err(|_| protocol("its realm is no URL"))?;
        http.check(&url)?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = challenge.parameters.get("service") {
                query.append_pair("service", service);
            }
            let scope = challenge.parameters.get("scope").or(self.scope.as_ref());
            if let Some(scope) = scope {
                query.append_pair("scope", scope);
            }
        }
        // The service itself is not asked for a token to ask it with.
        let mut access = Self::to_file(self.credential.as_ref());
        let answer =
            Box::pin(http.ask(&url, "application/json", &mut access, TOKEN_BYTES_MAX)).await?;
        if !answer.status.is_success() {
            return Err(refusal(crate::artifact::source::shown(&url), answer.status, &answer.body));
        }
        let token: Token =
            serde_json::from_slice(&answer.body).map_err(|_| protocol("its answer is no token"))?;
        let token =
            token.token.or(token.access_token).ok_or_else(|| protocol("it gave no token"))?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| protocol("its token cannot be sent"))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn basic(credential: &Credential) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(&credential.basic()).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// One way to identify oneself that a server offers.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    /// Lower case.
    scheme: String,
    /// Names in lower case.
    parameters: BTreeMap<String, String>,
}

impl Challenge {
    /// All challenges of one header: `Bearer realm="…",scope="a,b", Basic realm="…"`.
    fn read(header: &str) -> Vec<Self> {
        let mut challenges: Vec<Self> = Vec::new();
        let mut rest = header.trim();
        while !rest.is_empty() {
            let word_end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
            let (word, after) = rest.split_at(word_end);
            let after = after.trim_start();
            if let Some(value) = after.strip_prefix('=') {
                let (value, tail) = read_value(value.trim_start());
                if let Some(challenge) = challenges.last_mut() {
                    challenge.parameters.insert(word.to_ascii_lowercase(), value);
                }
                rest = tail;
            } else {
                if !word.is_empty() {
                    let scheme = word.to_ascii_lowercase();
                    challenges.push(Self { scheme, parameters: BTreeMap::new() });
                }
                rest = after;
            }
            rest = rest.trim_start_matches([',', ' ']);
        }
        challenges
    }
}

/// A token, or text in quotes with backslashes; and what follows.
fn read_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let shown = |header: &str| {
            let challenges = Challenge::read(header);
            let texts: Vec<String> = challenges
                .iter()
                .map(|challenge| {
                    let parameters: Vec<String> = challenge
                        .parameters
                        .iter()
                        .map(|(name, value)| format!("{name}={value}"))
                        .collect();
                    format!("{}({})", challenge.scheme, parameters.join(" "))
                })
                .collect();
            texts.join(" ")
        };
        for (header, read) in [
            ("", ""),
            ("Basic", "basic()"),
            ("Basic realm=\"a b\"", "basic(realm=a b)"),
            (
                "Bearer realm=\"https://t.example/token\",service=\"r.example\",scope=\"repository:a:pull,push\"",
                "bearer(realm=https://t.example/token scope=repository:a:pull,push service=r.example)",
            ),
            ("BEARER Realm = x , Service=y", "bearer(realm=x service=y)"),
            ("Basic realm=\"a\", Bearer realm=\"b\"", "basic(realm=a) bearer(realm=b)"),
            ("Negotiate, Basic realm=\"q\\\"uote\"", "negotiate() basic(realm=q\"uote)"),
            ("realm=\"nobody's\"", ""),
            ("Bearer realm=\"unended", "bearer(realm=unended)"),
        ] {
            assert_eq!(shown(header), read, "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_is_read_for_ever(header in "[ -~]{0,80}") {
            prop_assert!(Challenge::read(&header).len() <= 80);
        }
    }
}
