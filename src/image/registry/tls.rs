//! Whom to trust: the system's authorities, those of the host's owner, or anybody.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::RegistryError;

/// Where docker and podman look for the certificates of a registry, in a folder of its name.
const FOLDERS: [&str; 2] = ["/etc/docker/certs.d", "/etc/containers/certs.d"];

/// How a registry is spoken to by TLS.
///
/// `*.crt` in a folder of certificates are authorities beside the system's (which `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` replace), `*.cert` and `*.key` of one name are who we are.
pub fn config(host: &str, own: Option<&Path>, verify: bool) -> Result<ClientConfig, RegistryError> {
    let tls = |error: Error| RegistryError::Tls(error.into());
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(tls)?;
    let folders: Vec<PathBuf> = match own {
        Some(own) => vec![own.to_owned()],
        None => FOLDERS.iter().map(|folder| Path::new(folder).join(host)).collect(),
    };
    let files = files(&folders, own.is_some())?;
    let builder = if verify {
        builder.with_root_certificates(authorities(&files)?)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    };
    match identity(&files)? {
        Some((certificates, key)) => builder.with_client_auth_cert(certificates, key).map_err(tls),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// The files of these folders; one that is not there has none, unless the user named it.
fn files(folders: &[PathBuf], named: bool) -> Result<Vec<PathBuf>, RegistryError> {
    let mut files = Vec::new();
    for folder in folders {
        match fs::read_dir(folder) {
            Ok(entries) => files.extend(entries.flatten().map(|entry| entry.path())),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named => {}
            Err(error) => return Err(unusable(folder)(error)),
        }
    }
    files.sort();
    Ok(files)
}

fn unusable<E>(path: &Path) -> impl Fn(E) -> RegistryError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| RegistryError::OwnCertificate { path: path.to_owned(), source: source.into() }
}

fn is_a(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn authorities(files: &[PathBuf]) -> Result<RootCertStore, RegistryError> {
    let mut roots = RootCertStore::empty();
    // What of the system's cannot be read makes connections fail, which says so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for path in files.iter().filter(|path| is_a(path, "crt")) {
        let certificates = CertificateDer::pem_file_iter(path).map_err(unusable(path))?;
        for certificate in certificates {
            roots.add(certificate.map_err(unusable(path))?).map_err(unusable(path))?;
        }
    }
    Ok(roots)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(files: &[PathBuf]) -> Result<Option<Identity>, RegistryError> {
    let Some(path) = files.iter().find(|path| is_a(path, "cert")) else {
        return Ok(None);
    };
    let certificates = CertificateDer::pem_file_iter(path).map_err(unusable(path))?;
    let certificates = certificates.collect::<Result<_, _>>().map_err(unusable(path))?;
    let path = path.with_extension("key");
    let key = PrivateKeyDer::from_pem_file(&path).map_err(unusable(&path))?;
    Ok(Some((certificates, key)))
}

/// Takes every certificate: by `--tls-verify=false` alone.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
