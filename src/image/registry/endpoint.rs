//! One host that serves a registry: requests, their redirects and bounds, and who we are to it.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use reqwest::redirect::Policy;
use reqwest::{Body, Client, Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::challenge::{Challenge, token};
use super::hosts::{Place, Settings};
use super::logins::Secret;
use super::patience::{Patience, Told, Verdict};
use super::{RegistryError, said, tls};

/// How long a connection may take to come, and to stand still.
const CONNECT: Duration = Duration::from_secs(30);
const STILL: Duration = Duration::from_secs(60);
/// Redirects that are followed.
const REDIRECTS: usize = 10;
/// Most of an answer of a token server, and of what is said about an error, in bytes.
const ANSWER_BYTES: u64 = 1 << 20;
const ERROR_BYTES: u64 = 64 << 10;

/// A host that serves a registry.
#[derive(Debug)]
pub struct Endpoint {
    place: Place,
    /// `https://HOST/PREFIX/v2/`
    base: Url,
    client: Client,
    secret: Option<Secret>,
    /// What proved to be right, by scope.
    known: Mutex<HashMap<String, HeaderValue>>,
    /// Hears that it is waited for.
    told: Told,
}

/// Makes a body, once for each time that it is sent.
pub(super) type Bodies<'a> = &'a (dyn Fn() -> Body + Sync);

/// A request.
pub(super) struct Call<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<Bodies<'a>>,
    /// For what a token must be good: `repository:NAME:pull`.
    pub scope: &'a str,
    /// What it is about, for who reads of an error.
    pub what: String,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, url: Url, scope: &'a str, what: impl Into<String>) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: None, scope, what: what.into() }
    }

    pub fn header(mut self, name: reqwest::header::HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
}

impl Endpoint {
    /// Makes a client, and finds out whether TLS is spoken where that is not said.
    pub(in crate::image) async fn open(
        place: Place,
        settings: &Settings,
    ) -> Result<Self, RegistryError> {
        let secret = settings.logins.find(&place.host)?;
        Self::with_secret(place, settings, secret).await
    }

    pub(in crate::image) async fn with_secret(
        place: Place,
        settings: &Settings,
        secret: Option<Secret>,
    ) -> Result<Self, RegistryError> {
        let tls = tls::config(&place.host, settings.cert_dir.as_deref(), !place.insecure)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(STILL)
            .user_agent(concat!("ampoule/", env!("CARGO_PKG_VERSION")));
        // As Go's programs: a proxy is for other machines.
        let client = if place.plain && !place.insecure { client.no_proxy() } else { client };
        let client = client.build().map_err(|error| RegistryError::Tls(error.into()))?;
        let base = base(&place, place.scheme.unwrap_or("https"))?;
        let (known, told) = (Mutex::default(), settings.told);
        let mut endpoint = Self { place, base, client, secret, known, told };
        if endpoint.place.plain && endpoint.place.scheme.is_none() {
            endpoint.find_scheme().await?;
        }
        Ok(endpoint)
    }

    /// TLS where it is spoken, and else without. Who shows a wrong certificate is not asked without.
    async fn find_scheme(&mut self) -> Result<(), RegistryError> {
        match self.client.get(self.base.clone()).send().await {
            Ok(_) => Ok(()),
            Err(error) if is_certificate(&error) => Err(self.failed(error)),
            Err(_) => {
                self.base = base(&self.place, "http")?;
                Ok(())
            }
        }
    }

