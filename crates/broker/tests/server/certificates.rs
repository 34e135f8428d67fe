//! Certificates for tests, made in the test: no tool has to be there, and an expired one is as easy as another.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What vouches for certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key, as PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// When a certificate is valid.
#[allow(dead_code, reason = "the tests of the command have this file too, and use some of it")]
#[derive(Clone, Copy, Debug)]
pub enum Valid {
    Now,
    Before,
    Later,
}

impl Authority {
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its own certificate, as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `localhost`, which servers and clients can use.
    pub fn issue(&self, valid: Valid) -> Result<Issued> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let (from, until) = match valid {
            Valid::Now => (2000, 4000),
            Valid::Before => (2000, 2001),
            Valid::Later => (3000, 4000),
        };
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        let key = KeyPair::generate()?;
        Ok(Issued { certificate: params.signed_by(&key, &self.0)?.pem(), key: key.serialize_pem() })
    }
}

impl Issued {
    /// Writes both, in place of what was there.
    pub fn write(&self, certificate: &Path, key: &Path) -> std::io::Result<()> {
        std::fs::write(certificate, &self.certificate)?;
        std::fs::write(key, &self.key)
    }
}
