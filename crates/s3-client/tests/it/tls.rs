//! TLS on the wire: whom the client trusts, and what it says of those it does not.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use sluicefs_s3_client::{
    AwsBucket, Bucket, ClientConfig, CredentialSource, Error, ErrorKind, KeyPrefix, ListPage, ListRequest,
    open,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::canned::{Canned, Transport, reply};

const PAGE: &str =
    "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>";

/// Signs certificates that nobody trusts who was not given its own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: tempfile::NamedTempFile,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of this test");
        let key = KeyPair::generate().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// Its certificate, as a CA bundle.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// What a server with a certificate for `name` accepts connections with, after `edit` changed the certificate.
    pub(crate) fn acceptor(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> TlsAcceptor {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Lists a bucket at a server with this certificate.
async fn list(acceptor: TlsAcceptor, ca_bundle: Option<PathBuf>) -> Result<ListPage, Error> {
    let server = Canned::start_over(Transport::Tls(acceptor), |_| reply(200, "", PAGE)).await;
    let config = ClientConfig {
        endpoint_url: Some(format!("https://localhost:{}", server.addr().port())),
        credentials: CredentialSource::Anonymous,
        ca_bundle,
        ..ClientConfig::default()
    };
    let bucket = AwsBucket::connect("b", &config).await?;
    let page = bucket.list(ListRequest::directory(KeyPrefix::root())).await?;
    assert_eq!(server.requests().len(), 1);
    open::probe(&bucket, &KeyPrefix::root(), config.probe_timeout).await?;
    Ok(page)
}

#[tokio::test]
async fn a_certificate_of_the_bundles_authority_is_trusted() {
    let authority = Authority::new();
    let page = list(authority.acceptor("localhost", |_| {}), Some(authority.bundle())).await;
    assert_eq!(page.unwrap(), ListPage::default());
}

#[tokio::test]
async fn every_other_certificate_is_refused_with_the_remedy() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(2090, 1, 1);
    for (what, acceptor, bundle, remedy) in [
        ("no bundle", authority.acceptor("localhost", |_| {}), None, "--ca-bundle"),
        (
            "another authority",
            authority.acceptor("localhost", |_| {}),
            Some(stranger.bundle()),
            "--ca-bundle",
        ),
        (
            "wrong host",
            authority.acceptor("s3.example.test", |_| {}),
            Some(authority.bundle()),
            "other names",
        ),
        ("expired", authority.acceptor("localhost", expired), Some(authority.bundle()), "has expired"),
        ("too early", authority.acceptor("localhost", early), Some(authority.bundle()), "check the clock"),
    ] {
        let error = list(acceptor, bundle).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::BadEndpoint, Some("UntrustedCertificate")),
            "{what}"
        );
        let text = error.to_string();
        assert!(text.contains(remedy) && !text.contains('\n'), "{what}: {text}");
    }
}
