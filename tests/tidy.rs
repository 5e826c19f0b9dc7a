//! Rules for the source tree that a program can check.

#[path = "tidy/pages.rs"]
mod pages;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, from the lowest up. Modules of one layer do not import each other.
const LAYERS: &[&[&str]] = &[
    &["in_place", "sync"],
    &["error"],
    &["clock", "process"],
    &["id", "lifetime"],
    &["event"],
    &["policy"],
    &["data"],
    &["record"],
    &["delta", "list"],
    &["backend"],
    &["batch_pacer"],
    &["stores"],
    &["conformance"],
    &["message"],
    &["cleaner", "cookie", "cross_origin"],
    &["settings"],
    &["context"],
    &["session"],
    &["flash", "csrf"],
    &["manager"],
    &["adapter"],
    &["testing", "web"],
    &["guide"],
];

/// The layers within `stores/sqlite`.
const SQLITE_LAYERS: &[&[&str]] = &[
    &["error"],
    &["file", "record_cache", "sql", "wal"],
    &["references"],
    &["write"],
    &["commit", "migrate", "read_pool"],
    &["store"],
    &["builder", "index"],
    &["admin"],
];

/// The layers within `stores/postgres`.
const POSTGRES_LAYERS: &[&[&str]] = &[
    &["error", "hosts", "tls", "no_tls"],
    &["connection"],
    &["row"],
    &["pool", "sql"],
    &["commit", "migrate"],
    &["store"],
    &["builder", "index"],
    &["admin"],
];

/// Names of types that several modules of `src` declare, and why.
const SHARED_NAMES: &[(&str, &str)] =
    &[("Result", "the alias of the crate, and those of the adapters for handlers")];

/// Words that no text may have, each with its replacement.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("anybody", "any request, any user"),
    ("everybody", "all requests, all users"),
    ("liar", "a store that breaks a guarantee"),
    ("nobody", "no request, no user"),
    ("rung", "called"),
    ("somebody", "a request, a user"),
    ("told", "notified"),
    ("truth", "the stored session, the backing store"),
    ("whoever", "the request that, the user who"),
];

/// The files that may have those words.
const BANNED_WORDS_ALLOWED: &[&str] = &["tests/tidy.rs"];

/// The types whose methods messages and pages name.
const SETTINGS: &[&str] = &[
    "CookieConfig",
    "CookieKeys",
    "CrossOrigin",
    "Lifetime",
    "MemcachedStoreBuilder",
    "Policy",
    "PostgresStoreBuilder",
    "Session",
    "SessionManager",
    "SessionManagerBuilder",
    "SqliteStore",
    "SqliteStoreBuilder",
];

/// The most characters that the name of a test may have.
const LONGEST_TEST_NAME: usize = 60;

/// The most columns that a line may have.
const LONGEST_LINE: usize = 100;

/// Files whose tests may sleep, and why.
const SLEEPERS: &[(&str, &str)] =
    &[("tests/shuttle/scheduled.rs", "it defines sleeping for the scheduler's threads")];

/// The modules that `tests/shuttle` runs with the locks of a scheduler.
const SCHEDULED: &[&str] = &[
    "src/cleaner",
    "src/context",
    "src/session",
    "src/stores/cached",
    "src/stores/sqlite/write",
    "src/sync/handoff.rs",
];

/// What those modules may import from `std::sync`.
const UNSCHEDULED: &[&str] = &["use std::sync::Arc;", "use std::sync::{Arc, OnceLock};"];

/// A file of theirs that may import more: its statics outlive a schedule.
const FILE_WITH_STATICS: &str = "src/context/warnings.rs";

#[test]
fn modules_import_downwards_only() {
    assert_none(&upward_imports("src", "crate::", LAYERS));
    assert_none(&upward_imports("src/stores/sqlite", "crate::stores::sqlite::", SQLITE_LAYERS));
    let postgres = "crate::stores::postgres::";
    assert_none(&upward_imports("src/stores/postgres", postgres, POSTGRES_LAYERS));
}

