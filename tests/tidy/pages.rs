//! The links of all pages, and what the pages list.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::{LONGEST_LINE, assert_none, files, relative, root, rust_files};

/// The pages whose code the command line compiles, in its `src/readme_doctests.rs`.
const COMPILED_ELSEWHERE: &[&str] = &["docs/commands.md"];

/// A page of Markdown.
struct Page {
    /// Its path from the root of the package.
    name: String,
    text: String,
}

/// A link of a page: the number of its line, from 1, and its target.
struct Link {
    line: usize,
    target: String,
}

#[test]
fn links_and_anchors_of_pages_lead_somewhere() {
    let pages = pages();
    let anchors: BTreeMap<_, _> =
        pages.iter().map(|page| (page.name.clone(), page.anchors())).collect();
    let mut wrong = Vec::new();
    for page in &pages {
        let links = page.links().into_iter().filter(|link| !is_external(&link.target));
        for Link { line, target } in links {
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = match path {
                "" => page.name.clone(),
                _ => resolved(&page.name, path),
            };
            let is_dead = !root().join(&file).exists()
                || !anchor.is_empty()
                    && !anchors.get(&file).is_some_and(|all| all.contains(anchor));
            if is_dead {
                wrong.push(format!("{}:{line}: {target}", page.name));
            }
        }
        wrong.extend(page.undefined_references());
    }
    assert_none(&wrong);
}

/// On docs.rs there are no pages beside the documentation of the crate.
#[test]
fn doc_comments_do_not_link_to_files() {
    let mut wrong = Vec::new();
    for page in doc_comments() {
        for Link { line, target } in page.links() {
            if !is_external(&target) && (target.contains(".md") || target.contains('/')) {
                wrong.push(format!("{}:{line}: {target}", page.name));
            }
        }
    }
    assert_none(&wrong);
}

/// A message names a section as `"Heading" in docs/page.md`.
#[test]
fn sections_that_messages_name_exist() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for file in rust_files("src").into_iter().chain(rust_files("crates/cloakroom-cli/src")) {
        // Without the ends of lines within a message.
        let text: String = file.text.split("\\\n").map(str::trim_start).collect();
        for (at, _) in text.match_indices("\\\" in docs/") {
            let heading = text[..at].rsplit("\\\"").next().unwrap();
            let page = text[at..].split([' ', '"', ',', ';']).nth(3).unwrap();
            checked += 1;
            let lines = fs::read_to_string(root().join(page)).unwrap_or_default();
            let is_heading = |line: &str| line.trim_start_matches('#') == format!(" {heading}");
            if !lines.lines().any(is_heading) {
                wrong.push(format!("{}: \"{heading}\" in {page}", file.name));
            }
        }
    }
    assert_none(&wrong);
    assert!(checked >= 10, "{checked}");
}

#[test]
fn the_readme_has_the_two_commands_of_a_checkout() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for command in ["cargo run --release --features rouille --example rouille", "tests/run.sh"] {
        assert!(readme.lines().any(|line| line == command), "{command}");
    }
}

#[test]
fn files_that_the_readme_links_to_are_in_the_package() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let include = manifest.lines().find(|line| line.starts_with("include = ")).unwrap();
    let included: Vec<_> = include.split('"').skip(1).step_by(2).collect();
    let mut wrong = Vec::new();
    for Link { line, target } in Page::read(&root().join("README.md")).links() {
        let first = format!("/{}", target.split(['/', '#']).next().unwrap());
        let is_included = |pattern: &&&str| match pattern.split_once('*') {
            Some((start, end)) => first.starts_with(start) && first.ends_with(end),
            None => first == **pattern,
        };
        if !is_external(&target) && included.iter().find(is_included).is_none() {
            wrong.push(format!("README.md:{line}: {target}"));
        }
    }
    assert_none(&wrong);
}

/// A program cannot check these here, where there may be no network: `external-links.txt` in
/// `target/tmp` has them for `curl` or a browser.
#[test]
fn external_links_are_listed_and_use_https() {
    let mut external = BTreeMap::new();
    for page in pages().iter().chain(&doc_comments()) {
        for Link { line, target } in page.links().into_iter().filter(|l| is_external(&l.target)) {
            external.entry(target).or_insert_with(|| format!("{}:{line}", page.name));
        }
    }
    let list: String = external.iter().map(|(link, at)| format!("{link} {at}\n")).collect();
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("external-links.txt"), &list).unwrap();
    println!("{list}");
    external.retain(|link, _| !link.starts_with("https://"));
    assert!(external.is_empty(), "{external:#?}");
}

#[test]
fn the_index_of_docs_lists_every_page() {
    let index = Page::read(&root().join("docs/README.md"));
    let listed: BTreeSet<_> =
        index.links().iter().map(|link| resolved(&index.name, &link.target)).collect();
    let mut missing: Vec<_> = pages().into_iter().map(|page| page.name).collect();
    missing.retain(|name| name.starts_with("docs/") && *name != index.name);
    missing.retain(|name| !listed.contains(name));
    assert_none(&missing);
}

