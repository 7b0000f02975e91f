//! The module as it is shipped: what it wants of its host, what it offers it, and how large it is.
//!
//! Its one rule: a host function that is not on the list is a host on which the filter does not start. What it exports
//! is what Envoy calls; `make build` takes other callbacks out, and what only they need.

use std::collections::BTreeSet;
use std::fs;

use harness::gateway::filter_wasm;
use harness::ledger::sha256_hex;
use wasmparser::{Parser, Payload};

#[test]
fn the_module_imports_exactly_what_the_list_says() {
    let imports = names(|payload| match payload {
        Payload::ImportSection(section) => section
            .into_imports()
            .map(Result::unwrap)
            .map(|import| format!("{}.{}", import.module, import.name))
            .collect(),
        _ => Vec::new(),
    });
    assert_eq!(imports, lines(include_str!("wasm_imports.txt")));
}

#[test]
fn the_module_exports_exactly_what_the_list_says() {
    let exports = names(|payload| match payload {
        Payload::ExportSection(section) => section.into_iter().map(|export| export.unwrap().name.to_owned()).collect(),
        _ => Vec::new(),
    });
    assert_eq!(exports, lines(include_str!("wasm_exports.txt")));
}

#[test]
fn the_module_is_at_most_640_kib() {
    assert!(module().len() <= 640 << 10, "it is {} bytes", module().len());
}

#[test]
fn the_hash_beside_the_module_is_its_own() {
    let path = filter_wasm().with_extension("wasm.sha256");
    let line =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; `make build` makes it", path.display()));
    assert_eq!(line, format!("{}  envoy_idempotency.wasm\n", sha256_hex(&module())));
}

/// What the sections of the module say.
fn names(said: impl Fn(Payload<'_>) -> Vec<String>) -> BTreeSet<String> {
    Parser::new(0).parse_all(&module()).flat_map(|payload| said(payload.unwrap())).collect()
}

fn lines(list: &str) -> BTreeSet<String> {
    list.lines().map(str::to_owned).collect()
}

fn module() -> Vec<u8> {
    let path = filter_wasm();
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; `make build` makes it", path.display()))
}
