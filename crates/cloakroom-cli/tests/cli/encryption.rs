//! Encrypted connections to PostgreSQL.

use std::fs;
use std::process::Command;

use crate::common::Folder;
use crate::common::postgres::Postgres;
use crate::fixture::Ran;
use crate::postgres::{done, fails, program};

/// A certificate for the servers of tests, its key, and the folder with their files.
struct Certificate {
    folder: Folder,
}

impl Certificate {
    fn new() -> Self {
        let folder = Folder::new();
        let settings = "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = more\n\
                        [name]\nCN = cloakroom\n\
                        [more]\nsubjectAltName = IP:127.0.0.1\nbasicConstraints = CA:FALSE\n";
        fs::write(folder.path("settings"), settings).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-nodes", "-newkey", "ec"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        openssl.arg("-config").arg(folder.path("settings"));
        openssl.arg("-keyout").arg(folder.path("key"));
        openssl.arg("-out").arg(folder.path("certificate"));
        let made = openssl.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Certificate { folder }
    }

    fn file(&self) -> String {
        self.folder.path("certificate").to_str().unwrap().to_owned()
    }

    /// A server that has this certificate, and accepts encrypted connections only.
    fn server(&self) -> Postgres {
        let [certificate, key] =
            ["certificate", "key"].map(|name| fs::read_to_string(self.folder.path(name)).unwrap());
        let server = Postgres::start();
        server.require_encryption(&certificate, &key);
        server
    }
}

#[test]
fn root_certificates_encrypt_the_connection() {
    let certificate = Certificate::new();
    let server = certificate.server();
    let required = format!("{}?sslmode=require", server.url());
    for (command, url) in [("setup", server.url()), ("stats", required.clone())] {
        done(&url, &[command, "--root-certificates", &certificate.file()]);
    }
    let mut by_variable = program(&required, &["stats"]);
    let ran: Ran = by_variable.env("PGSSLROOTCERT", certificate.file()).output().unwrap().into();
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn without_root_certificates_the_reason_is_named() {
    let server = Certificate::new().server();
    let refused = fails(&server.url(), &["stats"], 1);
    assert!(refused.contains("no encryption"), "{refused}");
    let refused = fails(&format!("{}?sslmode=require", server.url()), &["stats"], 2);
    assert!(refused.contains("--root-certificates"), "{refused}");
}

#[test]
fn a_certificate_of_another_authority_or_name_is_refused() {
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let server = certificate.server();
    let url = format!("{}?sslmode=require", server.url());
    let refused = fails(&url, &["setup", "--root-certificates", &other.file()], 1);
    assert!(refused.contains("certificate"), "{refused}");
    let renamed = url.replace("127.0.0.1", "localhost");
    let refused = fails(&renamed, &["setup", "--root-certificates", &certificate.file()], 1);
    assert!(refused.contains("certificate"), "{refused}");
    done(&url, &["setup", "--root-certificates", &certificate.file()]);
}
