//! Encrypted connections.

use cloakroom::backend::Delta;
use cloakroom::{ErrorKind, PostgresStore};
use rcgen::generate_simple_self_signed;

use super::given::all_succeed;
use crate::common::create;
use crate::common::postgres::{Postgres, fresh_table, shared};

/// A certificate for this name and its key, in PEM.
fn certificate(name: &str) -> (String, String) {
    let made = generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A server that has a certificate for its address, and the certificate.
fn encrypted() -> (Postgres, String) {
    let server = Postgres::start();
    let (certificate, key) = certificate("127.0.0.1");
    server.require_encryption(&certificate, &key);
    (server, certificate)
}

#[test]
fn with_root_certificates_every_connection_is_encrypted() {
    let (server, root) = encrypted();
    for url in [server.url(), format!("{}?sslmode=disable", server.url())] {
        let builder = PostgresStore::builder(&url).table(fresh_table());
        let store = builder.root_certificates(&root).open().unwrap();
        let id_hash = create(&store, &Delta::new()).unwrap();
        all_succeed(&store, &id_hash);
        let encrypted = "SELECT count(*), bool_and(ssl) FROM pg_stat_ssl \
                         JOIN pg_stat_activity USING (pid) WHERE application_name = 'cloakroom'";
        assert_eq!(server.sql(encrypted), "1|t");
        drop(store);
        while server.sql(encrypted) != "0|" {}
    }
}

#[test]
fn a_server_with_another_certificate_is_unavailable() {
    let (server, _) = encrypted();
    let (other, _) = certificate("127.0.0.1");
    let error = server.builder().root_certificates(other).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[test]
fn a_server_under_another_name_is_unavailable() {
    let (server, root) = encrypted();
    let url = server.url().replace("127.0.0.1", "localhost");
    let error = PostgresStore::builder(&url).root_certificates(root).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[test]
fn a_server_without_encryption_is_unavailable() {
    let (root, _) = certificate("127.0.0.1");
    let error = shared().builder().root_certificates(root).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[test]
fn malformed_root_certificates_are_refused() {
    let cut = certificate("127.0.0.1").0.replace("MII", "MIA");
    for bad in ["", "nonsense", &cut] {
        let error = shared().builder().root_certificates(bad).open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}: {error}");
    }
}
