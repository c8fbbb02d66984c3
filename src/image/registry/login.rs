//! Asks a registry whether it knows a name and a password.

use reqwest::Method;

use super::endpoint::Call;
use super::logins::Secret;
use super::{Endpoint, RegistryError, Settings, block_on};

/// Asks a registry whether it knows this user by this password.
///
/// # Errors
///
/// [`RegistryError::Denied`] if it does not, others if it cannot be asked.
pub fn check_login(
    settings: &Settings,
    host: &str,
    user: &str,
    password: &str,
) -> Result<(), RegistryError> {
    let place = settings.place(host)?;
    let secret = Secret::Password { user: user.to_owned(), password: password.to_owned() };
    block_on(async {
        let endpoint = Endpoint::with_secret(place, settings, Some(secret)).await?;
        let url = endpoint.url("")?;
        let call = Call::new(Method::GET, url, "", format!("the user {user:?}"));
        endpoint.send(&call, &[]).await.map(drop)
    })?
}
