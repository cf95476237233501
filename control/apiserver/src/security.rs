//! TLS, and who is let in: a certificate authority of a test's own, client certificates and bearer tokens.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    io::{self, Read, Write},
    net::TcpStream,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> io::Result<Authority> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().map_err(failed)?;
        CertifiedIssuer::self_signed(params, key).map(Authority).map_err(failed)
    }

    /// Its certificate, as PEM.
    pub fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    fn issue(
        &self,
        name: &str,
        hosts: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> io::Result<(rcgen::Certificate, KeyPair)> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.0).map_err(failed)?;
        Ok((certificate, key))
    }

    /// A client's certificate.
    pub fn client(&self, name: &str) -> io::Result<Identity> {
        let (certificate, key) = self.issue(name, &[], ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A server that these names and addresses are of. Clients of this authority's certificates are let in.
    fn server(&self, hosts: &[&str]) -> io::Result<Arc<ServerConfig>> {
        let (certificate, key) =
            self.issue("millrace-apiserver", hosts, ExtendedKeyUsagePurpose::ServerAuth)?;
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.0.as_ref().der().to_vec())).map_err(failed)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(failed)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![CertificateDer::from(certificate.der().to_vec())], key)
            .map_err(failed)?;
        Ok(Arc::new(config))
    }
}

/// Who is let in, and with which certificate we answer.
#[derive(Default)]
pub(crate) struct Door(Mutex<Lock>);

#[derive(Default)]
struct Lock {
    /// None: plain HTTP, and everybody is let in.
    tls: Option<Arc<ServerConfig>>,
    tokens: BTreeSet<String>,
    turned_away: u64,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

impl Door {
    fn lock(&self) -> std::sync::MutexGuard<'_, Lock> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn secure(&self, authority: &Authority, hosts: &[&str]) -> io::Result<()> {
        self.lock().tls = Some(authority.server(hosts)?);
        Ok(())
    }

    pub(crate) fn set_tokens(&self, tokens: &[&str]) {
        self.lock().tokens = tokens.iter().map(|token| (*token).to_owned()).collect();
    }

    pub(crate) fn turned_away(&self) -> u64 {
        self.lock().turned_away
    }

    /// Shakes hands where that is asked for.
    pub(crate) fn enter(&self, stream: TcpStream) -> io::Result<Stream> {
        let Some(config) = self.lock().tls.clone() else { return Ok(Stream::Plain(stream)) };
        let connection = ServerConnection::new(config).map_err(failed)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Stream::Tls(Rc::new(RefCell::new(stream))))
    }

    /// Whether a request may pass: with a certificate, or with a token.
    pub(crate) fn lets_in(&self, stream: &Stream, authorization: &str) -> bool {
        let mut lock = self.lock();
        let certified = match stream {
            Stream::Plain(_) => true,
            Stream::Tls(stream) => stream.borrow().conn.peer_certificates().is_some(),
        };
        let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
        let in_ = certified || lock.tokens.contains(token);
        lock.turned_away += u64::from(!in_);
        in_
    }
}

/// A connection, either way. Clones are handles on the same one.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Rc<RefCell<StreamOwned<ServerConnection, TcpStream>>>),
}

impl Stream {
    pub(crate) fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Plain(stream) => Stream::Plain(stream.try_clone()?),
            Stream::Tls(stream) => Stream::Tls(Rc::clone(stream)),
        })
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => match stream.borrow_mut().read(buffer) {
                // Hung up without a word.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                read => read,
            },
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.borrow_mut().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.borrow_mut().flush(),
        }
    }
}
