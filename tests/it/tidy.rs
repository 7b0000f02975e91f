//! Rules of the repository as tests: layout, borders, and documents that tell the truth.
//!
//! Its one rule: each test reads the files as they are; nothing is listed here that a file already lists.

use std::fs;
use std::path::{Path, PathBuf};

use envoy_idempotency::config::MEANINGFUL;
use envoy_idempotency::count::Count;
use envoy_idempotency::credential::CREDENTIALS;
use envoy_idempotency::refusal::ProblemType;
use envoy_idempotency::worker::Gauge;

#[test]
fn every_source_file_says_what_it_is() {
    for file in ["src", "check", "ctl", "dist", "tests"].into_iter().flat_map(sources) {
        let text = read(&file);
        assert!(text.starts_with("//! "), "{} does not open with //!", file.display());
    }
}

#[test]
fn only_the_shell_names_the_host_the_clock_and_randomness() {
    for file in sources("src").iter().filter(|file| !file.starts_with(root().join("src/shell"))) {
        for word in ["proxy_wasm", "SystemTime", "Instant", "unsafe {"] {
            assert!(!read(file).contains(word), "{} names {word}", file.display());
        }
    }
}

#[test]
fn a_module_uses_only_those_declared_before_it() {
    let lib = read(&root().join("src/lib.rs"));
    let ranks: Vec<_> = lib
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    for file in sources("src") {
        let path = file.strip_prefix(root().join("src")).unwrap().with_extension("");
        let module = path.iter().next().unwrap().to_str().unwrap().to_owned();
        let Some(rank) = ranks.iter().position(|name| *name == module) else { continue };
        for used in read(&file).split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if let Some(used_rank) = ranks.iter().position(|name| *name == used) {
                assert!(used_rank <= rank, "{} uses {used}, which stands below it in lib.rs", file.display());
            }
        }
    }
    assert!(
        sources("src/exchange").iter().all(|file| !read(file).contains("crate::store")),
        "the exchange knows the store"
    );
    assert!(
        sources("src/store").iter().all(|file| !read(file).contains("crate::exchange")),
        "a store knows the exchange"
    );
}

/// A file of a folder may name what stands in its `mod.rs`; besides that it uses only those declared above it.
#[test]
fn a_file_of_a_module_uses_only_those_declared_before_it() {
    for folder in ["config", "exchange", "shell", "store", "store/local", "worker"] {
        let list = read(&root().join("src").join(folder).join("mod.rs"));
        let declared = list.lines().map(|line| line.trim_start_matches("pub "));
        let ranks: Vec<_> = declared.filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
        let prefix = format!("crate::{}::", folder.replace('/', "::"));
        for (rank, own) in ranks.iter().enumerate() {
            let Ok(file) = fs::read_to_string(root().join("src").join(folder).join(format!("{own}.rs"))) else {
                assert!(root().join("src").join(folder).join(own).join("mod.rs").exists(), "{folder}/{own}");
                continue;
            };
            let uses = file.split("super::").skip(1).chain(file.split(&prefix).skip(1));
            for used in uses {
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if let Some(used_rank) = ranks.iter().position(|name| *name == used) {
                    assert!(used_rank < rank, "{folder}/{own}.rs uses {used}, which stands below it in mod.rs");
                }
            }
        }
    }
}

#[test]
fn no_file_is_too_long_to_be_read_in_one_go() {
    for file in sources("src") {
        let lines = read(&file).lines().count();
        assert!(lines <= 450, "{} has {lines} lines", file.display());
    }
}

#[test]
fn every_path_and_link_of_the_documents_leads_somewhere() {
    let mut count = 0;
    for document in documents() {
        let (text, folder, shown) = (read(&document), document.parent().unwrap(), document.display());
        for path in text.split('`').skip(1).step_by(2).filter(|word| word.contains('/') && !word.contains([' ', '*'])) {
            let is_path =
                ["check/", "ctl/", "docs/", "src/", "tests/", "envoy/"].iter().any(|folder| path.starts_with(folder));
            assert!(!is_path || root().join(path).exists(), "{shown} names {path}, which does not exist");
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.contains(' ') {
                continue;
            }
            count += 1;
            let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { document.clone() } else { folder.join(path) };
            assert!(target.exists(), "{shown} links to {link}, which does not exist");
            if let Some(anchor) = anchor {
                assert!(
                    anchors(&read(&target)).any(|known| known == anchor),
                    "{shown} links to {link}: no such heading"
                );
            }
        }
    }
    let book = read(&root().join("docs/SUMMARY.md"));
    for page in documents().iter().filter_map(|page| page.strip_prefix(root().join("docs")).ok()) {
        let is_listed = page.ends_with("SUMMARY.md") || book.contains(&format!("({})", page.display()));
        assert!(is_listed, "docs/SUMMARY.md does not list {}", page.display());
    }
    assert!(count > 60, "only {count} links were found");
}

