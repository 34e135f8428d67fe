//! TLS for those who connect: the server's certificate, its key, and whose certificate a client needs.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, CertificateError, RootCertStore, ServerConfig};

/// The longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The files of a server's TLS, all in PEM.
#[derive(Clone, Debug)]
#[must_use = "nothing is read before `Tls::load`"]
pub struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// The server's certificate, followed by those that vouch for it, and its private key without a password.
    pub fn new(certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        Self { certificate: certificate.as_ref().to_owned(), key: key.as_ref().to_owned(), client_ca: None }
    }

    /// Lets in only clients with a certificate that one of these authorities vouches for. They log in besides.
    pub fn client_ca(mut self, authorities: impl AsRef<Path>) -> Self {
        self.client_ca = Some(authorities.as_ref().to_owned());
        self
    }
}

/// A certificate and its key, for [`ServerBuilder::listen_tls`](super::ServerBuilder::listen_tls): TLS 1.2 and 1.3, by rustls with
/// ring. Clones are the same one.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use homing_broker::server::{Server, Tls, TlsFiles};
///
/// let tls = Tls::load(TlsFiles::new("server.pem", "server.key"))?;
/// let server = Server::builder().listen_tls("127.0.0.1:5671".parse()?, &tls).start()?;
/// println!("amqps://{}", server.tls_addresses()[0]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsFiles>,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// A file cannot be read or holds something else, a certificate is not valid now, or the key is another one's.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let config = configuration(&files)?;
        Ok(Self { files: Arc::new(files), config: Arc::new(RwLock::new(Arc::new(config))) })
    }

    /// Reads the files again. Clients that connect from now on get the new certificate; connections that are open stay.
    ///
    /// # Errors
    /// As [`load`](Self::load). Nothing has changed then.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(configuration(&self.files)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// What begins TLS with a client.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Why a server cannot have this certificate.
#[derive(Debug)]
pub struct TlsError {
    text: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl TlsError {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), source: None }
    }

    fn because(text: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { text: text.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl StdError for TlsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

fn configuration(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&files.certificate)?;
    check_time(&files.certificate, &chain, &provider)?;
    let key = private_key(&files.key)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::because("TLS cannot be used", error))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider).build();
            let unusable = |error| TlsError::because(format!("{} cannot be used", path.display()), error);
            builder.with_client_cert_verifier(verifier.map_err(|error| unusable(Box::new(error)))?)
        }
    };
    builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::new(format!(
            "the private key {} is not the one of the certificate {}",
            files.key.display(),
            files.certificate.display()
        )),
        error => {
            let both = format!("{} and {} cannot be used", files.certificate.display(), files.key.display());
            TlsError::because(both, error)
        }
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error: io::Error| TlsError::because(format!("{} cannot be read", path.display()), error);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    io::Read::read_to_end(&mut io::Read::take(file, LONGEST + 1), &mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(TlsError::new(format!("{} is longer than {LONGEST} bytes", path.display())));
    }
    Ok(bytes)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let damaged = |error: pem::Error| TlsError::because(format!("{} is no PEM", path.display()), error);
    let all: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(damaged)?;
    if all.is_empty() {
        return Err(TlsError::new(format!("{} has no certificate in it; PEM is expected", path.display())));
    }
    Ok(all)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if is_encrypted(&bytes) => TlsError::new(format!(
            "the private key {} has a password; the broker needs it without one, in a file that only its user can read",
            path.display()
        )),
        pem::Error::NoItemsFound => {
            TlsError::new(format!("{} has no private key in it; PEM is expected", path.display()))
        }
        // What is wrong is not shown: it may be a part of the key.
        _ => TlsError::new(format!("{} is no PEM, or was cut", path.display())),
    })
}

/// Whether a key has a password.
fn is_encrypted(pem: &[u8]) -> bool {
    const LABEL: &[u8] = b"BEGIN ENCRYPTED PRIVATE KEY";
    pem.windows(LABEL.len()).any(|part| part == LABEL)
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let unusable = |error| TlsError::because(format!("{} has what is no certificate", path.display()), error);
        roots.add(certificate).map_err(unusable)?;
    }
    Ok(roots)
}

/// That clients will not refuse the certificate because of its time. Whether they trust it is theirs to decide.
fn check_time(path: &Path, chain: &[CertificateDer<'_>], provider: &Arc<CryptoProvider>) -> Result<(), TlsError> {
    let now = UnixTime::now();
    for certificate in chain {
        let mut roots = RootCertStore::empty();
        let damaged = |error| TlsError::because(format!("{} has what is no certificate", path.display()), error);
        roots.add(certificate.clone().into_owned()).map_err(damaged)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let verifier = verifier.map_err(|error| TlsError::because(format!("{}", path.display()), error))?;
        let Ok(name) = ServerName::try_from("localhost") else { continue };
        // The time is looked at first. What else there is to say, the name for example, is the clients' business.
        let verified = verifier.verify_server_cert(certificate, &[], &name, &[], now);
        let Err(rustls::Error::InvalidCertificate(error)) = verified else { continue };
        let text = match error {
            CertificateError::ExpiredContext { not_after, .. } => {
                let ago = now.as_secs().saturating_sub(not_after.as_secs());
                format!("the certificate {} has expired {} ago: clients would refuse it", path.display(), about(ago))
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                let left = not_before.as_secs().saturating_sub(now.as_secs());
                format!("the certificate {} is not valid before {} from now", path.display(), about(left))
            }
            CertificateError::Expired => format!("the certificate {} has expired", path.display()),
            CertificateError::NotValidYet => format!("the certificate {} is not valid yet", path.display()),
            _ => continue,
        };
        return Err(TlsError::new(text));
    }
    Ok(())
}

/// A time as people say it.
fn about(seconds: u64) -> String {
    let time = Duration::from_secs(seconds);
    match seconds / 60 {
        0 => format!("{} s", time.as_secs()),
        minutes @ 1..120 => format!("{minutes} min"),
        minutes @ 120..2880 => format!("{} h", minutes / 60),
        minutes => format!("{} days", minutes / 1440),
    }
}
