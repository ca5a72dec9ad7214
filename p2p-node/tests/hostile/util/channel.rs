//! TLS as a stranger would set it up: anything may be shown, anybody is believed.

use std::net::SocketAddr;
use std::sync::Arc;

use p2p_node::SecretKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert};
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, version,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client};

/// SubjectPublicKeyInfo of an Ed25519 key up to its 32 bytes (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

fn signer(key: &SecretKey) -> Arc<dyn SigningKey> {
    let pkcs8 = [&PKCS8[..], &*key.to_bytes()].concat();
    any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8)).unwrap()
}

pub(crate) fn spki(key: &SecretKey) -> Vec<u8> {
    [&SPKI[..], key.id().as_bytes()].concat()
}

/// The key as its owner shows it.
fn certified(key: &SecretKey) -> Arc<CertifiedKey> {
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki(key))], signer(key)))
}

/// A self-signed X.509 certificate, version 1, nameless, without end.
fn x509(key: &SecretKey) -> Vec<u8> {
    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let len = content.len();
        let mut out = vec![tag];
        match u8::try_from(len) {
            Ok(short @ 0..=0x7f) => out.push(short),
            Ok(long) => out.extend([0x81, long]),
            Err(_) => {
                out.push(0x82);
                out.extend(u16::try_from(len).unwrap().to_be_bytes());
            }
        }
        out.extend(content);
        out
    }
    let algorithm = der(0x30, &[&der(0x06, &[&[0x2b, 0x65, 0x70]])]);
    let nobody = der(0x30, &[]);
    let time = |text: &str| der(0x18, &[text.as_bytes()]);
    let validity = der(0x30, &[&time("20000101000000Z"), &time("99991231235959Z")]);
    let serial = der(0x02, &[&[1]]);
    let body = der(0x30, &[&serial, &algorithm, &nobody, &validity, &nobody, &spki(key)]);
    let signature = signer(key).choose_scheme(&[SignatureScheme::ED25519]).unwrap().sign(&body).unwrap();
    der(0x30, &[&body, &algorithm, &der(0x03, &[&[0], &signature])])
}

/// What a client shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Its raw key, as it should.
    RawKey,
    /// Nothing.
    Nothing,
    /// An X.509 certificate, and it says so.
    X509,
    /// An X.509 certificate where a raw key was promised.
    X509AsRawKey,
    /// Its raw key and somebody else's behind it.
    Chain,
}

/// What a client shows and asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Channel {
    pub(crate) shown: Shown,
    pub(crate) alpn: &'static [&'static [u8]],
}

/// As a node does it.
pub(crate) const CERTIFIED: Channel = Channel { shown: Shown::RawKey, alpn: &[p2p_wire::ALPN] };

impl Channel {
    /// TCP and the client's side of TLS.
    pub(crate) async fn open(
        self,
        addr: SocketAddr,
        key: &SecretKey,
    ) -> std::io::Result<client::TlsStream<TcpStream>> {
        let builder = ClientConfig::builder_with_protocol_versions(&[&version::TLS13])
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = match self.shown {
            Shown::Nothing => builder.with_no_client_auth(),
            Shown::RawKey => builder
                .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(key)))),
            odd => builder.with_client_cert_resolver(Arc::new(Odd(odd, key.clone()))),
        };
        config.alpn_protocols = self.alpn.iter().map(|alpn| alpn.to_vec()).collect();
        config.enable_sni = false;
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("nobody.invalid").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }
}

/// The server's side for a key, as a node does it.
pub(crate) fn server_config(key: &SecretKey) -> ServerConfig {
    let mut config = ServerConfig::builder_with_protocol_versions(&[&version::TLS13])
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(key))));
    config.alpn_protocols = vec![p2p_wire::ALPN.to_vec(), p2p_wire::FILES_ALPN.to_vec()];
    config
}

/// A client with odd papers.
#[derive(Debug)]
struct Odd(Shown, SecretKey);

impl ResolvesClientCert for Odd {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let papers = match self.0 {
            Shown::Chain => vec![spki(&self.1), spki(&super::key(u64::MAX))],
            _ => vec![x509(&self.1)],
        };
        let papers = papers.into_iter().map(CertificateDer::from).collect();
        Some(Arc::new(CertifiedKey::new(papers, signer(&self.1))))
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0 != Shown::X509
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Believes everybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