/// What a heading is called in a link: its words in lower case, with dashes between.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        words
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    })
}

#[test]
fn the_readme_is_one_page() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= 150, "README.md has {lines} lines");
}

#[test]
fn the_documents_list_every_envoy_that_is_tested() {
    let makefile = read(&root().join("Makefile"));
    let tested = makefile.lines().find_map(|line| line.strip_prefix("ENVOYS := ")).expect("the Makefile has ENVOYS");
    let rows: String = tested.split(' ').map(|version| format!("| {version} | all pass |\n")).collect();
    let table = format!("| Envoy | tests on it |\n|---|---|\n{rows}\n");
    assert!(
        read(&root().join("docs/compatibility.md")).contains(&table),
        "docs/compatibility.md does not show\n{table}"
    );
}

#[test]
fn what_users_and_developers_read_names_the_actor() {
    // With a blank before it, because the names of tests have it too.
    let words = ["whoever", "somebody", " nobody", "is told", "nothing comes of"];
    let sources = ["src", "check/src", "ctl/src", "dist/src"].into_iter().flat_map(sources);
    let shipped = ["envoy", "deploy"].into_iter().flat_map(|folder| files(folder, "yaml"));
    let others = [root().join("docs/config.schema.json"), root().join("src/store/redis.lua")];
    for file in sources.chain(documents()).chain(shipped).chain(others) {
        let text = read(&file).to_lowercase();
        for word in words {
            assert!(!text.contains(word), "{} says {word:?}", file.display());
        }
    }
}

#[test]
fn make_test_all_runs_every_suite() {
    let makefile = read(&root().join("Makefile"));
    let lists = ["NATIVE := ", "SERVED := ", "CLIENTS := "]
        .map(|list| makefile.lines().find_map(|line| line.strip_prefix(list)));
    let run: Vec<_> = lists.iter().flatten().flat_map(|list| list.split(' ')).collect();
    for folder in [
        "tests",
        "check/tests",
        "ctl/tests",
        "dist/tests",
        "tests/chaos/tests",
        "tests/fuzz/tests",
        "tests/harness/tests",
    ] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let is_suite = path.join("main.rs").exists() || path.extension().is_some_and(|extension| extension == "rs");
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(!is_suite || run.contains(&name), "the Makefile runs no suite {name}");
        }
    }
}

#[test]
fn every_target_that_is_named_is_in_the_makefile() {
    let makefile = read(&root().join("Makefile"));
    let is_target =
        |name: &str| makefile.lines().any(|line| line.split(':').next().unwrap().split(' ').any(|one| one == name));
    let mut count = 0;
    for file in documents().into_iter().chain([".github/workflows/ci.yaml", ".ci/run"].map(|file| root().join(file))) {
        let text = read(&file);
        // In a document between backquotes, elsewhere as a command.
        let is_document = file.extension().is_some_and(|extension| extension == "md");
        let named = text.split(if is_document { "`make " } else { "make " }).skip(1);
        for words in named.map(|rest| rest.split(['`', '\n']).next().unwrap()) {
            for name in words.split(' ').take_while(|word| !word.contains(['=', '#', '<', '"'])) {
                count += 1;
                assert!(is_target(name), "{} names `make {name}`", file.display());
            }
        }
    }
    assert!(count > 40, "only {count} targets were found");
}

#[test]
fn every_test_that_a_document_names_exists() {
    let suites = sources("tests/e2e/black_box");
    for document in suites.into_iter().chain([root().join("SECURITY.md")]) {
        let text = read(&document);
        let mut count = 0;
        for name in text.split('`').filter(|word| word.contains("::") && !word.contains([' ', '\n'])) {
            count += 1;
            let (suite, test) = name.split_once("::").unwrap();
            assert!(is_test(suite, test), "{}: no test {name}", document.display());
        }
        assert!(count > 0, "{} names no test", document.display());
    }
}

/// Whether this suite has a test of this name, behind its modules: `e2e`, `keys::a_key_may_have_255_bytes`.
fn is_test(suite: &str, name: &str) -> bool {
    let (module, test) = name.rsplit_once("::").unwrap_or(("main", name));
    let module = module.replace("::", "/");
    let files = [format!("{module}.rs"), format!("{module}/mod.rs")];
    let folders = ["tests", "check/tests"].map(|tests| root().join(tests).join(suite));
    let files = folders.iter().flat_map(|folder| files.iter().map(|file| folder.join(file)));
    let function = format!("fn {test}(");
    files.filter_map(|file| fs::read_to_string(file).ok()).any(|source| {
        let mut pairs = source.lines().zip(source.lines().skip(1));
        pairs.any(|(attribute, line)| attribute.trim() == "#[test]" && line.trim().starts_with(&function))
    })
}