    /// Its name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.place.host
    }

    /// `/v2/PATH` there; the path is made of names that were checked.
    pub(super) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        let joined = self.base.join(path);
        joined.map_err(|_| self.protocol(format!("the address of {path} is invalid")))
    }

    pub(super) fn protocol(&self, problem: impl Into<String>) -> RegistryError {
        RegistryError::Protocol { host: self.place.host.clone(), problem: problem.into() }
    }

    /// Sends a request, follows where it leads to, and says who we are where that is asked. Another
    /// status than a success, or one of `also`, is an error.
    pub(super) async fn send(
        &self,
        call: &Call<'_>,
        also: &[StatusCode],
    ) -> Result<Response, RegistryError> {
        let mut url = call.url.clone();
        let mut asked = false;
        let mut patience = Patience::default();
        for _ in 0..=REDIRECTS {
            let response = loop {
                let response = self.send_once(call, &url).await?;
                if let Some(answer) = self.wait(response, &mut patience, &call.what).await? {
                    break answer;
                }
            };
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                url = self.redirect(&url, &response)?;
                continue;
            }
            if status == StatusCode::UNAUTHORIZED && self.is_own(&url) && !asked {
                asked = true;
                self.answer(call, &response).await?;
                continue;
            }
            if status.is_success() || also.contains(&status) {
                return Ok(response);
            }
            return Err(self.refused(call, response).await);
        }
        Err(self.protocol(format!("it leads from address to address for {}", call.what)))
    }

    /// Waits where it says that it wants to be asked later: nothing then, and else its answer.
    async fn wait(
        &self,
        response: Response,
        patience: &mut Patience,
        what: &str,
    ) -> Result<Option<Response>, RegistryError> {
        match patience.judge(&response, Timestamp::now()) {
            Verdict::Answer => Ok(Some(response)),
            Verdict::Wait(time) => {
                (self.told)(self.host(), time);
                tokio::time::sleep(time).await;
                Ok(None)
            }
            Verdict::TooLong(time) => {
                let said = said(&self.words_of(response).await);
                let (host, what) = (self.place.host.clone(), what.to_owned());
                Err(RegistryError::Busy { host, what, seconds: time.as_secs(), said })
            }
        }
    }

    /// What it says about an error.
    async fn words_of(&self, response: Response) -> String {
        match self.read(response, ERROR_BYTES, "an error").await {
            Ok(body) => words(&body),
            Err(_) => String::new(),
        }
    }

    async fn send_once(&self, call: &Call<'_>, url: &Url) -> Result<Response, RegistryError> {
        let mut request = self.client.request(call.method.clone(), url.clone());
        request = request.headers(call.headers.clone());
        // Only to the registry itself: who it leads to must not learn who we are.
        if self.is_own(url)
            && let Some(known) = self.known(call.scope)
        {
            request = request.header(AUTHORIZATION, known);
        }
        if let Some(body) = call.body {
            request = request.body(body());
        }
        request.send().await.map_err(|error| self.failed(error))
    }

    fn known(&self, scope: &str) -> Option<HeaderValue> {
        let known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.get(scope).cloned()
    }

    fn learn(&self, scope: &str, value: HeaderValue) {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.insert(scope.to_owned(), value);
    }

    /// Whether an address is this registry's.
    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Where an answer leads to: never from TLS to what everybody can read.
    fn redirect(&self, from: &Url, response: &Response) -> Result<Url, RegistryError> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| self.protocol("a redirect leads nowhere"))?;
        self.follow(from, location)
    }

    /// The address `to`, as seen from `from`.
    pub(super) fn follow(&self, from: &Url, to: &str) -> Result<Url, RegistryError> {
        let url = from.join(to);
        let url = url.map_err(|_| self.protocol(format!("a redirect is invalid{}", said(to))))?;
        let fits = url.scheme() == "https" || (url.scheme() == "http" && from.scheme() == "http");
        if fits && url.host_str().is_some() {
            Ok(url)
        } else {
            Err(self.protocol(format!("it leads from TLS to what everybody can read{}", said(to))))
        }
    }

    /// Does what a challenge wants, for the next time.
    async fn answer(&self, call: &Call<'_>, response: &Response) -> Result<(), RegistryError> {
        let values = response.headers().get_all(WWW_AUTHENTICATE);
        let values = values.iter().filter_map(|value| value.to_str().ok());
        let plain = self.base.scheme() == "http";
        let challenge =
            Challenge::parse(values, plain).map_err(|problem| self.protocol(problem))?;
        let value = match challenge {
            Challenge::Basic => match &self.secret {
                Some(Secret::Password { user, password }) => basic(user, password),
                _ => return Err(self.denied(&call.what, "")),
            },
            Challenge::Bearer { realm, service } => {
                format!("Bearer {}", self.token(realm, service, call).await?)
            }
        };
        let value = HeaderValue::from_str(&value);
        let mut value = value.map_err(|_| self.protocol("its token is not one"))?;
        value.set_sensitive(true);
        self.learn(call.scope, value);
        Ok(())
    }

    /// Asks a token server for a token.
    async fn token(
        &self,
        mut realm: Url,
        service: Option<String>,
        call: &Call<'_>,
    ) -> Result<String, RegistryError> {
        let service = service.unwrap_or_default();
        let request = match &self.secret {
            Some(Secret::IdentityToken(token)) => {
                let mut form = reqwest::Url::parse("form:/").map_err(|_| self.protocol("form"))?;
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", &service)
                    .append_pair("scope", call.scope)
                    .append_pair("client_id", "ampoule")
                    .append_pair("refresh_token", token);
                let form = form.query().unwrap_or_default().to_owned();
                let kind = "application/x-www-form-urlencoded";
                self.client.post(realm).header(CONTENT_TYPE, kind).body(form)
            }
            other => {
                let mut query = realm.query_pairs_mut();
                query.append_pair("service", &service);
                if !call.scope.is_empty() {
                    query.append_pair("scope", call.scope);
                }
                if let Some(Secret::Password { user, .. }) = other {
                    query.append_pair("account", user);
                }
                drop(query);
                let request = self.client.get(realm);
                match other {
                    Some(Secret::Password { user, password }) => {
                        request.header(AUTHORIZATION, basic(user, password))
                    }
                    _ => request,
                }
            }
        };
        let mut patience = Patience::default();
        let response = loop {
            // All of it is in memory.
            let again = request.try_clone().ok_or_else(|| self.protocol("a request"))?;
            let response = again.send().await.map_err(|error| self.failed(error))?;
            if let Some(answer) = self.wait(response, &mut patience, "a token").await? {
                break answer;
            }
        };
        let status = response.status();
        let answer = self.read(response, ANSWER_BYTES, "the token").await?;
        match status {
            StatusCode::OK => token(&answer).map_err(|problem| self.protocol(problem)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(self.denied(&call.what, &words(&answer)))
            }
            _ => Err(RegistryError::Status {
                host: self.place.host.clone(),
                status: status.as_u16(),
                what: "a token".to_owned(),
                said: said(&words(&answer)),
            }),
        }
    }

    fn denied(&self, what: &str, words: &str) -> RegistryError {
        RegistryError::Denied {
            host: self.place.host.clone(),
            what: what.to_owned(),
            said: said(words),
            login: self.place.host.clone(),
        }
    }

    /// What an error of a registry means.
    async fn refused(&self, call: &Call<'_>, response: Response) -> RegistryError {
        let status = response.status();
        let words = self.words_of(response).await;
        let (host, what, said) = (self.place.host.clone(), call.what.clone(), said(&words));
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(&what, &words),
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, what, said },
            _ => RegistryError::Status { host, status: status.as_u16(), what, said },
        }
    }

    /// The whole of an answer of at most `limit` bytes.
    pub(super) async fn read(
        &self,
        mut response: Response,
        limit: u64,
        what: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let large = || {
            let (host, what) = (self.place.host.clone(), what.to_owned());
            RegistryError::Large { host, what, limit }
        };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// A failure of the connection. Addresses are left out: where they lead to, they hold secrets.
    pub(super) fn failed(&self, error: reqwest::Error) -> RegistryError {
        let (host, source) = (self.place.host.clone(), error.without_url());
        if is_certificate(&source) {
            RegistryError::Certificate { host, source }
        } else if source.is_connect() {
            RegistryError::Connect { host, source }
        } else {
            RegistryError::Cut { host, source }
        }
    }
}

fn base(place: &Place, scheme: &str) -> Result<Url, RegistryError> {
    let text = format!("{scheme}://{}{}/v2/", place.at, place.prefix);
    Url::parse(&text).map_err(|_| RegistryError::Address(text))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Whether a certificate is why TLS failed.
fn is_certificate(error: &(dyn Error + 'static)) -> bool {
    if matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) {
        return true;
    }
    // An io::Error has what it was made of as its inner error, and not as its source.
    let inner = error.downcast_ref().and_then(std::io::Error::get_ref);
    let inner = inner.map(|inner| inner as &(dyn Error + 'static));
    inner.or_else(|| error.source()).is_some_and(is_certificate)
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<Said>,
    #[serde(default)]
    details: String,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a registry or token server says about an error, as far as it can be told.
fn words(body: &[u8]) -> String {
    let Ok(errors) = serde_json::from_slice::<Errors>(body) else {
        return String::new();
    };
    let first = errors.errors.into_iter().next();
    let first = first.map(|it| if it.message.is_empty() { it.code } else { it.message });
    first.unwrap_or(errors.details)
}
