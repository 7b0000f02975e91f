//! The check as an operator runs it: a file in, words and an exit code out.
//!
//! Its one rule: the program itself is run, with nothing in its environment but what a test puts there.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails panics"
)]

mod callers;
mod certificates;
mod clients;
mod credentials;
mod doubts;
mod hops;
mod identity;
mod injectors;
mod inputs;
mod istio;
mod keeper;
mod mutations;
mod neighbours;
mod running;
mod shielding;
mod streams;
mod surroundings;
mod tokens;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use expect_test::expect_file;
use serde_json::{Value, json};

/// What the program said and how it ended.
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    /// The errors about what stands around the filter, without the place in front.
    fn errors(&self) -> Vec<&str> {
        let errors: Vec<_> = self.out.lines().filter_map(|line| line.split_once(": error: ")).map(|it| it.1).collect();
        assert_eq!((self.code, self.err.as_str()), (i32::from(!errors.is_empty()), ""), "{}", self.out);
        errors
    }

    /// The warnings, without the place in front.
    fn warnings(&self) -> Vec<&str> {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.out.lines().filter_map(|line| line.split_once(": warning: ")).map(|(_, warning)| warning).collect()
    }
}

fn run(argument: &str, input: &str, environment: &[(&str, &str)]) -> Run {
    run_all(&[argument], input, environment)
}

fn run_with(arguments: &[&str]) -> Run {
    run_all(arguments, "", &[])
}

fn run_all(arguments: &[&str], input: &str, environment: &[(&str, &str)]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_check-config"));
    command.args(arguments).env_clear().envs(environment.iter().copied()).current_dir(root());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that does not read its input closes it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    Run { code: output.status.code().unwrap(), out, err }
}

fn check(text: &str) -> Run {
    run("-", text, &[])
}

/// A shipped file, changed.
fn check_changed(name: &str, change: impl FnOnce(&mut Value)) -> Run {
    let mut tree = shipped(name);
    change(&mut tree);
    check(&format!("# A file of Envoy's\n---\n{tree}"))
}

fn shipped(name: &str) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(root().join("envoy").join(name)).unwrap()).unwrap()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn listener(tree: &mut Value) -> &mut Value {
    &mut tree["static_resources"]["listeners"][0]
}

fn manager(tree: &mut Value) -> &mut Value {
    &mut listener(tree)["filter_chains"][0]["filters"][0]["typed_config"]
}

fn filters(tree: &mut Value) -> &mut Vec<Value> {
    manager(tree)["http_filters"].as_array_mut().unwrap()
}

fn plugin(tree: &mut Value) -> &mut Value {
    let own = filters(tree).iter_mut().find(|filter| filter["name"] == "idempotency").unwrap();
    &mut own["typed_config"]["config"]
}

fn host(tree: &mut Value) -> &mut Value {
    &mut manager(tree)["route_config"]["virtual_hosts"][0]
}

/// A filter in front of the one that is checked.
fn put_in_front<'a>(tree: &'a mut Value, kind: &str, mut config: Value) -> &'a mut Value {
    config["@type"] = format!("type.googleapis.com/envoy.extensions.filters.http.{kind}.v3.Any").into();
    let filter = json!({ "name": format!("envoy.filters.http.{kind}"), "typed_config": config });
    let own = filters(tree).iter().position(|filter| filter["name"] == "idempotency").unwrap();
    filters(tree).insert(own, filter);
    &mut filters(tree)[own]
}

/// With one filter in front of this document.
fn behind(document: &str, kind: &str, config: Value) -> Run {
    check_changed("local.yaml", |tree| {
        set_document(tree, document);
        put_in_front(tree, kind, config);
    })
}

/// `jwt_authn` with one provider, from which every request must have a token.
fn jwt(provider: Value) -> Value {
    let rules = json!([{ "match": { "prefix": "/" }, "requires": { "provider_name": "main" } }]);
    json!({ "providers": { "main": provider }, "rules": rules })
}

