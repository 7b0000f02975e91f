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
mod operators;
mod running;
mod shielding;
mod streams;
mod surroundings;
mod tokens;
mod trace;

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
        let errors = self.said("error");
        assert_eq!((self.code, self.err.as_str()), (i32::from(!errors.is_empty()), ""), "{}", self.out);
        errors
    }

    /// The warnings of a file without errors, without the place in front.
    fn warnings(&self) -> Vec<&str> {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.said("warning")
    }

    /// What is said as this, without the place in front.
    fn said(&self, kind: &str) -> Vec<&str> {
        let mark = format!(": {kind}: ");
        self.out.lines().filter_map(|line| line.split_once(mark.as_str())).map(|(_, said)| said).collect()
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

/// What is around the policies stands in every-field.json; each field of a policy has rules of its own.
#[test]
fn every_field_is_told() {
    let schema = fs::read_to_string(root().join("docs/config.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let text = fs::read_to_string(root().join("check/tests/golden/every-field.json")).unwrap();
    let mut document: Value = serde_json::from_str(&text).unwrap();
    let policy = &schema["$defs"]["policy"];
    // A lock wants a key beside it, as the examples of a whole policy have it.
    let properties_of_one = policy["properties"].as_object().unwrap().iter().filter(|(name, _)| *name != "serialize");
    let policies = properties_of_one.flat_map(|(name, node)| fields(&schema, name, node));
    let policies: Vec<_> = policies.chain(policy["examples"].as_array().unwrap().clone()).collect();
    let mut told = every_member_is_told(&document);
    // The other dialect has fields of its own.
    let store = json!({ "type": "redis", "cluster": "c", "username": "u", "password": "p" });
    told.extend(every_member_is_told(&json!({ "store": store })));
    for (index, policy) in policies.iter().enumerate() {
        told.extend(every_member_is_told(&json!({ "policy": policy })));
        let matched = json!({ "methods": ["PUT"], "path": { "exact": format!("/{index}") } });
        let rule = json!({ "name": policy.to_string(), "match": matched, "policy": policy });
        document["rules"].as_array_mut().unwrap().push(rule);
    }
    let whole = check(&document.to_string());
    assert_eq!((whole.code, whole.err.as_str()), (0, ""), "{}", whole.out);
    expect_file!["../golden/every-field.txt"].assert_eq(&only_what_differs(&whole.out));
    let mut known = BTreeSet::new();
    properties(&schema, &mut known);
    told.remove("201");
    assert_eq!(told, known);
}

/// The names of the members of a document, after a look that the report is another one without each.
fn every_member_is_told(document: &Value) -> BTreeSet<String> {
    let whole = check(&document.to_string()).out;
    let names = members(document, "").into_iter().map(|pointer| {
        let mut without = document.clone();
        let (above, name) = pointer.rsplit_once('/').unwrap();
        without.pointer_mut(above).unwrap().as_object_mut().unwrap().remove(name);
        assert_ne!(check(&without.to_string()).out, whole, "nothing is said of {pointer} in {document}");
        name.to_owned()
    });
    names.collect()
}

/// An object with one field, for each value of the field that tells it from its default.
fn fields(schema: &Value, name: &str, node: &Value) -> Vec<Value> {
    let node = node["$ref"].as_str().map_or(node, |target| schema.pointer(target.trim_start_matches('#')).unwrap());
    let values = match (&node["examples"], &node["enum"], &node["properties"], &node["type"][0]) {
        (Value::Array(examples), ..) => examples.clone(),
        (_, Value::Array(words), ..) => words.clone(),
        (_, _, Value::Object(below), _) => below.iter().flat_map(|(name, node)| fields(schema, name, node)).collect(),
        (.., kind) if kind == "boolean" => vec![json!(true), json!(false)],
        (.., kind) if kind == "integer" => vec![node["minimum"].clone()],
        _ => panic!("the schema has no example of {name}"),
    };
    let is_told = |value: &Value| !value.is_null() && *value != node["default"];
    values.into_iter().filter(is_told).map(|value| json!({ name: value })).collect()
}

/// The report without what is said of every rule alike.
fn only_what_differs(report: &str) -> String {
    let (head, rules) = report.split_once("Rule ").unwrap();
    let usual: BTreeSet<_> = said(rules.split("Rule ").next().unwrap()).into_iter().collect();
    let told = rules.split("Rule ").enumerate().map(|(index, rule)| {
        // The rule of one field matches a path of its own, which says nothing of the field.
        let is_of_field = rule.starts_with('{');
        let is_alike = |line: &String| usual.contains(line) || (is_of_field && line.starts_with("  requests"));
        let lines = said(rule).into_iter().filter(|line| index == 0 || !is_alike(line));
        format!("Rule {}", lines.collect::<String>())
    });
    head.to_owned() + &told.collect::<String>()
}

/// What stands under each label, with the label.
fn said(rule: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in rule.split_inclusive('\n') {
        match found.last_mut() {
            Some(last) if line.starts_with("   ") => last.push_str(line),
            _ => found.push(line.to_owned()),
        }
    }
    found
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
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let (command, shown) = block.strip_prefix("console\n$ ").unwrap().split_once('\n').unwrap();
        if let Some(arguments) = command.strip_prefix("target/debug/check-config ") {
            let (plain, quoted): (Vec<_>, Vec<_>) =
                arguments.split('\'').enumerate().partition(|(index, _)| index % 2 == 0);
            let mut quoted = quoted.into_iter().map(|(_, text)| text);
            let mut all: Vec<&str> = Vec::new();
            for (_, words) in plain {
                all.extend(words.split_whitespace());
                all.extend(quoted.next());
            }
            let end = shown.strip_prefix("…\n").unwrap();
            let run = run_with(&all);
            assert!(run.out.ends_with(&format!("\n{end}")), "{}", run.out);
            continue;
        }
        let (before, argument) = command.split_once("make check-config FILE=").unwrap();
        let input = before.split('\'').nth(1).unwrap_or_default();
        assert_eq!(run(argument, input, &[]).out, shown, "{command}");
    }
}
