//! The module as it is shipped: what it wants of its host, what it offers it, and how large it is.
//!
//! Its one rule: a host function that is not on the list is a host on which the filter does not start. What it exports
//! is what Envoy calls; `make build` takes the SDK's other callbacks out, and what only they need.

use std::collections::BTreeSet;
use std::fs;

use harness::gateway::filter_wasm;
use harness::ledger::sha256_hex;
use wasmparser::{Parser, Payload};

#[test]
fn the_module_imports_exactly_what_the_list_says() {
    let module = module();
    let mut imports = BTreeSet::new();
    for payload in Parser::new(0).parse_all(&module) {
        if let Payload::ImportSection(section) = payload.unwrap() {
            for import in section.into_imports() {
                let import = import.unwrap();
                imports.insert(format!("{}.{}", import.module, import.name));
            }
        }
    }
    let listed: BTreeSet<_> = include_str!("wasm_imports.txt").lines().map(str::to_owned).collect();
    assert_eq!(imports, listed);
}

#[test]
fn the_module_exports_exactly_what_the_list_says() {
    let module = module();
    let mut exports = BTreeSet::new();
    for payload in Parser::new(0).parse_all(&module) {
        if let Payload::ExportSection(section) = payload.unwrap() {
            exports.extend(section.into_iter().map(|export| export.unwrap().name.to_owned()));
        }
    }
    let listed: BTreeSet<_> = include_str!("wasm_exports.txt").lines().map(str::to_owned).collect();
    assert_eq!(exports, listed);
}

#[test]
fn the_module_is_at_most_512_kib() {
    assert!(module().len() <= 512 << 10, "it is {} bytes", module().len());
}

#[test]
fn the_hash_beside_the_module_is_its_own() {
    let path = filter_wasm().with_extension("wasm.sha256");
    let line =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; `make build` makes it", path.display()));
    assert_eq!(line, format!("{}  envoy_idempotency.wasm\n", sha256_hex(&module())));
}

fn module() -> Vec<u8> {
    let path = filter_wasm();
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; `make build` makes it", path.display()))
}