/// The imports from other layers than lower ones, by the modules of a folder whose paths begin with
/// `root`.
fn upward_imports(folder: &str, root: &str, layers: &[&[&str]]) -> Vec<String> {
    let layer = |module: &str| layers.iter().position(|layer| layer.contains(&module));
    let mut wrong = Vec::new();
    for file in rust_files(folder) {
        let inner = file.name.strip_prefix(folder).unwrap().strip_prefix('/').unwrap();
        // The root names everything; it belongs to no layer.
        if inner == "lib.rs" || inner == "mod.rs" {
            continue;
        }
        let path = module_path(inner);
        let own = path[0];
        let Some(own_layer) = layer(own) else {
            wrong.push(format!("{}: `{own}` has no layer in tests/tidy.rs", file.name));
            continue;
        };
        // As many steps up as the module is deep lead to the root, past the check below.
        let to_the_root = "super::".repeat(path.len());
        for (number, line) in file.code_lines() {
            let mut complain = |what: String| wrong.push(format!("{}:{number}: {what}", file.name));
            if line.contains(&to_the_root) {
                complain("reaches the root by `super`; write `crate::`".to_owned());
            }
            for used in paths_from(root, line) {
                match layer(used) {
                    _ if used == own => {}
                    Some(layer) if layer < own_layer => {}
                    Some(_) => {
                        complain(format!("`{own}` imports upwards, or across, from `{used}`"))
                    }
                    None => complain(format!("`{root}{used}` does not name a module of a layer")),
                }
            }
        }
    }
    wrong
}