#[test]
fn the_guide_has_every_page_of_docs() {
    let guide = fs::read_to_string(root().join("src/guide.rs")).unwrap();
    let mut missing: Vec<_> = pages().into_iter().map(|page| page.name).collect();
    missing.retain(|name| name.starts_with("docs/") && name != "docs/README.md");
    missing.retain(|name| !guide.contains(&format!("\"../{name}\"")));
    assert_none(&missing);
}

#[test]
fn the_comparison_of_the_readme_agrees_with_its_page() {
    let page = Page::read(&root().join("docs/comparison.md")).comparison();
    let mut wrong = Page::read(&root().join("README.md")).comparison();
    assert!(wrong.len() > 40 && page.len() > wrong.len());
    let rows: BTreeSet<_> = page.keys().map(|(row, _)| row).collect();
    // The table of other languages lacks some rows.
    wrong.retain(|at, cell| !rows.contains(&at.0) || page.get(at).is_some_and(|has| has != cell));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn code_on_every_page_is_compiled() {
    let compiled = fs::read_to_string(root().join("src/guide.rs")).unwrap();
    let mut wrong: Vec<_> = pages()
        .into_iter()
        .filter(|page| page.name == "README.md" || page.name.starts_with("docs/"))
        .filter(|page| page.text.lines().any(|line| line.starts_with("```rust")))
        .map(|page| page.name)
        .collect();
    wrong.retain(|name| !compiled.contains(&format!("\"../{name}\"")));
    wrong.retain(|name| !COMPILED_ELSEWHERE.contains(&name.as_str()));
    assert_none(&wrong);
}

#[test]
fn the_page_of_settings_lists_every_setting() {
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut missing = Vec::new();
    for file in rust_files("src") {
        let is_builder = file.name.ends_with("/builder.rs")
            || ["src/cookie/mod.rs", "src/cookie/keys.rs", "src/cross_origin.rs"]
                .contains(&file.name.as_str());
        let code = file.text.split("#[cfg(test)]").next().unwrap();
        // A setter takes the settings and returns them.
        let setters = code.split("\n    pub fn ").skip(1).filter(|function| {
            let signature = function.split('{').next().unwrap();
            (signature.contains("(self") || signature.contains("(mut self"))
                && signature.trim_end().ends_with("-> Self")
        });
        for setter in setters.filter(|_| is_builder) {
            let name = setter.split(['(', '<']).next().unwrap();
            if !page.contains(&format!("`{name}`")) && !page.contains(&format!("`{name}()`")) {
                missing.push(format!("{}: {name}", file.name));
            }
        }
    }
    assert_none(&missing);
}

#[test]
fn both_tables_of_features_agree_with_the_manifest() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let features = manifest.split("\n[features]\n").nth(1).unwrap();
    let features = features.split("\n[").next().unwrap();
    let (_, defaults) = features.split_once("default = ").unwrap();
    let defaults = defaults.lines().next().unwrap();
    let declared: BTreeMap<_, _> = features
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .filter(|(name, _)| *name != "default")
        .map(|(name, _)| (name, defaults.contains(&format!("\"{name}\""))))
        .collect();
    for name in ["src/lib.rs", "docs/platforms.md"] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        let listed: BTreeMap<_, _> = text
            .lines()
            .skip_while(|line| !line.contains("| feature | default | adds |"))
            .skip(2)
            .map_while(|line| line.trim_start_matches("//! ").strip_prefix("| `"))
            .map(|row| {
                let (feature, cells) = row.split_once("` | ").unwrap();
                (feature, cells.starts_with("yes |"))
            })
            .collect();
        assert_eq!(listed, declared, "{name}");
    }
}

/// A figure of a page is "about 25 µs (`merge_1t`)": a time, and the name of its row in bench/figures.
#[test]
fn figures_with_the_name_of_a_row_agree_with_it() {
    let rows = measured_times();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for page in pages() {
        let text = page.text.split_whitespace().collect::<Vec<_>>().join(" ");
        for (at, _) in text.match_indices(" µs (`") {
            let quoted = text[..at].rsplit(' ').next().unwrap();
            let row = text[at..].split('`').nth(1).unwrap();
            let (Ok(figure), Some(time)) = (quoted.parse::<f64>(), rows.get(row)) else { continue };
            checked += 1;
            if (figure / time - 1.0).abs() > 0.15 {
                wrong.push(format!("{}: {figure} µs (`{row}`), measured: {time} µs", page.name));
            }
        }
    }
    assert_none(&wrong);
    assert!(checked >= 3, "{checked}");
}

/// The microseconds of an operation of cloakroom, by the names of the rows in bench/figures.
fn measured_times() -> BTreeMap<String, f64> {
    let paths = files(&root().join("bench/figures"));
    let runs = paths.iter().filter(|path| path.extension().is_some_and(|end| end == "json"));
    let mut times = BTreeMap::new();
    for path in runs {
        let run: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        for figure in run["figures"].as_array().unwrap() {
            let points = figure["points"].as_object().filter(|points| points.len() == 1);
            let only = points.and_then(|points| points.values().next());
            if let Some(time) = figure["microseconds"].get("cloakroom").or(only) {
                let name = figure["name"].as_str().unwrap().to_owned();
                times.insert(name, time.as_f64().unwrap());
            }
        }
    }
    times
}