/// Documents of which each sentence is shown. A line of text ends with a comment that names the tests which show it, as
/// `e2e keys::a_key_can_be_required`, or says that it claims nothing; a table may have one for all its rows behind it.
const SHOWN: [&str; 4] = ["docs/keys.md", "docs/clients.md", "docs/recipes.md", "docs/upstreams.md"];
const NO_CLAIM: &str = "no claim";

#[test]
fn every_claim_names_the_tests_that_show_it_and_they_exist() {
    let mut count = 0;
    for document in SHOWN {
        let text = read(&root().join(document));
        for comment in text.split("<!--").skip(1).filter_map(|rest| rest.split("-->").next()) {
            for name in comment.split(',').map(str::trim).filter(|name| *name != NO_CLAIM) {
                count += 1;
                let (suite, test) = name.split_once(' ').unwrap_or_else(|| panic!("{document}: no suite in {name:?}"));
                assert!(is_test(suite, test), "{document}: no test {name}");
            }
        }
        let unshown = unshown(&text);
        assert!(unshown.is_empty(), "{document}: no test beside\n{}", unshown.join("\n"));
    }
    assert!(count > 150, "only {count} names were found");
}

#[test]
fn a_claim_without_a_test_is_noticed_wherever_it_stands() {
    let table = "| a | b |\n|---|---|\n| row | cell |\n";
    let (shown, other) = ("Text. <!-- e2e a::b -->", "More.");
    for whole in [
        "# Heading",
        "```text\nnot a claim\n```",
        shown,
        &format!("- {shown}\n- {shown}"),
        "A code block: <!-- no claim -->\n\n```sql\nSELECT 1;\n```",
        &format!("{other}\n<!-- e2e a::b -->"),
        &format!("{table}<!-- e2e a::b -->"),
        &format!("{table}\n<!-- e2e a::b -->"),
        &table.replace("cell", shown),
        "[a](b.md)",
        "- [a](b.md)",
    ] {
        assert_eq!(unshown(whole), [""; 0], "{whole}");
    }
    for (text, missing) in [
        (other.to_owned(), other),
        (format!("{shown}\n{other}"), other),
        (format!("- {shown}\n- {other}"), "- More."),
        (table.to_owned(), "| row | cell |"),
        (format!("{}| row | other |", table.replace("cell", shown)), "| row | other |"),
        (format!("{table}\n{shown}"), "| row | cell |"),
        (format!("{table}\n# Heading\n\n<!-- e2e a::b -->"), "| row | cell |"),
        (format!("{other} <!-- a comment that ends -->  before the text does."), ""),
    ] {
        let unshown = unshown(&text);
        assert!(unshown.len() == 1 && unshown[0].starts_with(missing), "{text}: {unshown:?}");
    }
}

/// The lines of a document that claim something and have no comment behind them.
fn unshown(text: &str) -> Vec<&str> {
    let is_comment = |line: &str| line.starts_with("<!--") && line.ends_with("-->");
    let is_link = |line: &str| {
        let line = line.trim_start_matches("- ");
        line.starts_with('[') && line.ends_with(')') && line.matches("](").count() == 1
    };
    let mut is_code = false;
    let lines = text.lines().map(str::trim).filter(|line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    let lines: Vec<_> = lines.collect();
    let mut unshown = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let rest = &lines[number + 1..];
        let is_row = line.starts_with('|');
        let is_head = is_row && (line.starts_with("|---") || rest.first().is_some_and(|next| next.starts_with("|---")));
        if line.is_empty() || line.starts_with('#') || is_head || is_comment(line) || is_link(line) {
            continue;
        }
        // Of a row the comment stands in its last cell, or behind the whole table.
        let line_of_text = line.trim_end_matches('|').trim();
        let behind = rest.iter().find(|next| !(is_row && (next.starts_with('|') || next.is_empty())));
        let is_shown = line_of_text.ends_with("-->") || behind.is_some_and(|next| is_comment(next));
        if !is_shown {
            unshown.push(*line);
        }
    }
    unshown
}

