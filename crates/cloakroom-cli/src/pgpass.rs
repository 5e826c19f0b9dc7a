//! The password of a PostgreSQL user, which need not be on the command line: `PGPASSWORD`, or the
//! file `~/.pgpass` (`PGPASSFILE`), as libpq finds them.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use cloakroom::stores::postgres::tokio_postgres::Config;
use cloakroom::stores::postgres::tokio_postgres::config::Host;

/// Returns the password for this database from the environment or the file, if either has it.
pub(crate) fn password(
    config: &Config,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(password) = variable("PGPASSWORD") {
        return Some(password);
    }
    let beside_home = || Some(PathBuf::from(variable("HOME")?).join(".pgpass"));
    let path = variable("PGPASSFILE").map(PathBuf::from).or_else(beside_home)?;
    let file = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    if file.mode() & 0o077 != 0 {
        let path = path.display();
        let _ = writeln!(
            io::stderr(),
            "cloakroom: {path} was ignored, because other users can access it; `chmod 600` it"
        );
        return None;
    }
    let user = config.get_user().map(str::to_owned).or_else(|| variable("USER"));
    find(&fs::read_to_string(path).ok()?, config, user.as_deref().unwrap_or_default())
}

/// Returns the password of the first line that matches any host of the database.
fn find(text: &str, config: &Config, user: &str) -> Option<String> {
    let database = config.get_dbname().unwrap_or(user);
    let port_of = |index: usize| {
        let ports = config.get_ports();
        ports.get(index).or(ports.first()).copied().unwrap_or(5432).to_string()
    };
    let matches = |field: &str, value: &str| field == "*" || field == value;
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let [host, port, of_database, of_user, password] =
            <[String; 5]>::try_from(fields(line)).ok()?;
        let is_host = config.get_hosts().iter().enumerate().any(|(index, named)| {
            let is_named = match named {
                Host::Tcp(name) => matches(&host, name),
                // A socket of the default folder is `localhost` here.
                #[allow(unreachable_patterns, reason = "the other kind exists on Unix only")]
                Host::Unix(path) => matches(&host, &path.to_string_lossy()) || host == "localhost",
            };
            is_named && matches(&port, &port_of(index))
        });
        let is_ours = is_host && matches(&of_database, database) && matches(&of_user, user);
        is_ours.then_some(password)
    })
}

/// Splits a line at its colons. A backslash escapes a colon and itself.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        let escaped = if c == '\\' { characters.next() } else { None };
        match (c, escaped, fields.last_mut()) {
            (':', ..) => fields.push(String::new()),
            (_, Some(escaped), Some(field)) => field.push(escaped),
            (_, None, Some(field)) => field.push(c),
            (.., None) => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, url: &str) -> Option<String> {
        let config: Config = url.parse().unwrap();
        find(text, &config, config.get_user().unwrap_or("ada"))
    }

    #[test]
    fn the_first_matching_line_has_the_password() {
        let text = "# host:5432:app:ada:no\nhost:5433:app:ada:other port\n\
                    host:5432:*:ada:first\n*:*:*:*:any\nmalformed\n";
        assert_eq!(found(text, "postgres://ada@host/app").as_deref(), Some("first"));
        assert_eq!(found(text, "postgres://ada@host:5433/app").as_deref(), Some("other port"));
        assert_eq!(found(text, "postgres://bob@host/app").as_deref(), Some("any"));
        assert_eq!(found("host:5432:app:ada:p", "postgres://ada@other/app"), None);
        assert_eq!(found("b:5432:app:ada:p", "postgres://ada@a,b/app").as_deref(), Some("p"));
    }

    #[test]
    fn colons_and_backslashes_can_be_escaped() {
        let text = r"host:5432:a\:p\\p:ada:a\:b\\c";
        assert_eq!(found(text, r"postgres://ada@host/a%3Ap%5Cp").as_deref(), Some(r"a:b\c"));
    }

    #[test]
    fn a_socket_is_localhost() {
        let text = "localhost:5432:app:ada:p";
        assert_eq!(found(text, "postgres://ada@%2Fvar%2Frun/app").as_deref(), Some("p"));
    }
}
