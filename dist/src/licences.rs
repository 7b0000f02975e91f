//! The licences of all that is in something that is shipped, each text once.
//!
//! Its one rule: a package whose sources bring no licence is an error, unless a text here stands for it.
//! It does not judge licences: `make lint` does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::crates::{self, Package, WASM};

/// How the files are called that packages bring.
const NAMES: [&str; 5] = ["license", "licence", "copying", "notice", "unlicense"];

/// The text: which packages under what, then each licence with the packages that bring it.
pub fn of(packages: &[Package], target: &str) -> Result<String, String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut list = String::new();
    for package in packages {
        let shown = format!("{} {}", package.name, package.version);
        list.push_str(&format!("{shown}: {}\n", package.licence));
        let is_own = package.checksum.is_none();
        let found = texts_in(if is_own { crates::root() } else { &package.folder })?;
        if found.is_empty() {
            return Err(format!("{shown} brings no licence: its text is wanted for {}", package.licence));
        }
        for text in found {
            texts.entry(text).or_default().push(shown.clone());
        }
    }
    let shown = format!("the standard library of Rust {}", crates::rustc()?);
    let docs = crates::sysroot()?.join("share/doc/rust");
    list.push_str(&format!("{shown}: MIT OR Apache-2.0, and parts of it as its own list says, at the end\n"));
    if target == WASM {
        let name = "wasi-libc, with dlmalloc and parts of musl";
        list.push_str(&format!("{name}: Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT\n"));
        for file in ["LLVM-exception.txt", "Apache-2.0.txt", "MIT.txt"] {
            texts.entry(text(&docs.join("licenses").join(file))?).or_default().push(name.to_owned());
        }
    }
    let mut texts: Vec<_> = texts.into_iter().map(|(text, of)| (of, text)).collect();
    texts.sort();
    let texts = texts.iter().map(|(of, text)| format!("{RULE}\n{}\n\n{text}", of.join(", ")));
    let library = plain(&text(&docs.join("COPYRIGHT-library.html"))?);
    Ok(format!("{list}\n{}{RULE}\n{shown}\n\n{library}", texts.collect::<String>()))
}

/// The licences that lie in this folder.
fn texts_in(folder: &Path) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file());
    let is_licence = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        NAMES.iter().any(|begin| name.starts_with(begin))
    };
    let mut texts = paths.filter(|path| is_licence(path)).map(|path| text(&path)).collect::<Result<Vec<_>, _>>()?;
    texts.sort();
    Ok(texts)
}

/// A text that ends with one line feed, however its file writes them.
fn text(path: &Path) -> Result<String, String> {
    let text = String::from_utf8_lossy(&crate::read(path)?).replace("\r\n", "\n");
    Ok(format!("{}\n", text.trim_end()))
}

/// A page without its markup.
fn plain(page: &str) -> String {
    let body = page.split_once("<body>").map_or(page, |(_, body)| body);
    let text: String = body.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect();
    let text =
        [("&#60;", "<"), ("&#62;", ">"), ("&lt;", "<"), ("&gt;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&amp;", "&")]
            .iter()
            .fold(text, |text, (coded, char)| text.replace(coded, char));
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    let mut kept = String::new();
    for (number, line) in lines.iter().enumerate() {
        if !line.is_empty()
            || number.checked_sub(1).and_then(|before| lines.get(before)).is_some_and(|line| !line.is_empty())
        {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

const RULE: &str = "--------------------------------------------------------------------------------";