#[test]
fn fingerprints_are_compared_in_constant_time() {
    let source = read(&root().join("src/fingerprint.rs"));
    let (_, compared) = source.split_once("impl PartialEq for Fingerprint {").expect("its comparison is written out");
    assert!(compared.split("\n}").next().unwrap().contains(".ct_eq("));
    let (attributes, _) = source.split_once("pub struct Fingerprint").unwrap();
    let derived = attributes.rsplit("#[derive(").next().unwrap();
    assert!(!derived.contains("PartialEq"), "it is derived: {derived}");
}

#[test]
fn the_readme_shows_the_filter_as_it_is_shipped() {
    let minimal = read(&root().join("envoy/minimal.yaml"));
    assert!(read(&root().join("README.md")).contains(&minimal), "README.md does not quote envoy/minimal.yaml");
}

#[test]
fn the_documents_show_the_store_as_it_is_shipped() {
    let (page, shipped) = (read(&root().join("docs/redis.md")), read(&root().join("envoy/redis.yaml")));
    let (_, section) = page.split_once("\n## What to add\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let lines: Vec<_> = section.split("```").skip(1).step_by(2).flat_map(|block| block.lines().skip(1)).collect();
    assert!(lines.len() > 10);
    for line in lines {
        let is_shipped = shipped.lines().any(|shipped| shipped.trim() == line.trim());
        assert!(is_shipped, "docs/redis.md shows {line:?}, which envoy/redis.yaml does not have");
    }
}

#[test]
fn the_documents_list_every_answer_and_every_counter() {
    let answers = read(&root().join("docs/clients.md"));
    for slug in ProblemType::ALL {
        assert!(answers.contains(&format!("`{}`", slug.as_str())), "docs/clients.md does not show {}", slug.as_str());
        let (named, statuses) =
            (format!("`{}`", slug.as_str()), format!("| {} | {} |", slug.row().classic, slug.row().ietf));
        let is_row = |line: &&str| line.starts_with('|') && line.contains(&named) && line.contains(&statuses);
        assert_eq!(answers.lines().filter(is_row).count(), 1, "docs/clients.md does not show {named} with {statuses}");
    }
    let counters = read(&root().join("docs/operations.md"));
    let counts = Count::of_a_rule().into_iter().chain(Count::of_the_store());
    for name in counts.flat_map(|count| count.metrics("RULE", false)) {
        let family = name.trim_start_matches("idempotency").trim_start_matches(['.', '_']);
        let family = family.split('.').next().unwrap();
        assert!(counters.contains(&format!("`idempotency_{family}`")), "docs/operations.md does not show {family}");
        if name.contains(".outcome.") || name.contains(".reason.") && !name.contains("refused_total") {
            let value = name.rsplit('.').next().unwrap();
            assert!(counters.contains(&format!("`{value}`")), "docs/operations.md does not show {value} of {family}");
        }
    }
    for gauge in Gauge::ALL {
        assert!(counters.contains(&format!("`{}`", gauge.metric())), "docs/operations.md does not show {gauge:?}");
    }
}

#[test]
fn the_documents_list_every_header_that_counts() {
    let page = read(&root().join("docs/keys.md"));
    for (beginning, counting) in
        [("`access-token`,", &CREDENTIALS[..]), ("Headers that say what is to be done", &MEANINGFUL)]
    {
        let line = page.lines().find(|line| line.starts_with(beginning)).expect("docs/keys.md has the list");
        let list = line.split(['.', ';']).next().unwrap_or_default();
        let shown: Vec<_> = list.split('`').skip(1).step_by(2).collect();
        let mut counting = counting.to_vec();
        counting.sort_unstable();
        assert_eq!(shown, counting, "docs/keys.md lists others");
    }
}

#[test]
fn the_changelog_has_one_heading_for_this_version() {
    let heading = format!("\n## {} ", env!("CARGO_PKG_VERSION"));
    assert_eq!(read(&root().join("CHANGELOG.md")).matches(&heading).count(), 1);
}

#[test]
fn nothing_is_left_over() {
    let words = ["TO\u{44}O", "FIX\u{4d}E", "dbg\u{21}(", "todo\u{21}(", "#[ig\u{6e}ore"];
    for file in ["src", "check", "ctl", "dist", "tests"].into_iter().flat_map(sources) {
        for word in words {
            assert!(!read(&file).contains(word), "{} has {word}", file.display());
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document that users and developers read.
fn documents() -> Vec<PathBuf> {
    let folders = [root().to_owned(), root().join("docs"), root().join("docs/deploy")];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
}

/// Every Rust file below this folder.
fn sources(folder: &str) -> Vec<PathBuf> {
    files(folder, "rs")
}

/// Every file with this extension below this folder.
fn files(folder: &str, wanted: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder's entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == wanted) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty());
    found
}