/// A row of a table is one line, and a long link cannot be broken.
#[test]
fn lines_of_prose_on_pages_have_at_most_100_columns() {
    let mut wrong = Vec::new();
    for page in pages() {
        let lines: Vec<_> = page.text.lines().collect();
        for line in page.prose().into_iter().map(|(number, _)| number) {
            let text = lines[line - 1];
            let is_whole = text.trim_start().starts_with('|') || text.split(' ').count() < 3;
            if text.chars().count() > LONGEST_LINE && !is_whole {
                wrong.push(format!("{}:{line}: {text}", page.name));
            }
        }
    }
    assert_none(&wrong);
}

/// All pages of the repository.
fn pages() -> Vec<Page> {
    let mut folders = vec![root().to_path_buf()];
    let mut pages = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !["target", "node_modules", ".git"].contains(&name.as_str()) {
                folders.push(path);
            } else if name.ends_with(".md") {
                pages.push(Page::read(&path));
            }
        }
    }
    pages
}

/// The documentation in each source file, as a page with its line numbers.
fn doc_comments() -> Vec<Page> {
    let folders = ["src", "crates/cloakroom-cli/src"];
    let sources = folders.iter().flat_map(|folder| files(&root().join(folder)));
    let sources = sources.filter(|path| path.extension().is_some_and(|end| end == "rs"));
    sources
        .map(|path| {
            let Page { name, text } = Page::read(&path);
            let lines = text.lines().map(|line| {
                let line = line.trim_start();
                line.strip_prefix("//!").or_else(|| line.strip_prefix("///")).unwrap_or("")
            });
            Page { name, text: lines.map(|line| format!("{line}\n")).collect() }
        })
        .collect()
}

impl Page {
    fn read(path: &Path) -> Page {
        Page { name: relative(path), text: fs::read_to_string(path).unwrap() }
    }

    /// The cells of its tables of libraries, by the names of their row and column.
    fn comparison(&self) -> BTreeMap<(String, String), String> {
        let mut columns = Vec::new();
        let mut table = BTreeMap::new();
        for line in self.text.lines() {
            let cells: Vec<_> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
            if line.starts_with("| | cloakroom |") {
                columns = cells;
            } else if !line.starts_with('|') {
                columns.clear();
            } else {
                let cell = |(column, cell): (&String, &String)| {
                    ((cells[1].clone(), column.clone()), cell.clone())
                };
                table.extend(columns.iter().zip(&cells).skip(2).map(cell));
            }
        }
        table
    }

    /// The lines outside blocks of code, without code in backticks, numbered from 1.
    fn prose(&self) -> Vec<(usize, String)> {
        let mut in_code = false;
        let mut lines = Vec::new();
        for (at, line) in self.text.lines().enumerate() {
            let is_fence = line.trim_start().starts_with("```");
            in_code ^= is_fence;
            if !in_code && !is_fence {
                lines.push((at + 1, line.split('`').step_by(2).collect::<Vec<_>>().join("`")));
            }
        }
        lines
    }

    /// Links in text, `](target)`, and definitions of references, `[name]: target`.
    fn links(&self) -> Vec<Link> {
        let mut links = Vec::new();
        for (line, text) in self.prose() {
            let inline = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
            let definition = text.trim_start().strip_prefix('[').and_then(|rest| {
                rest.split_once("]: ").filter(|(name, _)| !name.contains(']')).map(|(_, to)| to)
            });
            let targets = inline.chain(definition).map(|target| target.trim().to_owned());
            links.extend(targets.map(|target| Link { line, target }));
        }
        links
    }

    /// The uses of references, `][name]`, that the page does not define.
    fn undefined_references(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (line, text) in self.prose() {
            for rest in text.split("][").skip(1) {
                let name = rest.split(']').next().unwrap();
                if !self.text.contains(&format!("[{name}]: ")) {
                    wrong.push(format!("{}:{line}: [{name}] is not defined", self.name));
                }
            }
        }
        wrong
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        let mut in_code = false;
        for line in self.text.lines() {
            in_code ^= line.trim_start().starts_with("```");
            let heading = line.trim_start_matches('#');
            if in_code || heading.len() == line.len() || !heading.starts_with(' ') {
                continue;
            }
            let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
            let anchor: String = heading.trim().chars().filter(kept).collect();
            let anchor = anchor.to_lowercase().replace(' ', "-");
            let mut unique = anchor.clone();
            for number in 1.. {
                if anchors.insert(unique) {
                    break;
                }
                unique = format!("{anchor}-{number}");
            }
        }
        anchors
    }
}

fn is_external(target: &str) -> bool {
    target.contains("://") || target.starts_with("mailto:")
}

/// The path from the root of the package of a link's target on the page `name`.
fn resolved(name: &str, target: &str) -> String {
    let mut path = PathBuf::new();
    let folder = Path::new(name).parent().unwrap();
    for part in folder.join(target.split('#').next().unwrap()).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{name}: {target} leaves the package"),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path.to_str().unwrap().replace('\\', "/")
}