/// A document of which only the scope's callers are set.
fn document_of(callers: Value) -> String {
    json!({ "policy": { "scope": { "caller": callers } } }).to_string()
}

fn set_document(tree: &mut Value, document: &str) {
    plugin(tree)["configuration"]["value"] = document.into();
}

#[test]
fn every_shipped_file_is_told_in_words() {
    let mut count = 0;
    let files = ["envoy", "envoy/presets"].map(|folder| (folder, fs::read_dir(root().join(folder)).unwrap()));
    let files = files.into_iter().flat_map(|(folder, entries)| entries.map(move |entry| (folder, entry.unwrap())));
    for (folder, entry) in files {
        let name = entry.file_name().into_string().unwrap();
        // It starts containers around one of the others.
        if name == "compose.yaml" || entry.path().is_dir() {
            continue;
        }
        let Run { code, out, err } = run(&format!("{folder}/{name}"), "", &[]);
        assert_eq!((code, err.as_str()), (0, ""), "{name}: {out}");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name.replace(".yaml", ".txt"));
        expect_file![golden].assert_eq(&out);
        count += 1;
    }
    assert!(count >= 11);
}

#[test]
fn every_field_is_told() {
    let text = fs::read_to_string(root().join("check/tests/golden/every-field.json")).unwrap();
    let whole = check(&text);
    assert_eq!((whole.code, whole.err.as_str()), (0, ""), "{}", whole.out);
    expect_file!["../golden/every-field.txt"].assert_eq(&whole.out);
    let mut told = told_of(&text);
    // The other dialect has fields of its own.
    let store = json!({ "type": "redis", "cluster": "c", "username": "u", "password": "p" });
    told.extend(told_of(&json!({ "store": store }).to_string()));
    let schema = fs::read_to_string(root().join("docs/config.schema.json")).unwrap();
    let mut known = BTreeSet::new();
    properties(&serde_json::from_str(&schema).unwrap(), &mut known);
    told.remove("201");
    assert_eq!(told, known);
}

/// The fields of this document, of each of which something is told.
fn told_of(text: &str) -> BTreeSet<String> {
    let (whole, document) = (check(text), serde_json::from_str::<Value>(text).unwrap());
    let mut told = BTreeSet::new();
    for pointer in members(&document, "") {
        let mut without = document.clone();
        let (above, name) = pointer.rsplit_once('/').unwrap();
        without.pointer_mut(above).unwrap().as_object_mut().unwrap().remove(name);
        assert_ne!(check(&without.to_string()).out, whole.out, "nothing is said of {pointer}");
        told.insert(name.to_owned());
    }
    told
}

/// The pointers of all members of all objects.
fn members(value: &Value, above: &str) -> Vec<String> {
    match value {
        Value::Array(items) => {
            items.iter().enumerate().flat_map(|(index, item)| members(item, &format!("{above}/{index}"))).collect()
        }
        Value::Object(fields) => {
            let below = |(name, value): (&String, &Value)| {
                let pointer = format!("{above}/{name}");
                let mut found = members(value, &pointer);
                found.push(pointer);
                found
            };
            fields.iter().flat_map(below).collect()
        }
        _ => Vec::new(),
    }
}

/// The names of all fields of a schema.
fn properties(schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| properties(item, found)),
        Value::Object(members) => {
            found.extend(schema["properties"].as_object().into_iter().flat_map(|fields| fields.keys().cloned()));
            members.values().for_each(|member| properties(member, found));
        }
        _ => {}
    }
}

#[test]
fn the_documents_show_what_the_program_says() {
    let page = fs::read_to_string(root().join("docs/check-config.md")).unwrap();
    let blocks: Vec<_> = page.split("```").skip(1).step_by(2).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let (command, shown) = block.strip_prefix("console\n$ ").unwrap().split_once('\n').unwrap();
        let (before, argument) = command.split_once("make check-config FILE=").unwrap();
        let input = before.split('\'').nth(1).unwrap_or_default();
        assert_eq!(run(argument, input, &[]).out, shown, "{command}");
    }
}
