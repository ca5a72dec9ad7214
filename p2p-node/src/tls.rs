//! TLS 1.3 with raw public keys (RFC 7250) on both sides: the handshake itself proves both ids.
//!
//! No certificates, no names, no resumption and no early data; server name indication is off. Each side
//! presents its Ed25519 key as a SubjectPublicKeyInfo (RFC 8410) and signs the transcript with it. rustls
//! accepts a client that offers no ALPN, so the negotiated protocol is checked here.

use std::io;
use std::sync::Arc;

use p2p_wire::{ALPN, FILES_ALPN, NodeId, SecretKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, PeerIncompatible,
    ServerConfig, SignatureScheme, version,
};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// SubjectPublicKeyInfo of an Ed25519 key up to its 32 bytes (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// PKCS #8 version 1 of an Ed25519 seed up to its 32 bytes (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What a connection is for; agreed by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Node frames.
    Node,
    /// File transfer.
    Files,
}

impl Protocol {
    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Node => ALPN,
            Self::Files => FILES_ALPN,
        }
    }
}

/// TLS over TCP. rustls reads 4 KiB a system call; whoever fetches files reads ahead of it.
pub(crate) type Stream = TlsStream<BufReader<TcpStream>>;

/// What is read ahead below TLS of who sends files to us. It saves 6 % of a receiver's CPU time; 64 KiB saved 4 %.
const READ_AHEAD: usize = 256 * 1024;
/// A read of at least as much as there is room goes past the buffer.
const NO_READ_AHEAD: usize = 1;

/// A connection whose other end has proved its id.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) stream: Stream,
    pub(crate) peer: NodeId,
    pub(crate) protocol: Protocol,
}

impl Secured {
    /// What lies below.
    pub(crate) fn tcp(&self) -> &TcpStream {
        let (below, _) = self.stream.get_ref();
        below.get_ref()
    }
}

/// Both TLS configurations of one identity.
#[derive(Clone)]
pub(crate) struct Tls {
    node: TlsConnector,
    files: TlsConnector,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    pub(crate) fn new(key: &SecretKey) -> Result<Self, rustls::Error> {
        let provider = Arc::new(CryptoProvider {
            // AES first: two to three times ChaCha20 where the processor has AES instructions.
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        });
        let certified = Arc::new(certified_key(key)?);
        let client = |protocol: Protocol| -> Result<TlsConnector, rustls::Error> {
            let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&version::TLS13])?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(RawKeys(Arc::clone(&provider))))
                .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(
                    &certified,
                ))));
            config.alpn_protocols = vec![protocol.alpn().to_vec()];
            config.resumption = Resumption::disabled();
            config.enable_sni = false;
            config.enable_early_data = false;
            Ok(TlsConnector::from(Arc::new(config)))
        };
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(Arc::new(RawKeys(Arc::clone(&provider))))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&certified))));
        server.alpn_protocols = vec![ALPN.to_vec(), FILES_ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;
        Ok(Self {
            node: client(Protocol::Node)?,
            files: client(Protocol::Files)?,
            acceptor: TlsAcceptor::from(Arc::new(server)),
        })
    }

    /// The client's side of the handshake. Who answers is in [`Secured::peer`]; whether that is whom the
    /// caller wanted is the caller's question.
    pub(crate) async fn connect(&self, tcp: TcpStream, protocol: Protocol) -> io::Result<Secured> {
        let (connector, ahead) = match protocol {
            Protocol::Node => (&self.node, NO_READ_AHEAD),
            Protocol::Files => (&self.files, READ_AHEAD),
        };
        // Never sent (no SNI), never checked (raw keys): rustls wants some name.
        let name = ServerName::try_from("p2p.invalid").expect("a constant that is a valid name");
        let stream = TlsStream::from(connector.connect(name, BufReader::with_capacity(ahead, tcp)).await?);
        secured(stream)
    }

    /// The server's side of the handshake.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<Secured> {
        let tcp = BufReader::with_capacity(NO_READ_AHEAD, tcp);
        secured(TlsStream::from(self.acceptor.accept(tcp).await?))
    }
}

fn secured(stream: Stream) -> io::Result<Secured> {
    let (_, session) = stream.get_ref();
    let protocol = match session.alpn_protocol() {
        Some(ALPN) => Protocol::Node,
        Some(FILES_ALPN) => Protocol::Files,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "no protocol was agreed on (ALPN)")),
    };
    let peer = peer_id(session).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the other side showed no Ed25519 raw key")
    })?;
    Ok(Secured { stream, peer, protocol })
}

fn peer_id(session: &CommonState) -> Option<NodeId> {
    let [key] = session.peer_certificates()? else { return None };
    node_id(key)
}

fn node_id(spki: &[u8]) -> Option<NodeId> {
    let key = spki.strip_prefix(&SPKI_PREFIX)?;
    let id = NodeId::from_bytes(key.try_into().ok()?);
    // The signature over the handshake is checked by another library, which may accept small-order keys.
    id.is_valid().then_some(id)
}

fn certified_key(key: &SecretKey) -> Result<CertifiedKey, rustls::Error> {
    let mut pkcs8 = zeroize::Zeroizing::new([0u8; PKCS8_PREFIX.len() + 32]);
    pkcs8[..PKCS8_PREFIX.len()].copy_from_slice(&PKCS8_PREFIX);
    pkcs8[PKCS8_PREFIX.len()..].copy_from_slice(&*key.to_bytes());
    let signer = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))?;
    let mut spki = SPKI_PREFIX.to_vec();
    spki.extend_from_slice(key.id().as_bytes());
    Ok(CertifiedKey::new(vec![CertificateDer::from(spki)], signer))
}

/// Accepts any well-formed Ed25519 raw key that signed the handshake, and nothing else.
#[derive(Debug)]
struct RawKeys(Arc<CryptoProvider>);

impl RawKeys {
    fn check_key(
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        if !intermediates.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        node_id(end_entity).map(drop).ok_or_else(|| CertificateError::BadEncoding.into())
    }

    fn check_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(cert.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.0.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for RawKeys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check_key(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check_key(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