#[test]
fn scheduled_modules_take_locks_from_the_crate() {
    let is_scheduled = |file: &Source| {
        file.name != FILE_WITH_STATICS && SCHEDULED.iter().any(|path| file.name.starts_with(path))
    };
    let mut wrong = Vec::new();
    for file in rust_files("src").iter().filter(|file| is_scheduled(file)) {
        for (number, line) in file.code_lines().filter(|(_, line)| !UNSCHEDULED.contains(line)) {
            if line.contains("std::sync::") || line.contains("std::thread") {
                wrong.push(format!("{}:{number}: {line}; write `crate::sync`", file.name));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn conditional_compilation_is_only_on_modules_and_imports() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let lines: Vec<_> = file.lines().filter(|(_, line)| !line.starts_with("//")).collect();
        for (at, (number, line)) in lines.iter().enumerate() {
            let fine = if line.contains("cfg!(") {
                false
            } else if line.contains("cfg_attr(") {
                match file.name.as_str() {
                    "src/lib.rs" => line.starts_with("#![cfg_attr("),
                    // Only rustdoc compiles it.
                    name => name == "src/guide.rs",
                }
            } else if line.contains("cfg(") {
                let item = item_after(&lines[at..]);
                match *line {
                    "#[cfg(test)]" => item == "mod tests {" || item == "mod tests;",
                    _ => {
                        line.starts_with("#[cfg(")
                            && ["mod ", "use ", "compile_error!("]
                                .iter()
                                .any(|start| item.starts_with(start))
                    }
                }
            } else {
                true
            };
            if !fine {
                wrong.push(format!("{}:{number}: {line}", file.name));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn migrations_are_numbered_without_gaps_and_all_are_embedded() {
    for store in ["sqlite", "postgres"] {
        let folder = root().join("migrations").join(store);
        let sources: String =
            rust_files(&format!("src/stores/{store}")).into_iter().map(|file| file.text).collect();
        let mut wrong = Vec::new();
        let mut numbers = Vec::new();
        for path in files(&folder) {
            let name = path.strip_prefix(&folder).unwrap().to_str().unwrap();
            match migration_number(name) {
                Some(number) => numbers.push(number),
                None => wrong.push(format!("{name} is not named V<n>__<name>.sql")),
            }
            let include = format!("include_str!(\"../../../migrations/{store}/{name}\")");
            if !sources.contains(&include) {
                wrong.push(format!("{name} is not embedded in src/stores/{store}: no {include}"));
            }
        }
        assert_none(&wrong);
        numbers.sort_unstable();
        assert!(!numbers.is_empty(), "there is no migration in {}", folder.display());
        assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "the numbers run from 1");
    }
}

#[test]
fn the_changelog_has_a_heading_for_this_version() {
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let found = changelog.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("##") && words.next() == Some(version)
    });
    assert!(found, "CHANGELOG.md has no heading `## {version}`");
}

#[test]
fn no_file_names_a_path_of_the_machine_it_was_written_on() {
    // In two halves, so that this file passes its own test.
    let forbidden = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat(), ["/ho", "me/"].concat()];
    let mut found = Vec::new();
    let folders = ["src", "tests", "examples", "migrations", "crates", "docs", "bench", ".ci"];
    for path in folders.iter().flat_map(|folder| files(&root().join(folder))).chain(pages()) {
        // Binary files are fixtures.
        let Ok(text) = String::from_utf8(fs::read(&path).unwrap()) else { continue };
        for (number, line) in text.lines().enumerate() {
            if forbidden.iter().any(|part| line.contains(part)) {
                found.push(format!("{}:{}: {line}", relative(&path), number + 1));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn no_two_modules_declare_a_type_of_the_same_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in rust_files("src") {
        // Associated types are indented.
        for line in file.text.lines().take_while(|line| *line != "#[cfg(test)]") {
            let item = without_visibility(line);
            for kind in ["struct ", "enum ", "trait ", "type "] {
                let Some(rest) = item.strip_prefix(kind) else { continue };
                let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
                places.entry(name.to_owned()).or_default().push(file.name.clone());
            }
        }
    }
    let is_shared = |name: &str| SHARED_NAMES.iter().any(|(shared, _)| *shared == name);
    places.retain(|name, files| files.len() > 1 && !is_shared(name));
    assert!(places.is_empty(), "{places:#?}");
}

#[test]
fn no_text_has_a_banned_word() {
    let mut wrong = Vec::new();
    for path in ["src", "tests", "crates", "docs"]
        .iter()
        .flat_map(|f| files(&root().join(f)))
        .chain(pages())
    {
        let name = relative(&path);
        if BANNED_WORDS_ALLOWED.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        let Ok(text) = String::from_utf8(fs::read(&path).unwrap()) else { continue };
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            let words: Vec<_> = line.split(|c: char| !c.is_alphabetic()).collect();
            if let Some((word, write)) = BANNED_WORDS.iter().find(|(word, _)| words.contains(word))
            {
                wrong.push(format!("{name}:{}: {word}; write: {write}", number + 1));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn cited_test_files_contain_tests() {
    let mut wrong = Vec::new();
    let others = ["docs/asvs.md", "docs/guarantees.md"];
    for page in ["DESIGN.md", "SECURITY.md", "RELIABILITY.md"].into_iter().chain(others) {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for cited in text.split('`').filter(|cited| cited.ends_with(".rs")) {
            if !cited.starts_with("tests/") || cited.ends_with("/main.rs") {
                continue;
            }
            let test = fs::read_to_string(root().join(cited));
            if !test.is_ok_and(|test| test.contains("#[test]")) {
                wrong.push(format!("{page}: {cited}"));
            }
        }
    }
    assert_none(&wrong);
}

/// Neither the compiler nor rustdoc checks the methods that messages and pages name.
#[test]
fn methods_of_settings_that_texts_name_exist() {
    let sources = rust_files("src");
    let code = |settings: &&'static str| {
        let block = format!("\nimpl {settings} {{");
        let files = sources.iter().filter(|file| file.text.contains(&block));
        (*settings, files.map(|file| file.text.as_str()).collect::<String>())
    };
    let code: BTreeMap<_, _> = SETTINGS.iter().map(code).collect();
    let mut wrong = Vec::new();
    let paths = ["src", "crates", "docs"].iter().flat_map(|folder| files(&root().join(folder)));
    for path in paths.chain(pages()) {
        let Ok(text) = String::from_utf8(fs::read(&path).unwrap()) else { continue };
        for (number, line) in text.lines().enumerate() {
            for word in line.split(|c: char| !c.is_alphanumeric() && !"_:".contains(c)) {
                let names: Vec<_> = word.split("::").collect();
                for pair in names.windows(2) {
                    let (Some(code), method) = (code.get(pair[0]), pair[1]) else { continue };
                    let exists = code.contains(&format!(" fn {method}("))
                        || code.contains(&format!(" fn {method}<"));
                    if method.starts_with(|c: char| c.is_lowercase()) && !exists {
                        wrong.push(format!("{}:{}: {word}", relative(&path), number + 1));
                    }
                }
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn names_of_tests_are_short_and_have_a_subject() {
    let mut wrong = Vec::new();
    for file in ["src", "tests", "crates"].iter().flat_map(|folder| rust_files(folder)) {
        let lines: Vec<_> = file.lines().collect();
        for (at, (number, line)) in lines.iter().enumerate() {
            if !line.ends_with("test]") || !line.starts_with("#[") {
                continue;
            }
            let item = item_after(&lines[at..]);
            let name = item.trim_start_matches("async ").trim_start_matches("fn ");
            let name = name.split('(').next().unwrap();
            if name.len() > LONGEST_TEST_NAME {
                wrong.push(format!("{}:{number}: {} characters: {name}", file.name, name.len()));
            }
            if ["what_", "who_", "it_", "one_that_"].iter().any(|word| name.starts_with(word)) {
                wrong.push(format!("{}:{number}: a name without a subject: {name}", file.name));
            }
        }
    }
    assert_none(&wrong);
}

/// Rustfmt wraps no comment and no string. In a table of Markdown each row is one line.
#[test]
fn lines_of_code_and_comments_have_at_most_100_columns() {
    let mut wrong = Vec::new();
    for file in ["src", "crates/cloakroom-cli/src"].iter().flat_map(|folder| rust_files(folder)) {
        for (number, line) in file.text.lines().enumerate() {
            let is_table_row = ["/// | ", "//! | "].iter().any(|row| line.trim().starts_with(row));
            if line.chars().count() > LONGEST_LINE && !is_table_row {
                wrong.push(format!("{}:{}: {line}", file.name, number + 1));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn no_test_sleeps() {
    let sleep = ["sle", "ep("].concat();
    let mut wrong = Vec::new();
    let cli = rust_files("crates/cloakroom-cli/src").into_iter();
    let cli = cli.chain(rust_files("crates/cloakroom-cli/tests"));
    for file in rust_files("tests").into_iter().chain(rust_files("src")).chain(cli) {
        if SLEEPERS.iter().any(|(name, _)| *name == file.name) {
            continue;
        }
        // In src/ only the unit tests are tests.
        let is_source =
            ["src/", "crates/cloakroom-cli/src/"].iter().any(|f| file.name.starts_with(f));
        let first = if is_source { file.code_lines().count() } else { 0 };
        for (number, line) in file.lines().skip(first).filter(|(_, line)| line.contains(&sleep)) {
            wrong.push(format!("{}:{number}: {line}", file.name));
        }
    }
    assert_none(&wrong);
}

/// A Rust source file: its name from the root of the package, and its text.
struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Its lines, trimmed, numbered from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()))
    }

    /// The lines above its unit tests; those that are comments are empty.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines()
            .take_while(|(_, line)| *line != "#[cfg(test)]")
            .map(|(number, line)| (number, if line.starts_with("//") { "" } else { line }))
    }
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/")
}

/// Every file below a folder, in order; none if there is no such folder. What cargo has built for a
/// package of its own is no source.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| !path.ends_with("target"));
    paths.sort();
    paths
        .into_iter()
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// The pages in the root folder.
fn pages() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "md"))
}

fn rust_files(folder: &str) -> Vec<Source> {
    files(&root().join(folder))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(|path| Source { name: relative(&path), text: fs::read_to_string(&path).unwrap() })
        .collect()
}

/// `stores/memory/mod.rs` holds the module `stores::memory`.
fn module_path(file: &str) -> Vec<&str> {
    file.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect()
}

/// The name after each `root` in a line. A group (`crate::{…}`) yields the empty name, which is of
/// no layer, so that groups are refused.
fn paths_from<'l>(root: &str, line: &'l str) -> impl Iterator<Item = &'l str> {
    line.split(root).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

fn without_visibility(line: &str) -> &str {
    line.strip_prefix("pub").map_or(line, |rest| {
        let rest =
            rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |r| r.1);
        rest.trim_start()
    })
}

/// The item under the attributes that the lines begin with, without its visibility.
fn item_after<'a>(lines: &[(usize, &'a str)]) -> &'a str {
    let mut in_attribute = false;
    for &(_, line) in lines {
        if in_attribute || line.starts_with("#[") {
            in_attribute = !line.ends_with(']');
        } else {
            return without_visibility(line);
        }
    }
    ""
}

/// The number of a migration, if it is named as one.
fn migration_number(file: &str) -> Option<usize> {
    let (number, name) = file.strip_prefix('V')?.strip_suffix(".sql")?.split_once("__")?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let named = !name.is_empty() && name.chars().all(plain);
    // Not `01`: a number has one spelling.
    let number = number.parse().ok().filter(|n: &usize| n.to_string() == number)?;
    named.then_some(number)
}
