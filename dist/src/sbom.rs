//! What is in something that is shipped, as CycloneDX 1.5.
//!
//! Its one rule: it says only what holds for these bytes on any day: no serial number and no time.
//! It does not know where the packages come from.

use serde_json::{Value, json};

use crate::crates::{Package, WASM};

/// The document; the first package is the thing itself, of which this is the SHA-256.
pub fn of(packages: &[Package], sha256: &str, target: &str, tools: &[(String, String)]) -> String {
    let (own, others) = packages.split_first().map_or((None, packages), |(own, others)| (Some(own), others));
    let tools: Vec<_> = tools
        .iter()
        .map(|(name, version)| json!({ "type": "application", "name": name, "version": version }))
        .collect();
    let mut subject = own.map_or(Value::Null, |own| component(own, "application"));
    subject["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
    let mut components: Vec<_> = others.iter().map(|package| component(package, "library")).collect();
    let rust = tools.iter().find(|tool| tool["name"] == "rustc").map(|tool| tool["version"].clone());
    components.extend(runtime(target, rust.unwrap_or_default()));
    let names: Vec<_> = components.iter().map(|component| component["bom-ref"].clone()).collect();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "tools": { "components": tools },
            "component": subject,
            "properties": [{ "name": "cdx:rustc:target", "value": target }],
        },
        "components": components,
        "compositions": [{ "aggregate": "complete", "assemblies": names }],
    });
    format!("{document:#}\n")
}

/// What comes with the compiler rather than from crates.io.
fn runtime(target: &str, rust: Value) -> Vec<Value> {
    let with_compiler = |name: &str, licence: &str, version: Value| {
        json!({
            "type": "library",
            "bom-ref": format!("rust/{name}"),
            "name": name,
            "version": version,
            "licenses": [{ "expression": licence }],
        })
    };
    let mut components = vec![with_compiler("rust-std", "MIT OR Apache-2.0", rust.clone())];
    if target == WASM {
        components.push(with_compiler("wasi-libc", "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", rust));
    }
    components
}

fn component(package: &Package, kind: &str) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": package.purl(),
        "name": package.name,
        "version": package.version,
        "description": package.description,
        "licenses": [{ "expression": package.licence }],
        "purl": package.purl(),
    });
    if let Some(checksum) = &package.checksum {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}
