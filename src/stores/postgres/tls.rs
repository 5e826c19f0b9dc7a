//! Encrypted connections by rustls.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::client;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, ErrorKind, Result};

/// Makes encrypted connections to servers whose certificates the root certificates confirm.
#[derive(Clone)]
pub(super) struct TlsConnector(tokio_rustls::TlsConnector);

/// Makes a connector that trusts these root certificates, in PEM. Without any it confirms no
/// server, and is used for unencrypted connections only.
pub(super) fn connector(root_certificates: Option<&str>) -> Result<TlsConnector> {
    let invalid = |why: String| Error::with_source(ErrorKind::Invalid, "open the store", why);
    let malformed = |source: &dyn std::error::Error| {
        invalid(format!("the root certificates are malformed: {source}"))
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(root_certificates.unwrap_or("").as_bytes()) {
        let certificate = certificate.map_err(|source| malformed(&source))?;
        roots.add(certificate).map_err(|source| malformed(&source))?;
    }
    if root_certificates.is_some() && roots.is_empty() {
        return Err(invalid("the text of root certificates contains none".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|source| invalid(source.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector(Arc::new(config).into()))
}

impl MakeTlsConnect<Socket> for TlsConnector {
    type Stream = EncryptedStream;
    type TlsConnect = ConnectTo;
    type Error = Infallible;

    /// The client calls this for unencrypted connections too, and for Unix sockets without a name.
    fn make_tls_connect(&mut self, host: &str) -> Result<ConnectTo, Infallible> {
        let server = ServerName::try_from(host.to_owned());
        Ok(ConnectTo { connector: self.0.clone(), server })
    }
}

/// Makes one encrypted connection.
pub(super) struct ConnectTo {
    connector: tokio_rustls::TlsConnector,
    server: Result<ServerName<'static>, InvalidDnsNameError>,
}

impl TlsConnect<Socket> for ConnectTo {
    type Stream = EncryptedStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<EncryptedStream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let server = self.server.map_err(io::Error::other)?;
            let stream = self.connector.connect(server, socket).await?;
            Ok(EncryptedStream(Box::new(stream)))
        })
    }
}

pub(super) struct EncryptedStream(Box<client::TlsStream<Socket>>);

impl TlsStream for EncryptedStream {
    /// The certificate is verified, so a binding of the password to it is not needed.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for EncryptedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for EncryptedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(context)
    }
}
